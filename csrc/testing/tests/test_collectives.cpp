// Each name that gpu.h offers against its definition, in all orders; limits of launches; on a GPU also the device half.
#include <cmath>
#include <limits>

#include "testing/check.h"

using namespace symkern;
using testing::Buffer;
using testing::for_orders;

namespace {

constexpr int threads = 64;

std::vector<int> some_numbers(int n) {
  std::vector<int> x(n);
  for (int i = 0; i < n; ++i) x[i] = (i * 7919 + 13) % 101 - 50;
  return x;
}

// ---------- shuffles

template <class T>
SYMKERN_KERNEL shuffles(const int* in, T* out) {
  const T x = static_cast<T>(in[threadIdx.x]);
  T* result = out + 8 * threadIdx.x;
  result[0] = __shfl_sync(gpu::full_mask, x, gpu::lane() + 3);
  result[1] = __shfl_sync(gpu::full_mask, x, 5, 8);
  result[2] = __shfl_up_sync(gpu::full_mask, x, 2);
  result[3] = __shfl_up_sync(gpu::full_mask, x, 3, 16);
  result[4] = __shfl_down_sync(gpu::full_mask, x, 1);
  result[5] = __shfl_down_sync(gpu::full_mask, x, 5, 8);
  result[6] = __shfl_xor_sync(gpu::full_mask, x, 9);
  result[7] = __shfl_xor_sync(gpu::full_mask, x, 3, 4);
}

template <class T>
void check_shuffles() {
  const auto x = some_numbers(threads);
  Buffer<int> in(x);
  Buffer<T> out(8 * threads);
  gpu::launch(shuffles<T>, 1, threads, 0, nullptr, in.data(), out.data());
  const auto result = out.to_host();
  for (int i = 0; i < threads; ++i) {
    const int warp = i & ~31, lane = i & 31;
    const int source[8] = {warp + ((lane + 3) & 31),
                           (i & ~7) + 5,
                           lane >= 2 ? i - 2 : i,
                           (lane & 15) >= 3 ? i - 3 : i,
                           lane < 31 ? i + 1 : i,
                           (lane & 7) + 5 < 8 ? i + 5 : i,
                           i ^ 9,
                           i ^ 3};
    for (int k = 0; k < 8; ++k) CHECK_EQUAL(result[8 * i + k], static_cast<T>(x[source[k]]));
  }
}

void test_shuffles() {
  for_orders([] {
    check_shuffles<int>();
    check_shuffles<unsigned>();
    check_shuffles<std::int64_t>();
    check_shuffles<std::uint64_t>();
    check_shuffles<float>();
    check_shuffles<double>();
  });
}

// ---------- votes, reductions, scans

SYMKERN_KERNEL votes(const int* in, int* out) {
  const int x = in[threadIdx.x];
  int* result = out + 16 * threadIdx.x;
  result[0] = static_cast<int>(__ballot_sync(gpu::full_mask, x > 0));
  result[1] = __any_sync(gpu::full_mask, x == in[7]) != 0;
  result[2] = __all_sync(gpu::full_mask, x > -51) != 0;
  result[3] = __all_sync(gpu::full_mask, x > 0) != 0;
  result[4] = static_cast<int>(__match_any_sync(gpu::full_mask, x % 3));
  result[5] = gpu::reduce_add(gpu::full_mask, x);
  result[6] = gpu::reduce_min(gpu::full_mask, x);
  result[7] = gpu::reduce_max(gpu::full_mask, x);
  result[8] = gpu::warp_sum(x);
  result[9] = gpu::warp_exclusive_sum(x);
  result[10] = __syncthreads_count(x > 0);
  result[11] = __syncthreads_or(x == 1000) != 0;
  result[12] = __syncthreads_and(x < 1000) != 0;
  const unsigned odd_lanes = 0xaaaaaaaau;
  result[13] = gpu::lane() % 2 == 1 ? gpu::reduce_add(odd_lanes, x) : 0;
  result[14] = static_cast<int>(gpu::reduce_max(gpu::full_mask, static_cast<unsigned>(x)));
  result[15] =
      __popc(static_cast<unsigned>(x)) + 100 * __ffs(x) + 10000 * __clz(x) + __popcll(7ull) + __ffsll(8) + __clzll(1);
}

void test_votes() {
  const auto x = some_numbers(threads);
  for_orders([&] {
    Buffer<int> in(x), out(16 * threads);
    gpu::launch(votes, 1, threads, 0, nullptr, in.data(), out.data());
    const auto result = out.to_host();
    for (int i = 0; i < threads; ++i) {
      const int warp = i & ~31;
      unsigned ballot = 0, match = 0, largest = 0;
      int any = 0, all = 1, sum = 0, least = x[warp], most = x[warp], before = 0, odd = 0, positive = 0;
      for (int j = 0; j < threads; ++j) positive += x[j] > 0;
      for (int lane = 0; lane < 32; ++lane) {
        const int y = x[warp + lane];
        ballot |= static_cast<unsigned>(y > 0) << lane;
        match |= static_cast<unsigned>(y % 3 == x[i] % 3) << lane;
        any |= y == x[7];
        all &= y > 0;
        sum += y;
        least = std::min(least, y);
        most = std::max(most, y);
        largest = std::max(largest, static_cast<unsigned>(y));
        if (lane < (i & 31)) before += y;
        if (lane % 2 == 1) odd += y;
      }
      const int bits = __builtin_popcount(x[i]) + 100 * __builtin_ffs(x[i]) +
                       10000 * (x[i] == 0 ? 32 : __builtin_clz(x[i])) + 3 + 4 + 63;
      const int expected[16] = {static_cast<int>(ballot),
                                any,
                                1,
                                all,
                                static_cast<int>(match),
                                sum,
                                least,
                                most,
                                sum,
                                before,
                                positive,
                                0,
                                1,
                                i % 2 == 1 ? odd : 0,
                                static_cast<int>(largest),
                                bits};
      for (int k = 0; k < 16; ++k) CHECK_EQUAL(result[16 * i + k], expected[k]);
    }
  });
}

template <class T>
SYMKERN_KERNEL block_scan(const int* in, T* out, T* totals) {
  using Scan = gpu::BlockScan<T, threads>;
  SYMKERN_SHARED(typename Scan::Storage, storage, 2);
  T total, second;
  const T sum = Scan::exclusive_sum(storage[0], static_cast<T>(in[threadIdx.x]), total);
  Scan::exclusive_sum(storage[1], T{1}, second);  // storage of its own: no barrier needed
  __syncthreads();
  Scan::exclusive_sum(storage[0], T{1}, second);
  out[threadIdx.x] = sum;
  totals[threadIdx.x] = total + second;
}

template <class T>
void check_block_scan() {
  const auto x = some_numbers(threads);
  Buffer<int> in(x);
  Buffer<T> out(threads), totals(threads);
  gpu::launch(block_scan<T>, 1, threads, 0, nullptr, in.data(), out.data(), totals.data());
  const auto sums = out.to_host(), all = totals.to_host();
  T sum = 0;
  for (int i = 0; i < threads; ++i) {
    CHECK_EQUAL(sums[i], sum);
    sum += static_cast<T>(x[i]);
  }
  for (T total : all) CHECK_EQUAL(total, sum + threads);
}

void test_block_scan() {
  for_orders([] {
    check_block_scan<int>();
    check_block_scan<std::int64_t>();
    check_block_scan<float>();  // small integers: exact in any order
  });
}

// ---------- atomics

SYMKERN_KERNEL atomics(int* i, unsigned* u, unsigned long long* l, unsigned* owners) {
  const int t = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  atomicAdd(&i[0], t);
  atomicMin(&i[1], -t);
  atomicMax(&i[2], t);
  atomicSub(&i[3], 2);
  atomicOr(&u[0], 1u << t % 32);
  atomicAnd(&u[1], ~(1u << t % 4));
  atomicXor(&u[2], 5u);
  atomicAdd(&l[0], 1ull << 40);
  atomicMax(&l[1], static_cast<unsigned long long>(t) << 33);
  if (atomicCAS(&owners[t % 7], 0u, 1u) == 0u) atomicAdd(&u[3], 1u);
  if (atomicExch(&owners[7], 1u) == 0u) atomicAdd(&u[4], 1u);
}

void test_atomics() {
  for_orders([] {
    const int n = 3 * threads;
    Buffer<int> i(std::vector<int>(4, 0));
    Buffer<unsigned> u(std::vector<unsigned>{0, ~0u, 1, 0, 0}), owners(std::vector<unsigned>(8, 0));
    Buffer<unsigned long long> l(std::vector<unsigned long long>(2, 0));
    gpu::launch(atomics, 3, threads, 0, nullptr, i.data(), u.data(), l.data(), owners.data());
    CHECK(i.to_host() == (std::vector<int>{n * (n - 1) / 2, 1 - n, n - 1, -2 * n}));
    CHECK(u.to_host() == (std::vector<unsigned>{~0u, ~15u, 1, 7, 1}));
    CHECK(l.to_host() == (std::vector<unsigned long long>{static_cast<unsigned long long>(n) << 40,
                                                          static_cast<unsigned long long>(n - 1) << 33}));
  });
}

// ---------- tf32

SYMKERN_KERNEL round_all(const float* in, float* out) { out[threadIdx.x] = gpu::to_tf32(in[threadIdx.x]); }

void test_rounding() {
  const float inf = std::numeric_limits<float>::infinity(), ulp = 1.0f / 1024;
  std::vector<float> in(32, 1.0f), expected(32, 1.0f);
  auto set = [&](int i, float x, float y) { in[i] = x, expected[i] = y; };
  set(0, 0.0f, 0.0f);
  set(1, -0.0f, -0.0f);
  set(2, inf, inf);
  set(3, -inf, -inf);
  set(4, 1.0f + ulp, 1.0f + ulp);
  set(5, 1.0f + ulp * 0.49f, 1.0f);
  set(6, 1.0f + ulp * 0.5f, 1.0f + ulp);  // ties go away from zero
  set(7, -1.0f - ulp * 1.5f, -1.0f - ulp * 2);
  set(8, 2.0f - ulp * 0.25f, 2.0f);
  set(9, std::numeric_limits<float>::max(), inf);
  in[10] = std::numeric_limits<float>::quiet_NaN();
  Buffer<float> a(in), b(32);
  gpu::launch(round_all, 1, 32, 0, nullptr, a.data(), b.data());
  const auto result = b.to_host();
  CHECK(std::isnan(result[10]));
  for (int i = 0; i < 32; ++i)
    if (i != 10) CHECK_EQUAL(result[i], expected[i]);
}

// One element of a and one of b are set, block by block; out: the 16x8 result of each block.
SYMKERN_KERNEL one_hot(float* out) {
  const int g = gpu::lane() / 4, t = gpu::lane() % 4, block = static_cast<int>(blockIdx.x);
  const int row = block / 64, k = block / 8 % 8, column = block % 8;
  auto at_a = [&](int i, int j) { return i == row && j == k ? 3.0f : 0.0f; };
  auto at_b = [&](int i, int j) { return i == k && j == column ? 5.0f : 0.0f; };
  const float a[4] = {at_a(g, t), at_a(g + 8, t), at_a(g, t + 4), at_a(g + 8, t + 4)};
  const float b[2] = {at_b(t, g), at_b(t + 4, g)};
  float c[4] = {1.0f, 1.0f, 1.0f, 1.0f};
  gpu::mma_m16n8k8_tf32(c, a, b);
  for (int r = 0; r < 4; ++r) out[block * 128 + (g + r / 2 * 8) * 8 + 2 * t + r % 2] = c[r];
}

void test_one_hot() {
  Buffer<float> out(16 * 64 * 128);
  gpu::launch(one_hot, 16 * 64, 32, 0, nullptr, out.data());
  const auto result = out.to_host();
  for (int block = 0; block < 16 * 64; ++block)
    for (int i = 0; i < 128; ++i)
      CHECK_EQUAL(result[block * 128 + i], i / 8 == block / 64 && i % 8 == block % 8 ? 16.0f : 1.0f);
}

// ---------- limits

SYMKERN_KERNEL nothing() {}

SYMKERN_KERNEL dynamic(int* out) {
  SYMKERN_DYNAMIC_SHARED(int, all);
  for (unsigned i = threadIdx.x; i < 16 * 1024; i += blockDim.x) all[i] = static_cast<int>(i);
  __syncthreads();
  out[blockIdx.x * blockDim.x + threadIdx.x] = all[16 * 1024 - 1 - threadIdx.x];
}

template <class F>
bool throws(F&& run) {
  try {
    run();
  } catch (const std::runtime_error&) {
    return true;
  }
  return false;
}

void test_launches() {
  gpu::launch(nothing, 0, 32, 0, nullptr);
  gpu::launch(nothing, 1000, 1024, 0, nullptr);
  CHECK(throws([] { gpu::launch(nothing, 1, 48, 0, nullptr); }));
  CHECK(throws([] { gpu::launch(nothing, 1, 0, 0, nullptr); }));
  CHECK(throws([] { gpu::launch(nothing, 1, 1056, 0, nullptr); }));
  CHECK(throws([] { gpu::launch(nothing, -1, 32, 0, nullptr); }));
  CHECK(throws([] { gpu::launch(nothing, std::int64_t{1} << 31, 32, 0, nullptr); }));
  CHECK(throws([] { gpu::launch(nothing, 1, 32, 1 << 20, nullptr); }));
  CHECK_EQUAL(gpu::grid_for(0, 64), 0);
  CHECK_EQUAL(gpu::grid_for(64, 64), 1);
  CHECK_EQUAL(gpu::grid_for(65, 64), 2);
  CHECK_EQUAL(gpu::grid_for(std::int64_t{1} << 40, 64, 100), 100);

  Buffer<int> out(2 * threads);
  gpu::launch(dynamic, 2, threads, gpu::portable_shared_limit, nullptr, out.data());  // more than is allowed unasked
  CHECK_EQUAL(out.to_host()[1], 16 * 1024 - 2);
}

}  // namespace

int main() {
  return testing::run_tests({{"shuffles", test_shuffles},
                             {"votes", test_votes},
                             {"block scan", test_block_scan},
                             {"atomics", test_atomics},
                             {"rounding to tf32", test_rounding},
                             {"tensor core, one-hot", test_one_hot},
                             {"launches", test_launches}});
}
