// Starts a pass (core/tile.h) on the device: persistent blocks, each with a range of whole segments of edges, so that
// what is summed over a segment is summed by one block, in the order of the edges.
//
//   const TilePlan plan = plan_tiles<Block>(pass, edges, most_blocks);   how many blocks, and the memory they need
//   launch_tiles<Block>(pass, segments, plan, scratch, sums, stream);    scratch: plan.scratch() numbers
//
// A pass that keeps sums of its own per block (gradients of weights) has `void shift(int64_t by)`, which moves its
// pointers to them by so many numbers; they start as zeros, and are added up in the order of the blocks.
#pragma once

#include <algorithm>

#include "core/tile_gpu.cuh"

namespace symkern {

// Counts what a pass asks a Block for; does nothing else. A pass over no rows asks for all of it.
template <class B>
struct TileMeasure {
  using Scalar = typename B::Scalar;
  using Lanes = typename B::Lanes;
  using V = typename Lanes::Vector;
  using S = Scalar;
  static constexpr int rows = B::rows;

  int64_t limit;                                 // numbers of shared memory
  int64_t shared = 0, scratch = 0, weights = 0;  // weights: those that stay in global memory

  static SYMKERN_HD constexpr int ld(int width) { return B::ld(width); }
  static SYMKERN_HD constexpr bool good(int64_t i, int64_t size) { return B::good(i, size); }
  static SYMKERN_HD constexpr int64_t index(int64_t i, int64_t size) { return B::index(i, size); }
  SYMKERN_HD S* tile(int width) { return take(static_cast<int64_t>(rows) * ld(width)); }
  SYMKERN_HD S* column() { return take(rows); }
  SYMKERN_HD TileWeight<S> weight(const TileWeight<S>& w) {
    const int64_t size = static_cast<int64_t>(padded_rows(w.k)) * w.n;
    if (w.data == nullptr) return w;
    (size <= limit - shared ? shared : weights) += size;
    return w;
  }

  template <class F>
  SYMKERN_HD void each(int, int, F) {}
  template <class F>
  SYMKERN_HD void each_row(int, F) {}
  template <class F, class G>
  SYMKERN_HD void dot(int, int, F, G) {}
  template <int m, class F, class G>
  SYMKERN_HD void dots(int, int, F, G) {}
  template <class F>
  SYMKERN_HD void product(int, const S*, int64_t, const TileWeight<S>&, F) {}
  SYMKERN_HD void add_product(int, const S*, int64_t, int, const S*, int64_t, int, S*) {}
  template <class F>
  SYMKERN_HD void add_columns(int, int, F, S*) {}
  template <class I, class F>
  SYMKERN_HD void add_to(int, int, I, F, S*) {}
  template <int m, class I, class F>
  SYMKERN_HD void add_parts(int, int, I, F, S*) {}

 private:
  SYMKERN_HD S* take(int64_t size) {
    (size <= limit - shared ? shared : scratch) += size;
    return reinterpret_cast<S*>(std::uintptr_t{1} << 20);  // never used, but counted from
  }
};

// Edges of segment s: rows ptr[s] .. ptr[s + 1] of the pass.
struct TileSegments {
  const int64_t* ptr;
  int64_t segments, edges;

  // First segment of block b of `blocks`: the one after that in which its share of all rows begins.
  SYMKERN_HD int64_t first(int64_t b, int64_t blocks) const {
    if (b == blocks) return segments;
    const int64_t all = clamp(ptr[segments]), target = all / blocks * b + all % blocks * b / blocks;
    int64_t low = 0, high = segments;
    while (low < high) {
      const int64_t middle = (low + high) / 2;
      if (ptr[middle] < target) {
        low = middle + 1;
      } else {
        high = middle;
      }
    }
    return low;
  }
  // Rows of segments first to last. Within the edges whatever is in ptr.
  SYMKERN_HD TileRange range(int64_t first, int64_t last) const {
    const int64_t begin = clamp(ptr[first]), end = clamp(ptr[last]);
    return {begin, end < begin ? begin : end};
  }
  SYMKERN_HD int64_t clamp(int64_t row) const { return row < 0 ? 0 : row > edges ? edges : row; }
};

template <class Pass>
concept KeepsSums = requires(Pass pass) { pass.shift(int64_t{}); };

template <class B, class Pass>
SYMKERN_KERNEL SYMKERN_BOUNDS(B::threads, B::resident)
    tile_pass(Pass pass, TileSegments segments, typename B::Scalar* scratch, int64_t scratch_block,
              int64_t shared_block, int64_t sums_block) {
  using S = typename B::Scalar;
  SYMKERN_SHARED(S, partial, B::warps * B::strip);
  SYMKERN_SHARED(int, starts, B::rows + 4);
  SYMKERN_DYNAMIC_SHARED(S, shared);
  const int64_t b = blockIdx.x;
  if constexpr (KeepsSums<Pass>) pass.shift(b * sums_block);
  const int64_t first = segments.first(b, gridDim.x), last = segments.first(b + 1, gridDim.x);
  B block{{shared, scratch + b * scratch_block, shared_block}, partial, starts, first, last};
  pass(block, segments.range(first, last));
}

struct TilePlan {
  int64_t blocks, shared_block, scratch_block;  // numbers, not bytes

  int64_t scratch() const { return blocks * scratch_block; }
};

// As many blocks per multiprocessor as have all they ask for in shared memory; if weights are too large for that, as
// have their tiles there; one otherwise.
template <class B, class Pass>
TilePlan plan_tiles(const Pass& pass, int64_t edges, int64_t most_blocks) {
  using S = typename B::Scalar;
  const gpu::Room room = gpu::room<tile_pass<B, Pass>>(B::threads);
  const auto measure = [&](int blocks) {
    const std::size_t bytes = std::min(room.shared_block, room.shared_all / static_cast<std::size_t>(blocks));
    TileMeasure<B> found{static_cast<int64_t>(bytes / sizeof(S))};
    pass(found, TileRange{0, 0});
    return found;
  };
  TileMeasure<B> best = measure(1);
  int resident = 1;
  for (const bool all : {true, false}) {
    for (int blocks = room.blocks; blocks > 1 && resident == 1; --blocks) {
      const TileMeasure<B> found = measure(blocks);
      if (found.scratch == 0 && (found.weights == 0 || !all)) best = found, resident = blocks;
    }
    if (all && best.weights == 0) break;
  }
  const int64_t tiles = (edges + B::rows - 1) / B::rows;
  const int64_t blocks = std::min({tiles, int64_t{room.multiprocessors} * resident, std::max<int64_t>(most_blocks, 1)});
  return {blocks, best.shared, best.scratch};
}

template <class B, class Pass>
void launch_tiles(const Pass& pass, const TileSegments& segments, const TilePlan& plan, typename B::Scalar* scratch,
                  int64_t sums_block, gpu::Stream stream) {
  gpu::launch(tile_pass<B, Pass>, plan.blocks, B::threads,
              static_cast<std::size_t>(plan.shared_block) * sizeof(typename B::Scalar), stream, pass, segments, scratch,
              plan.scratch_block, plan.shared_block, sums_block);
}

}  // namespace symkern
