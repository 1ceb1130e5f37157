// What a fused op does around its passes on the device: packed weights, sums of gradients over all edges, one launch
// per order of edges. Torch-free: memory comes from a callable `void* memory(int64_t bytes)` that keeps it until the
// kernels of the call have been queued, aligned to 16 bytes at least.
#pragma once

#include <vector>

#include "core/tile_launch.cuh"

namespace symkern {

// A graph as a device wants it: edges in order of receivers, and the same edges in order of senders.
struct TileGraph {
  int64_t atoms, edges;
  const int64_t *row_ptr, *sender_order, *sender_ptr;

  TileSegments receivers() const { return {row_ptr, atoms, edges}; }
  TileSegments senders() const { return {sender_ptr, atoms, edges}; }
};

// f(B{}...) with the Block for that number type: `rows` of float, products as the caller allows.
template <class B>
struct TileBlock {
  using type = B;
};
template <class S, int rows, class F>
void with_block(bool tf32, const F& f) {
  if constexpr (sizeof(S) == 8) {
    f(TileBlock<GpuBlock<S, TileMath::fma, rows>>{});
  } else if (tf32) {
    f(TileBlock<GpuBlock<S, TileMath::tf32, rows>>{});
  } else {
    f(TileBlock<GpuBlock<S, TileMath::tf32x3, rows>>{});
  }
}

// out (rows, columns) = the sums of all blocks, `stride` numbers apart, in their order; transposed if they are.
template <class S>
SYMKERN_KERNEL SYMKERN_BOUNDS(256)
    add_blocks(const S* sums, int64_t blocks, int64_t stride, int64_t rows, int64_t columns, bool transposed, S* out) {
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * 256 + threadIdx.x; i < rows * columns;
       i += int64_t{256} * gridDim.x) {
    const S* from = sums + (transposed ? i % columns * rows + i / columns : i);
    double sum = 0;
    for (int64_t b = 0; b < blocks; ++b) sum += from[b * stride];
    out[i] = static_cast<S>(sum);
  }
}

// An order of edges of which every element may be used.
SYMKERN_KERNEL SYMKERN_BOUNDS(256) copy_order(const int64_t* from, int64_t edges, int64_t* to) {
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * 256 + threadIdx.x; i < edges; i += int64_t{256} * gridDim.x) {
    to[i] = static_cast<uint64_t>(from[i]) < static_cast<uint64_t>(edges) ? from[i] : 0;
  }
}

// A sum over all edges: where a pass has the pointer to it, which is null if it is not asked for. The pass adds to
// (rows, columns), or to the transpose of that.
template <class S>
struct TileSum {
  S** where;
  int64_t rows, columns;
  bool transposed;
};

template <class S, class Memory>
class TileCall {
 public:
  TileCall(Memory& memory, gpu::Stream stream) : memory_(memory), stream_(stream) {}

  S* numbers(int64_t count) { return static_cast<S*>(memory_(count * static_cast<int64_t>(sizeof(S)))); }
  void clear(S* p, int64_t count) const {
    if (p != nullptr) gpu::memset_async(p, 0, static_cast<std::size_t>(count) * sizeof(S), stream_);
  }

  // Weights of nn.Linear (outputs, inputs) as right sides of products: rows (n, inputs) -> (n, outputs), and the
  // transpose of that with its columns padded to 16; null for null.
  template <class B>
  TileWeight<S> packed(const S* weight, int64_t outputs, int64_t inputs) {
    return pack<B>(weight, 1, inputs, inputs, outputs);
  }
  template <class B>
  TileWeight<S> transposed(const S* weight, int64_t outputs, int64_t inputs) {
    return pack<B>(weight, inputs, 1, outputs, inputs);
  }
  // The transpose as plain rows, (inputs, outputs).
  const S* rows(const S* weight, int64_t outputs, int64_t inputs) {
    return pack<GpuBlock<S, TileMath::fma>>(weight, 1, inputs, inputs, outputs).data;
  }

  // `pass` in order of receivers. The sums of all blocks together take no more numbers than `most`, unless one does.
  template <class B, class Pass>
  void run(Pass& pass, const TileGraph& graph, const std::vector<TileSum<S>>& sums = {}, int64_t most = 0) {
    int64_t size = 0;
    std::vector<S*> out;
    for (const TileSum<S>& sum : sums) {
      out.push_back(*sum.where);
      if (out.back() != nullptr) size += slot(sum);
    }
    const TilePlan plan = plan_tiles<B>(pass, graph.edges, size > 0 ? most / size : INT32_MAX);
    S* all = size > 0 ? numbers(plan.blocks * size) : nullptr;
    clear(all, plan.blocks * size);
    int64_t start = 0;
    for (std::size_t i = 0; i < sums.size(); ++i) {
      if (out[i] != nullptr) *sums[i].where = all + start, start += slot(sums[i]);
    }
    launch_tiles<B>(pass, graph.receivers(), plan, numbers(plan.scratch()), size, stream_);
    start = 0;
    for (std::size_t i = 0; i < sums.size(); ++i) {
      if (out[i] == nullptr) continue;
      const TileSum<S>& sum = sums[i];
      gpu::launch(add_blocks<S>, gpu::grid_for(sum.rows * sum.columns, 256), 256, 0, stream_, all + start, plan.blocks,
                  size, sum.rows, sum.columns, sum.transposed, out[i]);
      start += slot(sum);
      *sum.where = out[i];
    }
  }

  // `pass` in order of senders; `order` is where it looks for that.
  template <class B, class Pass>
  void run_by_sender(Pass& pass, const int64_t*& order, const TileGraph& graph) {
    int64_t* safe = static_cast<int64_t*>(memory_(graph.edges * 8));
    gpu::launch(copy_order, gpu::grid_for(graph.edges, 256), 256, 0, stream_, graph.sender_order, graph.edges, safe);
    order = safe;
    const TilePlan plan = plan_tiles<B>(pass, graph.edges, INT32_MAX);
    launch_tiles<B>(pass, graph.senders(), plan, numbers(plan.scratch()), 0, stream_);
  }

 private:
  static int64_t slot(const TileSum<S>& sum) { return (sum.rows * sum.columns + 15) / 16 * 16; }

  template <class B>
  TileWeight<S> pack(const S* from, int64_t row_stride, int64_t column_stride, int64_t k, int64_t n) {
    if (from == nullptr && k > 0) return {nullptr, 0, 0};
    const int inner = static_cast<int>(k), columns = static_cast<int>(n), width = padded_rows(columns);
    S* to = numbers(packed_size(inner, width));
    pack_weight<B>(from, row_stride, column_stride, inner, width, columns, to, stream_);
    return {to, inner, width};
  }

  Memory& memory_;
  gpu::Stream stream_;
};

}  // namespace symkern
