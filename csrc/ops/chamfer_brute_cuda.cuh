// Clouds of moderate size, all pairs: each thread holds several queries in registers, targets pass through shared
// memory, and the inner loop only keeps the smallest distance to a tile. Few queries: the tiles of a structure are
// split over blocks. Then one warp per query looks into the tiles that can hold the nearest target.
#pragma once

#include "ops/chamfer_filter.cuh"

namespace symkern::nearest_cuda {

constexpr int kTile = kThreads;        // targets: one for each thread to load
constexpr int64_t kScanBlocks = 6144;  // enough to fill every device several times; bounds the memory too
constexpr int kFewQueries = 2;         // of a thread

// Of a thread, otherwise: as many as registers hold.
template <class T, bool TYPED>
constexpr int kQueries = sizeof(T) == 4 && !TYPED ? 8 : 4;

// What one block knows of one query: its smallest distance, in which tile, and the smallest in all other tiles.
template <class T>
struct alignas(16) Partial {
  T smallest, other;  // NaN: a target was not finite
  int32_t tile;
};

// The tiles of a structure that belong to one of `splits`.
struct TileRange {
  int64_t begin, end;
  SYMKERN_HD TileRange(int64_t targets, int split, int splits) {
    const int64_t tiles = (targets + kTile - 1) / kTile;
    begin = tiles * split / splits, end = tiles * (split + 1) / splits;
  }
};

template <class T, int Q, bool TYPED>
SYMKERN_KERNEL SYMKERN_BOUNDS(kThreads, sizeof(T) == 4 ? 5 : 3)
    scan_tiles(NearestProblem<T> p, int splits, Partial<T>* partials) {
  SYMKERN_SHARED(Point<T>, tile, kTile);
  SYMKERN_SHARED(int64_t, tile_type, TYPED ? kTile : 1);
  const int thread = static_cast<int>(threadIdx.x), split = static_cast<int>(blockIdx.x % splits);
  const int64_t first = static_cast<int64_t>(blockIdx.x / splits) * (kThreads * Q), n = p.xs.rows;
  const int64_t last = (first + kThreads * Q < n ? first + kThreads * Q : n) - 1;
  Point<T> x[Q];
  T smallest[Q], other[Q];
  int32_t found[Q];
  int64_t type[TYPED ? Q : 1];
  unsigned bad = 0;  // bit q
  for (int q = 0; q < Q; ++q) {
    const int64_t row = first + q * kThreads + thread, i = row < n ? row : n - 1;
    x[q] = load_point(p.x, i);
    if constexpr (TYPED) type[q] = p.x_type[i];
    smallest[q] = other[q] = kInfinity<T>, found[q] = 0;
  }
  for (int64_t s = p.xs.owner(first); s < p.xs.count && p.xs.bound(s) <= last; ++s) {
    // the block's queries of this structure
    const int64_t low = p.xs.bound(s) - first, high = p.xs.bound(s + 1) - first;
    const int64_t begin = p.ys.bound(s), end = p.ys.bound(s + 1);
    const TileRange tiles(end - begin, split, splits);
    for (int64_t t = tiles.begin; t < tiles.end; ++t) {
      const int64_t j = begin + t * kTile + thread;
      const Point<T> y = j < end ? load_point(p.y, j) : no_point<T>();
      __syncthreads();
      tile[thread] = y;
      if constexpr (TYPED) tile_type[thread] = j < end ? p.y_type[j] : 0;
      const bool tile_bad = __syncthreads_or(j < end && !finite(y));
      T nearest[Q];
      for (int q = 0; q < Q; ++q) nearest[q] = kInfinity<T>;
      SYMKERN_UNROLL_BY(8)
      for (int k = 0; k < kTile; ++k) {
        const Point<T> target = tile[k];
        for (int q = 0; q < Q; ++q) {
          T d = filter_sq(x[q], target);
          if constexpr (TYPED) d = tile_type[k] == type[q] ? d : kInfinity<T>;
          nearest[q] = fmin(nearest[q], d);
        }
      }
      for (int q = 0; q < Q; ++q) {
        const int at = q * kThreads + thread;
        if (at < low || at >= high) continue;
        const bool better = nearest[q] < smallest[q];
        other[q] = fmin(other[q], better ? smallest[q] : nearest[q]);
        if (better) smallest[q] = nearest[q], found[q] = static_cast<int32_t>(t);
        if (tile_bad) bad |= 1u << q;
      }
    }
  }
  for (int q = 0; q < Q; ++q) {
    const int64_t row = first + q * kThreads + thread;
    if (row >= n) continue;
    partials[row * splits + split] = {bad >> q & 1u ? kNaN<T> : smallest[q], other[q], found[q]};
  }
}

template <class T>
SYMKERN_KERNEL SYMKERN_BOUNDS(kThreads, 4) find_in_tiles(NearestProblem<T> p, int splits, const Partial<T>* partials) {
  const int64_t warps = static_cast<int64_t>(gridDim.x) * (kThreads / 32);
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * (kThreads / 32) + gpu::warp(); i < p.xs.rows; i += warps) {
    const Point<T> x = load_point(p.x, i);
    const int64_t s = p.xs.owner(i);
    const bool owned = s < p.xs.count;
    const int64_t begin = owned ? p.ys.bound(s) : 0, end = owned ? p.ys.bound(s + 1) : 0;
    T smallest = kInfinity<T>;
    bool bad = !finite(x);
    for (int k = gpu::lane(); k < splits; k += 32) {
      const T here = partials[i * splits + k].smallest;
      smallest = fmin(smallest, here), bad = bad || here != here;
    }
    bad = __any_sync(gpu::full_mask, bad);
    const T limit = cut(gpu::warp_min(smallest));
    Nearest best{0, -1};
    for (int base = 0; base < splits && !bad; base += 32) {
      const int k = base + gpu::lane();
      int32_t tile = -1;
      bool wanted = false;
      if (k < splits) {
        const Partial<T> partial = partials[i * splits + k];
        wanted = !(partial.smallest > limit);
        tile = partial.other > limit ? partial.tile : -1;  // -1: more than one of them
      }
      for (unsigned rest = __ballot_sync(gpu::full_mask, wanted); rest != 0; rest &= rest - 1) {
        const int lane = __ffs(static_cast<int>(rest)) - 1;
        const int32_t one = __shfl_sync(gpu::full_mask, tile, lane);
        const TileRange tiles(end - begin, base + lane, splits);
        const int64_t from = begin + kTile * (one < 0 ? tiles.begin : one);
        const int64_t to = begin + kTile * (one < 0 ? tiles.end : one + 1);
        for (int64_t j = from + gpu::lane(); j < to && j < end; j += 32) {
          const Point<T> y = load_point(p.y, j);
          if (!(filter_sq(x, y) > limit) && same_type(p, i, j)) best.offer(exact_sq(x, y), j);
        }
      }
    }
    for (int step = 16; step > 0; step /= 2) {
      const double other_sq = __shfl_xor_sync(gpu::full_mask, best.distance_sq, step);
      const int64_t other = __shfl_xor_sync(gpu::full_mask, best.index, step);
      if (other >= 0) best.offer(other_sq, other);
    }
    if (gpu::lane() == 0) p.index[i] = best.index;
  }
}

