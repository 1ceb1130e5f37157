// Batches of molecules: one thread per query, whatever its structure; the targets of all structures of a block pass
// through shared memory.
#pragma once

#include "ops/chamfer_filter.cuh"

namespace symkern::nearest_cuda {

constexpr int kBatchTile = 512;  // targets in shared memory: 16 KB of fp64 coordinates and types

template <class T>
SYMKERN_KERNEL SYMKERN_BOUNDS(kThreads) scan_batch(NearestProblem<T> p) {
  SYMKERN_SHARED(T, tile, 3 * kBatchTile);
  SYMKERN_SHARED(int64_t, tile_type, kBatchTile);
  SYMKERN_SHARED(int64_t, ends, 2);
  const int64_t first = static_cast<int64_t>(blockIdx.x) * kThreads;
  const int rows = static_cast<int>(p.xs.rows - first < kThreads ? p.xs.rows - first : kThreads);
  const int thread = static_cast<int>(threadIdx.x);
  const bool active = thread < rows;
  const int64_t i = first + (active ? thread : 0);
  const Point<T> x = load_point(p.x, i);
  const int64_t type = p.x_type != nullptr ? p.x_type[i] : 0;
  const int64_t s = p.xs.owner(i);
  const bool owned = active && s < p.xs.count;
  const int64_t begin = owned ? p.ys.bound(s) : 0, end = owned ? p.ys.bound(s + 1) : 0;
  if (thread == 0) ends[0] = owned ? begin : p.ys.rows;
  // rows after the last structure have no targets
  if (thread == rows - 1) ends[1] = s < p.xs.count ? end : p.ys.rows;
  __syncthreads();
  const int64_t from = ends[0], to = ends[1];

  T smallest = kInfinity<T>, limit = kInfinity<T>;
  Nearest best{0, -1};
  bool bad = !finite(x);
  for (int pass = 0; pass < 2; ++pass) {
    for (int64_t base = from; base < to; base += kBatchTile) {
      const int count = static_cast<int>(to - base < kBatchTile ? to - base : kBatchTile);
      if (pass == 0 || to - from > kBatchTile) {  // otherwise it is still there
        __syncthreads();
        for (int e = thread; e < 3 * count; e += kThreads) {
          const T value = p.y[3 * base + e];
          tile[e] = finite(value) ? value : kNaN<T>;
        }
        for (int e = thread; e < count && p.x_type != nullptr; e += kThreads) tile_type[e] = p.y_type[base + e];
        __syncthreads();
      }
      const int low = static_cast<int>(begin > base ? (begin - base < count ? begin - base : count) : 0);
      const int high = static_cast<int>(end > base ? (end - base < count ? end - base : count) : 0);
      for (int k = low; k < high; ++k) {
        const Point<T> y{tile[3 * k], tile[3 * k + 1], tile[3 * k + 2], 0};
        const T d = filter_sq(x, y);
        bad = bad || d != d;
        if (p.x_type != nullptr && tile_type[k] != type) continue;
        if (pass == 0) {
          smallest = fmin(smallest, d);
        } else if (!(d > limit)) {
          best.offer(exact_sq(x, y), base + k);
        }
      }
    }
    limit = cut(smallest);
  }
  if (active) p.index[i] = bad ? -1 : best.index;
}

template <class T>
void batch_search(const NearestProblem<T>& p, gpu::Stream stream) {
  gpu::launch(scan_batch<T>, (p.xs.rows + kThreads - 1) / kThreads, kThreads, 0, stream, p);
}

}  // namespace symkern::nearest_cuda
