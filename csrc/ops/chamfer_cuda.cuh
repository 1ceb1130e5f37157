// Nearest points on the device. The host picks a schedule by sizes alone: nothing is read back, so the search never
// waits for the device and can be captured in a graph. Torch-free: raw pointers and gpu.h, so that the same kernels run
// under the SIMT shim.
//
//   batch  molecules: a thread per query                   chamfer_batch_cuda.cuh
//   brute  clouds up to some 10^5 points: all pairs        chamfer_brute_cuda.cuh
//   tree   larger clouds                                   chamfer_tree_cuda.cuh
//
// Sizes of single structures are on the device: a batch is judged by its mean. A target that is not finite makes every
// index of its structure -1, a query that is not finite its own.
#pragma once

#include "ops/chamfer_batch_cuda.cuh"
#include "ops/chamfer_brute_cuda.cuh"
#include "ops/chamfer_tree_cuda.cuh"

namespace symkern::nearest_cuda {

enum class Schedule { batch, brute, tree };

constexpr double kBatchTargets = 256;   // in a mean structure
constexpr double kBrutePairs = 0x1p34;  // 1.7e10, fp32

inline Schedule schedule_for(int64_t queries, int64_t targets, int64_t structures, bool fp64) {
  if (structures < 1 || targets == 0) return Schedule::batch;
  const double mean = static_cast<double>(targets) / static_cast<double>(structures);
  if (mean <= kBatchTargets) return Schedule::batch;
  const double pairs = mean * static_cast<double>(queries);
  // blocks of the brute schedule work for all structures of their queries
  const double shared = static_cast<double>(kThreads * kFewQueries) * static_cast<double>(structures - 1);
  const double waste = 1 + shared / static_cast<double>(std::max<int64_t>(queries, 1));
  return pairs * waste * (fp64 ? 4 : 1) <= kBrutePairs ? Schedule::brute : Schedule::tree;
}

// memory(bytes) returns scratch that lives until the stream is done with it.
template <class T, class Memory>
void find_nearest(const NearestProblem<T>& p, Schedule schedule, const Memory& memory, gpu::Stream stream) {
  if (p.xs.rows == 0) return;
  switch (schedule) {
    case Schedule::batch:
      return batch_search(p, stream);
    case Schedule::brute:
      return brute_search(p, memory, stream);
    case Schedule::tree:
      return tree_search(p, memory, stream);
  }
}

template <class T, class Memory>
void find_nearest(const NearestProblem<T>& p, const Memory& memory, gpu::Stream stream) {
  find_nearest(p, schedule_for(p.xs.rows, p.ys.rows, p.xs.count, sizeof(T) == 8), memory, stream);
}

}  // namespace symkern::nearest_cuda
