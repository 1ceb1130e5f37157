// What a fused op does around its passes on the device: packed weights, sums of gradients over all edges, one launch
// per order of edges. Torch-free: memory comes from a callable `void* memory(int64_t bytes)` that keeps it until the
// kernels of the call have been queued, aligned to 16 bytes at least.
#pragma once

#include <vector>

#include "core/tile_launch.cuh"

namespace symkern {

SYMKERN_HD int64_t packed_size(int k, int n) { return static_cast<int64_t>(padded_rows(k)) * n; }

// A graph as a device wants it: edges in order of receivers, and the same edges in order of senders.
struct TileGraph {
  int64_t atoms, edges;
  const int64_t *row_ptr, *sender_order, *sender_ptr;

  TileSegments receivers() const { return {row_ptr, atoms, edges}; }
  TileSegments senders() const { return {sender_ptr, atoms, edges}; }
};

// f(TileBlock<B>) with the Block B for a number type: products as the caller allows, `rows` and `fit` as in GpuBlock.
template <class B>
struct TileBlock {
  using type = B;
};
template <class S, int rows, int fit, class F>
void with_block(bool tf32, const F& f) {
  if constexpr (sizeof(S) == 8) {
    f(TileBlock<GpuBlock<S, TileMath::fma, rows, fit>>{});
  } else if (tf32) {
    constexpr int own = rows == 64 ? fit : 1;  // here the compiler wants more registers than for three products
    f(TileBlock<GpuBlock<S, TileMath::tf32, rows, own>>{});
  } else {
    f(TileBlock<GpuBlock<S, TileMath::tf32x3, rows, fit>>{});
  }
}

// What comes before a pass, in one launch: outputs that start as zeros, weights as the Block wants them, and an order
// of edges of which every element may be used.
template <class S>
struct TilePrepare {
  struct Clear {
    S* p;
    int64_t count;
  };
  struct Pack {  // element (r, c) at from[r * row_stride + c * column_stride]; zero in columns `columns` to n
    const S* from;
    int64_t row_stride, column_stride;
    int k, n, columns;
    bool plain;  // as rows
    S* to;
  };
  static constexpr int most = 8;
  Clear clears[most];
  Pack packs[most];
  int clear_count, pack_count;
  const int64_t* order;
  int64_t edges;
  int64_t* safe;
};

template <class B, class S>
SYMKERN_KERNEL SYMKERN_BOUNDS(256) prepare_tiles(TilePrepare<S> work) {
  const int64_t first = static_cast<int64_t>(blockIdx.x) * 256 + threadIdx.x, step = int64_t{256} * gridDim.x;
  for (int j = 0; j < work.clear_count; ++j) {
    for (int64_t i = first; i < work.clears[j].count; i += step) work.clears[j].p[i] = 0;
  }
  for (int j = 0; j < work.pack_count; ++j) {
    const typename TilePrepare<S>::Pack& w = work.packs[j];
    const int64_t size = packed_size(w.k, w.n);
    for (int64_t i = first; i < size; i += step) {
      if (w.plain) {
        GpuBlock<S, TileMath::fma>::pack(i, w.from, w.row_stride, w.column_stride, w.k, w.n, w.columns, w.to);
      } else {
        B::pack(i, w.from, w.row_stride, w.column_stride, w.k, w.n, w.columns, w.to);
      }
    }
  }
  for (int64_t i = first; i < work.edges; i += step) {
    const int64_t e = work.order[i];
    work.safe[i] = static_cast<uint64_t>(e) < static_cast<uint64_t>(work.edges) ? e : 0;
  }
}

// What comes after: sums of all blocks, `stride` numbers apart, in their order. out (rows, columns) from the sums as
// they are, or from their transpose.
template <class S>
struct TileFinish {
  struct Part {
    const S* sums;
    int64_t rows, columns;
    bool transposed;
    S* out;
  };
  static constexpr int most = 8;
  Part parts[most];
  int count;
  int64_t blocks, stride;
};

// A warp takes every eighth block's sums of 32 elements.
template <class S>
SYMKERN_KERNEL SYMKERN_BOUNDS(256) finish_tiles(TileFinish<S> work) {
  SYMKERN_SHARED(double, partial, 256);
  for (int j = 0; j < work.count; ++j) {
    const typename TileFinish<S>::Part& part = work.parts[j];
    const int rows = static_cast<int>(part.rows), columns = static_cast<int>(part.columns), size = rows * columns;
    for (int first = 32 * static_cast<int>(blockIdx.x); first < size; first += 32 * static_cast<int>(gridDim.x)) {
      const int i = first + gpu::lane();
      double sum = 0;
      if (i < size) {
        const S* from = part.sums + (part.transposed ? i % columns * rows + i / columns : i);
        for (int64_t b = gpu::warp(); b < work.blocks; b += 8) sum += from[b * work.stride];
      }
      partial[threadIdx.x] = sum;
      __syncthreads();
      if (gpu::warp() == 0 && i < size) {
        for (int k = 1; k < 8; ++k) sum += partial[k * 32 + gpu::lane()];
        part.out[i] = static_cast<S>(sum);
      }
      __syncthreads();
    }
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
  // Outputs of the next pass, or null.
  void clear(S* p, int64_t count) {
    if (p == nullptr || count == 0) return;
    prepare_.clears[room(prepare_.clear_count)] = {p, count};
  }

  // Weights of nn.Linear (outputs, inputs) as right sides of products: rows (n, inputs) -> (n, outputs), and the
  // transpose of that with its columns padded to 16; null for null.
  TileWeight<S> packed(const S* weight, int64_t outputs, int64_t inputs) {
    return pack(weight, 1, inputs, inputs, outputs, false);
  }
  TileWeight<S> transposed(const S* weight, int64_t outputs, int64_t inputs) {
    return pack(weight, inputs, 1, outputs, inputs, false);
  }
  // The transpose as plain rows, (inputs, outputs).
  const S* rows(const S* weight, int64_t outputs, int64_t inputs) {
    return pack(weight, 1, inputs, inputs, outputs, true).data;
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
    prepare<B>();
    TileFinish<S> finish{{}, 0, plan.blocks, size};
    int64_t start = 0, largest = 0;
    for (std::size_t i = 0; i < sums.size(); ++i) {
      if (out[i] == nullptr) continue;
      const TileSum<S>& sum = sums[i];
      finish.parts[room(finish.count)] = {all + start, sum.rows, sum.columns, sum.transposed, out[i]};
      *sum.where = all + start;
      start += slot(sum), largest = std::max(largest, sum.rows * sum.columns);
    }
    launch_tiles<B>(pass, graph.receivers(), plan, numbers(plan.scratch()), size, stream_);
    gpu::launch(finish_tiles<S>, gpu::grid_for(largest, 32, 4096), 256, 0, stream_, finish);
    for (std::size_t i = 0; i < sums.size(); ++i) *sums[i].where = out[i];
  }

  // `pass` in order of senders; `order` is where it looks for that.
  template <class B, class Pass>
  void run_by_sender(Pass& pass, const int64_t*& order, const TileGraph& graph) {
    prepare_.order = graph.sender_order, prepare_.edges = graph.edges;
    order = prepare_.safe = static_cast<int64_t*>(memory_(graph.edges * 8));
    prepare<B>();
    const TilePlan plan = plan_tiles<B>(pass, graph.edges, INT32_MAX);
    launch_tiles<B>(pass, graph.senders(), plan, numbers(plan.scratch()), 0, stream_);
  }

 private:
  static int64_t slot(const TileSum<S>& sum) { return (sum.rows * sum.columns + 15) / 16 * 16; }

  TileWeight<S> pack(const S* from, int64_t row_stride, int64_t column_stride, int64_t k, int64_t n, bool plain) {
    if (from == nullptr && k > 0) return {nullptr, 0, 0};
    const int inner = static_cast<int>(k), columns = static_cast<int>(n), width = padded_rows(columns);
    S* to = numbers(packed_size(inner, width));
    prepare_.packs[room(prepare_.pack_count)] = {from, row_stride, column_stride, inner, width, columns, plain, to};
    return {to, inner, width};
  }

  // The next free place of a list.
  static int room(int& count) {
    if (count == TilePrepare<S>::most) throw std::runtime_error("TileCall: more than it has room for");
    return count++;
  }

  // Everything that was asked for so far.
  template <class B>
  void prepare() {
    int64_t most = prepare_.edges;
    for (int j = 0; j < prepare_.clear_count; ++j) most = std::max(most, prepare_.clears[j].count);
    for (int j = 0; j < prepare_.pack_count; ++j) {
      most = std::max(most, packed_size(prepare_.packs[j].k, prepare_.packs[j].n));
    }
    gpu::launch(prepare_tiles<B, S>, gpu::grid_for(most, 256, 2048), 256, 0, stream_, prepare_);
    prepare_ = {};
  }

  Memory& memory_;
  gpu::Stream stream_;
  TilePrepare<S> prepare_{};
};

}  // namespace symkern