template <class T, class Memory>
void brute_search(const NearestProblem<T>& p, const Memory& memory, gpu::Stream stream,
                  int64_t most_blocks = kScanBlocks) {
  const int64_t n = p.xs.rows, structures = p.xs.count > 0 ? p.xs.count : 1;
  const auto scan = [&](auto* kernel, int queries) {
    const int64_t rows = int64_t{kThreads} * queries, blocks = (n + rows - 1) / rows;
    const int64_t tiles = (p.ys.rows / structures + kTile - 1) / kTile;
    const int splits = static_cast<int>(std::clamp<int64_t>(most_blocks / blocks, 1, std::max<int64_t>(tiles, 1)));
    auto* partials = static_cast<Partial<T>*>(memory(static_cast<size_t>(n * splits) * sizeof(Partial<T>)));
    gpu::launch(kernel, blocks * splits, kThreads, 0, stream, p, splits, partials);
    gpu::launch(find_in_tiles<T>, gpu::grid_for(32 * n, kThreads), kThreads, 0, stream, p, splits, partials);
  };
  const auto choose = [&](auto typed) {
    constexpr bool kTyped = decltype(typed)::value;
    constexpr int kMany = kQueries<T, kTyped>;
    if (n / structures >= kThreads * kMany) {
      scan(scan_tiles<T, kMany, kTyped>, kMany);
    } else {
      scan(scan_tiles<T, kFewQueries, kTyped>, kFewQueries);
    }
  };
  if (p.x_type != nullptr) {
    choose(std::true_type{});
  } else {
    choose(std::false_type{});
  }
}

}  // namespace symkern::nearest_cuda
