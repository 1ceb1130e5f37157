// Schedules in the style of the op library's *_cuda.cuh, to test the shim. BUG != 0 plants one (test_planted.cpp).
#pragma once

#include <cfloat>
#include <cmath>

#include "core/gpu.h"

namespace symkern::schedules {

// ---------- pairs closer than a cutoff, count-scan-fill

// One predicate for count and fill, with explicit fma: both kernels decide alike.
SYMKERN_DEVICE bool is_pair(const float* x, int i, int j, float cutoff2) {
  const float dx = x[3 * j] - x[3 * i], dy = x[3 * j + 1] - x[3 * i + 1], dz = x[3 * j + 2] - x[3 * i + 2];
  return i != j && fmaf(dx, dx, fmaf(dy, dy, dz * dz)) < cutoff2;
}

constexpr int pair_threads = 64;

enum PairBug { pair_ok, pair_leaves_vote, pair_reads_beyond, pair_fill_differs };

// One warp per receiver; lanes take senders 32 at a time, ballots keep their order. offset == nullptr: counts only.
template <int BUG = pair_ok>
SYMKERN_KERNEL SYMKERN_BOUNDS(pair_threads)
    pairs(const float* x, int n, float cutoff2, const std::int64_t* offset, int* count, int* sender) {
  const std::int64_t warps = static_cast<std::int64_t>(gridDim.x) * (blockDim.x / 32);
  for (std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * (blockDim.x / 32) + gpu::warp(); i < n; i += warps) {
    std::int64_t at = offset != nullptr ? offset[i] : 0;
    int found = 0;
    for (int begin = 0; begin < n; begin += 32) {
      const int j = begin + gpu::lane();
      if (BUG == pair_leaves_vote && j >= n) break;
      const int beyond = BUG == pair_reads_beyond ? 1 : 0;
      float r2 = cutoff2;
      if (BUG == pair_fill_differs && offset != nullptr) r2 *= 1.5f;
      const bool take = j < n + beyond && is_pair(x, static_cast<int>(i), j, r2);
      const unsigned votes = __ballot_sync(gpu::full_mask, take);
      if (take && offset != nullptr) sender[at + __popc(votes & ((1u << gpu::lane()) - 1u))] = j;
      at += __popc(votes);
      found += __popc(votes);
    }
    if (offset == nullptr && gpu::lane() == 0) count[i] = found;
  }
}

// ---------- nearest neighbor, tiled

constexpr int nearest_threads = 64, nearest_tile = 64;

enum NearestBug {
  nearest_ok,
  nearest_no_wait,
  nearest_waits_short,
  nearest_no_barrier_after_wait,
  nearest_no_barrier_before_reuse
};

// One query per thread. Targets (16 bytes each) go through two tiles in shared memory: while one is searched, the next
// is copied. Ties go to the lowest index.
template <int BUG = nearest_ok>
SYMKERN_KERNEL SYMKERN_BOUNDS(nearest_threads)
    nearest(const float4* query, int queries, const float4* target, int targets, int* index) {
  SYMKERN_SHARED(float4, tile, 2 * nearest_tile);
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x), thread = static_cast<int>(threadIdx.x);
  auto copy = [&](int begin, int half) {
    if (begin + thread < targets) gpu::async_copy16(&tile[half * nearest_tile + thread], &target[begin + thread]);
    gpu::async_commit();
  };
  const float4 q = i < queries ? query[i] : float4{};
  float best = FLT_MAX;
  int best_index = -1;
  copy(0, 0);
  for (int begin = 0, half = 0; begin < targets; begin += nearest_tile, half ^= 1) {
    copy(begin + nearest_tile, half ^ 1);
    if (BUG == nearest_waits_short)
      gpu::async_wait<2>();
    else if (BUG != nearest_no_wait)
      gpu::async_wait<1>();
    if (BUG != nearest_no_barrier_after_wait) __syncthreads();
    for (int k = 0; k < nearest_tile && begin + k < targets; ++k) {
      const float4 t = tile[half * nearest_tile + k];
      const float dx = t.x - q.x, dy = t.y - q.y, dz = t.z - q.z;
      const float d2 = fmaf(dx, dx, fmaf(dy, dy, dz * dz));
      if (d2 < best) best = d2, best_index = begin + k;
    }
    if (BUG != nearest_no_barrier_before_reuse) __syncthreads();
  }
  gpu::async_wait<0>();
  if (i < queries) index[i] = best_index;
}

// ---------- compaction with a block scan

constexpr int compact_threads = 128;

enum CompactBug { compact_ok, compact_reuses_storage, compact_no_barrier_after_base };

// One block: keeps the values > 0 in order. The scan storage is used again in each round.
template <int BUG = compact_ok>
SYMKERN_KERNEL SYMKERN_BOUNDS(compact_threads) compact(const int* in, int n, int* out, int* count) {
  using Scan = gpu::BlockScan<int, compact_threads>;
  SYMKERN_SHARED(typename Scan::Storage, storage, 1);
  SYMKERN_SHARED(int, base, 1);
  const int thread = static_cast<int>(threadIdx.x);
  if (thread == 0) base[0] = 0;
  if (BUG != compact_no_barrier_after_base) __syncthreads();
  for (int begin = 0; begin < n; begin += compact_threads) {
    const int value = begin + thread < n ? in[begin + thread] : 0;
    int total;
    const int place = Scan::exclusive_sum(storage[0], value > 0, total);
    if (value > 0) out[base[0] + place] = value;
    if (BUG != compact_reuses_storage) __syncthreads();
    if (thread == 0) base[0] += total;
    if (BUG != compact_reuses_storage) __syncthreads();
  }
  if (thread == 0) count[0] = base[0];
}

// ---------- matrix product in tf32

// One warp per 16x8 tile of c = a b, row-major; rows and columns beyond the matrices count as zero.
SYMKERN_KERNEL SYMKERN_BOUNDS(32) product(const float* a, const float* b, float* c, int rows, int columns, int depth) {
  const int tiles = (columns + 7) / 8;
  const int row = static_cast<int>(blockIdx.x) / tiles * 16 + gpu::lane() / 4;
  const int column = static_cast<int>(blockIdx.x) % tiles * 8, t = gpu::lane() % 4, g = gpu::lane() / 4;
  auto at_a = [&](int i, int k) { return i < rows && k < depth ? gpu::to_tf32(a[i * depth + k]) : 0.0f; };
  auto at_b = [&](int k, int j) { return k < depth && j < columns ? gpu::to_tf32(b[k * columns + j]) : 0.0f; };
  float sum[4] = {};
  for (int k = 0; k < depth; k += 8) {
    const float left[4] = {at_a(row, k + t), at_a(row + 8, k + t), at_a(row, k + t + 4), at_a(row + 8, k + t + 4)};
    const float right[2] = {at_b(k + t, column + g), at_b(k + t + 4, column + g)};
    gpu::mma_m16n8k8_tf32(sum, left, right);
  }
  for (int r = 0; r < 4; ++r) {
    const int i = row + r / 2 * 8, j = column + 2 * t + r % 2;
    if (i < rows && j < columns) c[i * columns + j] = sum[r];
  }
}

// ---------- sum, last block

constexpr int sum_threads = 64;

enum SumBug { sum_ok, sum_no_release, sum_no_acquire };

// Integer sum in one launch: each block stores a partial sum, the last one to finish adds them in order. done starts at
// 0.
template <int BUG = sum_ok>
SYMKERN_KERNEL SYMKERN_BOUNDS(sum_threads) sum(const int* in, int n, int* partial, int* done, int* result) {
  SYMKERN_DYNAMIC_SHARED(int, warp_sums);
  SYMKERN_SHARED(int, last, 1);
  int x = 0;
  for (int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x); i < n;
       i += static_cast<int>(gridDim.x * blockDim.x))
    x += in[i];
  x = gpu::reduce_add(gpu::full_mask, x);
  if (gpu::lane() == 0) warp_sums[gpu::warp()] = x;
  __syncthreads();
  if (threadIdx.x == 0) {
    int block_sum = 0;
    for (unsigned w = 0; w < blockDim.x / 32; ++w) block_sum += warp_sums[w];
    partial[blockIdx.x] = block_sum;
    if (BUG != sum_no_release) __threadfence();
    last[0] = atomicAdd(done, 1) == static_cast<int>(gridDim.x) - 1;
  }
  __syncthreads();
  if (last[0] == 0) return;
  if (BUG != sum_no_acquire) __threadfence();
  if (threadIdx.x == 0) {
    int total = 0;
    for (unsigned b = 0; b < gridDim.x; ++b) total += partial[b];
    result[0] = total;
  }
}

}  // namespace symkern::schedules
