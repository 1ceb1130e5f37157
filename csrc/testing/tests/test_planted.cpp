// Planted bugs: each must be caught by the modes named for it, in a child process with a time limit, under 12 orders.
// And correct kernels of the kind that could raise a false alarm. Prints which mode caught what.
#include "testing/tests/reference.h"

using namespace symkern;
using namespace symkern::schedules;

namespace {

constexpr int random_seeds = 10;

// Launches in all orders; check looks at the result of each.
template <class Run>
void in_all_orders(Run&& run) {
  testing::for_orders(run, random_seeds);
}

// ---------- planted bugs

// The values of a block, rotated by one lane within each warp, through shared memory.
template <bool SYNC>
SYMKERN_KERNEL rotate_in_warp(const int* in, int* out) {
  SYMKERN_SHARED(int, value, 64);
  value[threadIdx.x] = in[threadIdx.x];
  if (SYNC) __syncwarp();
  out[threadIdx.x] = value[(threadIdx.x & 32u) + ((threadIdx.x + 1) & 31u)];
}

template <bool SYNC>
void run_rotate() {
  std::vector<int> values(64);
  std::iota(values.begin(), values.end(), 0);
  Buffer<int> in(values), out(64);
  gpu::launch(rotate_in_warp<SYNC>, 1, 64, 0, nullptr, in.data(), out.data());
  const auto result = out.to_host();
  for (int i = 0; i < 64; ++i) CHECK_EQUAL(result[i], (i & 32) + ((i + 1) & 31));
}

// As above, trusting that a vote also orders memory. It does on no documented hardware; only the race checker knows.
SYMKERN_KERNEL rotate_after_vote(const int* in, int* out) {
  SYMKERN_SHARED(int, value, 32);
  value[threadIdx.x] = in[threadIdx.x];
  __any_sync(gpu::full_mask, 1);
  out[threadIdx.x] = value[(threadIdx.x + 1) & 31u];
}

void run_rotate_after_vote() {
  Buffer<int> in(std::vector<int>(32, 1)), out(32);
  gpu::launch(rotate_after_vote, 1, 32, 0, nullptr, in.data(), out.data());
}

// Trusts that a block scan is a barrier.
SYMKERN_KERNEL rotate_after_scan(int* out) {
  using Scan = gpu::BlockScan<int, 64>;
  SYMKERN_SHARED(Scan::Storage, storage, 1);
  SYMKERN_SHARED(int, value, 64);
  value[threadIdx.x] = 1;
  int total;
  Scan::exclusive_sum(storage[0], 1, total);
  out[threadIdx.x] = value[(threadIdx.x + 1) & 63u];
}

void run_rotate_after_scan() {
  Buffer<int> out(64);
  gpu::launch(rotate_after_scan, 1, 64, 0, nullptr, out.data());
}

SYMKERN_KERNEL scratch_of_all_blocks(int* scratch, int* out) {
  scratch[threadIdx.x] = static_cast<int>(blockIdx.x);
  __syncthreads();
  out[blockIdx.x * blockDim.x + threadIdx.x] = scratch[(threadIdx.x + 1) % blockDim.x];
}

void run_scratch() {
  Buffer<int> scratch(32), out(4 * 32);
  gpu::launch(scratch_of_all_blocks, 4, 32, 0, nullptr, scratch.data(), out.data());
  const auto result = out.to_host();
  for (int i = 0; i < 4 * 32; ++i) CHECK_EQUAL(result[i], i / 32);
}

SYMKERN_KERNEL count_without_atomics(int* count) { count[0] += 1; }

void run_count() {
  Buffer<int> count(std::vector<int>{0});
  gpu::launch(count_without_atomics, 2, 64, 0, nullptr, count.data());
  CHECK_EQUAL(count.to_host()[0], 128);
}

SYMKERN_KERNEL load_vectors(const float* in, float* out) {
  const float4 v =
      *reinterpret_cast<const float4*>(in + 3 * threadIdx.x);  // three floats per atom: not aligned to 16 bytes
  out[threadIdx.x] = v.x + v.y + v.z;
}

void run_misaligned() {
  Buffer<float> in(std::vector<float>(3 * 32 + 1, 1.0f)), out(32);
  gpu::launch(load_vectors, 1, 32, 0, nullptr, in.data(), out.data());
  for (float x : out.to_host()) CHECK_EQUAL(x, 3.0f);
}

SYMKERN_KERNEL index_overflows(int rows, std::int64_t* out) {
  out[threadIdx.x] = rows * (static_cast<int>(threadIdx.x) * 1000);  // 32-bit product, widened too late
}

void run_overflow() {
  Buffer<std::int64_t> out(32);
  gpu::launch(index_overflows, 1, 32, 0, nullptr, 100000, out.data());
  CHECK_EQUAL(out.to_host()[1], 100000000);
}

SYMKERN_KERNEL shift_in_place(int* x) {
  if (threadIdx.x > 0) x[threadIdx.x] = x[threadIdx.x - 1];
}

void run_shift() {
  std::vector<int> values(64);
  std::iota(values.begin(), values.end(), 0);
  Buffer<int> x(values);
  gpu::launch(shift_in_place, 1, 64, 0, nullptr, x.data());
  const auto result = x.to_host();
  for (int i = 1; i < 64; ++i) CHECK_EQUAL(result[i], i - 1);
}

SYMKERN_KERNEL same_value_race(int* out) {
  SYMKERN_SHARED(int, flag, 1);
  flag[0] = 1;
  __syncthreads();
  out[threadIdx.x] = flag[0];
}

void run_same_value() {
  Buffer<int> out(64);
  gpu::launch(same_value_race, 1, 64, 0, nullptr, out.data());
}

// The garbage does not reach the result today.
SYMKERN_KERNEL reads_unwritten(int n, int* out) {
  SYMKERN_SHARED(int, tile, 32);
  if (static_cast<int>(threadIdx.x) < n) tile[threadIdx.x] = 1;
  __syncthreads();
  int sum = 0;
  for (int i = 0; i < 32; ++i) sum += tile[i] * (i < n);
  out[threadIdx.x] = sum;
}

void run_reads_unwritten() {
  Buffer<int> out(32);
  gpu::launch(reads_unwritten, 1, 32, 0, nullptr, 20, out.data());
  CHECK_EQUAL(out.to_host()[3], 20);
}

SYMKERN_KERNEL sums_without_start(int* out) {
  SYMKERN_SHARED(int, sum, 1);
  atomicAdd(&sum[0], 1);
  __syncthreads();
  out[threadIdx.x] = sum[0];
}

void run_sums_without_start() {
  Buffer<int> out(32);
  gpu::launch(sums_without_start, 1, 32, 0, nullptr, out.data());
  CHECK_EQUAL(out.to_host()[0], 32);
}

SYMKERN_KERNEL divergent_barriers(int* out) {
  if (threadIdx.x < 32) {
    out[threadIdx.x] = 1;
    __syncthreads();
  } else {
    out[threadIdx.x] = 2;
    __syncthreads();
  }
}

SYMKERN_KERNEL barrier_after_exit(int* out) {
  if (threadIdx.x >= 40) return;
  out[threadIdx.x] = 1;
  __syncthreads();
}

SYMKERN_KERNEL shuffle_lacks_lane(int* out) {
  if (threadIdx.x < 16) out[threadIdx.x] = __shfl_sync(0x00ffu, 1, 0);
}

SYMKERN_KERNEL masks_differ(int* out) {
  out[threadIdx.x] = __any_sync(threadIdx.x < 16 ? 0x0001ffffu : 0xffff0000u, 1);
}

SYMKERN_KERNEL barrier_in_half_a_warp(int* out) {
  if (threadIdx.x < 16)
    __syncthreads();
  else
    out[threadIdx.x] = __any_sync(gpu::full_mask, 1);
}

template <void (*KERNEL)(int*), int THREADS>
void run_on() {
  Buffer<int> out(THREADS);
  gpu::launch(KERNEL, 1, THREADS, 0, nullptr, out.data());
}

// Lanes 16 to 31 are not in the mask: what comes from them is undefined.
SYMKERN_KERNEL shuffle_from_outside(int* out) {
  if (threadIdx.x < 16) out[threadIdx.x] = __shfl_down_sync(0xffffu, 1, 1);
}

void run_shuffle_from_outside() {
  Buffer<int> out(16);
  gpu::launch(shuffle_from_outside, 1, 32, 0, nullptr, out.data());
  for (int x : out.to_host()) CHECK_EQUAL(x, 1);
}

SYMKERN_KERNEL large_tile(float* out) {
  SYMKERN_SHARED(float, tile, 4096);
  SYMKERN_DYNAMIC_SHARED(float, more);
  tile[threadIdx.x] = more[threadIdx.x] = 0.0f;
  out[threadIdx.x] = tile[threadIdx.x] + more[threadIdx.x];
}

void run_large_tile() {  // 16 KB + 56 KB
  Buffer<float> out(32);
  gpu::launch(large_tile, 1, 32, 56 * 1024, nullptr, out.data());
}

SYMKERN_KERNEL float_atomics(const float* in, float* out) { atomicAdd(out, in[blockIdx.x * blockDim.x + threadIdx.x]); }

void run_float_atomics() {
  std::vector<float> values(256);
  for (int i = 0; i < 256; ++i) values[i] = 1.0f / static_cast<float>(i + 1);
  Buffer<float> in(values), out(std::vector<float>{0.0f});
  gpu::launch(float_atomics, 4, 64, 0, nullptr, in.data(), out.data());
  static float first = -1.0f;  // per child process
  const float result = out.to_host()[0];
  if (first < 0) first = result;
  CHECK_EQUAL(result, first);
}

SYMKERN_KERNEL spins(int* flag) {
  if (blockIdx.x == 0 && threadIdx.x == 0)
    while (*static_cast<volatile int*>(flag) == 0) {
    }
  if (blockIdx.x == 1 && threadIdx.x == 0) *static_cast<volatile int*>(flag) = 1;
}

void run_spins() {
  Buffer<int> flag(std::vector<int>{0});
  gpu::launch(spins, 2, 32, 0, nullptr, flag.data());
}

SYMKERN_KERNEL never_waits(const float4* in, float* out) {
  SYMKERN_SHARED(float4, tile, 32);
  gpu::async_copy16(&tile[threadIdx.x], &in[threadIdx.x]);
  gpu::async_commit();
  out[threadIdx.x] = 0.0f;
}

// Waits, but left the last copies out of the group.
SYMKERN_KERNEL forgets_commit(const float4* in, float* out) {
  SYMKERN_SHARED(float4, tile, 32);
  gpu::async_copy16(&tile[threadIdx.x], &in[threadIdx.x]);
  gpu::async_wait<0>();
  out[threadIdx.x] = tile[threadIdx.x].x;
}

template <void (*KERNEL)(const float4*, float*)>
void run_copies() {
  Buffer<float4> in(std::vector<float4>(32, make_float4(1, 2, 3, 4)));
  Buffer<float> out(32);
  gpu::launch(KERNEL, 1, 32, 0, nullptr, in.data(), out.data());
}

SYMKERN_KERNEL shared_beyond(int n, int* out) {
  SYMKERN_SHARED(int, tile, 32);
  tile[threadIdx.x] = 0;
  __syncthreads();
  const int* p = tile;
  int sum = 0;
  for (int i = 0; i <= n; ++i) sum += p[i];
  out[threadIdx.x] = sum;
}

void run_shared_beyond() {
  Buffer<int> out(32);
  gpu::launch(shared_beyond, 1, 32, 0, nullptr, 32, out.data());
}

SYMKERN_KERNEL local_beyond(int n, int* out) {
  int local[4] = {1, 2, 3, 4};
  const int* p = local;
  int sum = 0;
  for (int i = 0; i < n; ++i) sum += p[i];
  out[threadIdx.x] = sum;
}

void run_local_beyond() {
  Buffer<int> out(32);
  gpu::launch(local_beyond, 1, 32, 0, nullptr, 5, out.data());
}

SYMKERN_KERNEL mma_not_rounded(float* out) {
  float c[4] = {};
  const float a[4] = {0.1f, 0.1f, 0.1f, 0.1f}, b[2] = {1.0f, 1.0f};
  gpu::mma_m16n8k8_tf32(c, a, b);
  out[threadIdx.x] = c[0];
}

void run_mma_not_rounded() {
  Buffer<float> out(32);
  gpu::launch(mma_not_rounded, 1, 32, 0, nullptr, out.data());
}

// Some blocks read with a plain load what others update atomically.
SYMKERN_KERNEL plain_read_of_atomic(int* count, int* out) {
  atomicAdd(count, 1);
  if (threadIdx.x == 0) out[blockIdx.x] = count[0] > 0;
}

void run_plain_read_of_atomic() {
  Buffer<int> count(std::vector<int>{0}), out(4);
  gpu::launch(plain_read_of_atomic, 4, 32, 0, nullptr, count.data(), out.data());
}

SYMKERN_KERNEL throws(int* out) {
  out[threadIdx.x] = 0;
  if (threadIdx.x == 33) throw std::runtime_error("from inside a fiber");
  __syncthreads();
}

// ---------- correct kernels

SYMKERN_KERNEL early_exit(int n, int* out) {
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (i >= n) return;
  out[i] = i;
}

void run_early_exit() {
  Buffer<int> out(70);
  gpu::launch(early_exit, 2, 64, 0, nullptr, 70, out.data());
  CHECK_EQUAL(out.to_host()[69], 69);
}

// Neighboring bytes, each of a thread of its own.
SYMKERN_KERNEL bytes(unsigned char* flags, int* out) {
  SYMKERN_SHARED(unsigned char, local, 64);
  local[threadIdx.x] = static_cast<unsigned char>(threadIdx.x);
  flags[threadIdx.x] = 1;
  flags[threadIdx.x] |= 2;
  __syncthreads();
  out[threadIdx.x] = reinterpret_cast<const int*>(local)[threadIdx.x / 4];
}

void run_bytes() {
  Buffer<unsigned char> flags(64);
  Buffer<int> out(64);
  gpu::launch(bytes, 1, 64, 0, nullptr, flags.data(), out.data());
  CHECK_EQUAL(out.to_host()[0], 0x03020100);
}

// Half warps, then whole ones: lanes arrive at the second collective while others are in the first.
SYMKERN_KERNEL half_warps(int* out) {
  const unsigned half = gpu::lane() < 16 ? 0x0000ffffu : 0xffff0000u;
  int x = gpu::reduce_add(half, 1);
  x += gpu::reduce_max(half, gpu::lane());
  out[threadIdx.x] = __shfl_sync(gpu::full_mask, x, 31);
}

void run_half_warps() {
  Buffer<int> out(64);
  gpu::launch(half_warps, 1, 64, 0, nullptr, out.data());
  for (int x : out.to_host()) CHECK_EQUAL(x, 47);
}

SYMKERN_KERNEL histogram(const int* in, int n, int* out) {
  SYMKERN_SHARED(int, bins, 8);
  if (threadIdx.x < 8) bins[threadIdx.x] = 0;
  __syncthreads();
  for (int i = static_cast<int>(threadIdx.x); i < n; i += static_cast<int>(blockDim.x)) atomicAdd(&bins[in[i]], 1);
  __syncthreads();
  if (threadIdx.x < 8) atomicAdd(&out[threadIdx.x], bins[threadIdx.x]);
}

void run_histogram() {
  std::vector<int> values(500);
  for (int i = 0; i < 500; ++i) values[i] = i * i % 8;
  Buffer<int> in(values), out(std::vector<int>(8, 0));
  gpu::launch(histogram, 3, 64, 0, nullptr, in.data(), 500, out.data());
  CHECK_EQUAL(out.to_host()[4], 3 * 125);
}

// Votes and matches in a loop whose length differs between warps.
SYMKERN_KERNEL warp_loops(int* out) {
  int rounds = 0;
  unsigned left = gpu::full_mask;
  while (__any_sync(gpu::full_mask, left != 0)) {
    const unsigned peers = __match_any_sync(gpu::full_mask, gpu::lane() % (gpu::warp() + 3));
    left &= ~(peers & (0u - peers));
    if (++rounds > gpu::warp() + 1) left = 0;
  }
  out[blockIdx.x * blockDim.x + threadIdx.x] = __syncthreads_count(rounds > 2);
}

void run_warp_loops() {
  Buffer<int> out(2 * 96);
  gpu::launch(warp_loops, 2, 96, 0, nullptr, out.data());
  CHECK_EQUAL(out.to_host()[0], 64);
}

// ---------- the table

enum : unsigned { plain = 1, asan = 2, race = 4, all = 7 };

struct Planted {
  const char* name;
  void (*run)();
  unsigned caught_by;     // 0: correct
  const char* says = "";  // part of the message, so that it is caught for the right reason
};

const Planted table[] = {
    {"nearest: no wait for the copies", [] { check_nearest<nearest_no_wait>(70, 200); }, all},
    {"nearest: waits for one group too few", [] { check_nearest<nearest_waits_short>(70, 200); }, all},
    {"nearest: no barrier after the wait", [] { check_nearest<nearest_no_barrier_after_wait>(70, 200); }, all},
    {"nearest: no barrier before a tile is reused", [] { check_nearest<nearest_no_barrier_before_reuse>(70, 200); },
     all},
    {"compact: scan storage reused", [] { check_compact<compact_reuses_storage>(300); }, all, "storage used again"},
    {"compact: no barrier after the first store", [] { check_compact<compact_no_barrier_after_base>(300); }, race,
     "race checker"},
    {"pairs: lanes leave before a vote", [] { check_pairs<pair_leaves_vote>(40); }, all, "exits while"},
    {"pairs: reads one atom too far", [] { check_pairs<pair_reads_beyond>(40); }, asan},
    {"pairs: fill finds more than count", [] { check_pairs<pair_fill_differs>(40); }, all},
    {"sum: no fence before the atomic", [] { check_sum<sum_no_release>(400); }, race, "race checker"},
    {"sum: no fence after the atomic", [] { check_sum<sum_no_acquire>(400); }, race, "race checker"},
    {"no __syncwarp", run_rotate<false>, all},
    {"vote taken for a memory barrier", run_rotate_after_vote, race, "race checker"},
    {"block scan taken for a barrier", run_rotate_after_scan, race, "race checker"},
    {"scratch shared by blocks", run_scratch, all},
    {"lost update", run_count, race, "race checker"},
    {"misaligned vector load", run_misaligned, asan, "misaligned address"},
    {"index overflow", run_overflow, asan, "signed integer overflow"},
    {"shift in place reads stale data", run_shift, all},
    {"same value written by all", run_same_value, race, "race checker"},
    {"reads unwritten shared memory, unused", run_reads_unwritten, race, "shared memory nobody wrote"},
    {"sum in shared memory never set to 0", run_sums_without_start, all},
    {"barriers in both branches", run_on<divergent_barriers, 64>, all, "divergent"},
    {"barrier after an early return", run_on<barrier_after_exit, 64>, all, "exits while"},
    {"mask lacks the caller", run_on<shuffle_lacks_lane, 64>, all, "lacks the calling lane"},
    {"masks differ", run_on<masks_differ, 32>, all, "exits while"},
    {"barrier in half a warp, vote in the other", run_on<barrier_in_half_a_warp, 32>, all, "deadlock"},
    {"shuffle reads a lane outside of the mask", run_shuffle_from_outside, all},
    {"more shared memory than sm_75 has", run_large_tile, all, "the limits are"},
    {"float atomics", run_float_atomics, all, "result == first"},
    {"spin-wait", run_spins, all, "time limit"},
    {"copy never waited for", run_copies<never_waits>, all, "never waited for"},
    {"copy never committed", run_copies<forgets_commit>, all, "never waited for"},
    {"shared array read beyond its end", run_shared_beyond, asan, "heap-buffer-overflow"},
    {"local array read beyond its end", run_local_beyond, asan, "insufficient space"},
    {"mma operands not rounded", run_mma_not_rounded, all, "not a tf32 number"},
    {"plain read of an atomic counter", run_plain_read_of_atomic, race, "race checker"},
    {"exception in a kernel", run_on<throws, 64>, all, "from inside a fiber"},

    {"correct: nearest", [] { check_nearest(70, 200); }, 0},
    {"correct: compact", [] { check_compact(300); }, 0},
    {"correct: pairs", [] { check_pairs(40); }, 0},
    {"correct: sum with both fences", [] { check_sum(400); }, 0},
    {"correct: __syncwarp", run_rotate<true>, 0},
    {"correct: early return, no collective", run_early_exit, 0},
    {"correct: neighboring bytes", run_bytes, 0},
    {"correct: half-warp masks", run_half_warps, 0},
    {"correct: histogram", run_histogram, 0},
    {"correct: loops of different length", run_warp_loops, 0},
};

}  // namespace

int main() {
  const std::string mode = testing::mode;
  const unsigned own = mode == "asan" ? asan : mode == "race" ? race : plain;
  int failures = 0, caught = 0, bugs = 0;
  for (const Planted& one : table) {
    const auto outcome = testing::in_child([&] { in_all_orders(one.run); }, 3);
    const bool must = (one.caught_by & own) != 0, correct = one.caught_by == 0;
    const bool said = outcome.how.find(one.says) != std::string::npos;
    const bool wrong = (must && !(outcome.caught && said)) || (correct && outcome.caught);
    failures += wrong;
    bugs += !correct;
    caught += !correct && outcome.caught;
    std::printf("%-7s %-45s %s\n",
                wrong            ? "FAILED"
                : outcome.caught ? "caught"
                : correct        ? "passed"
                                 : "missed",
                one.name, outcome.how.substr(0, 150).c_str());
  }
  std::printf("%s: %d of %d planted bugs caught, %d entries not as expected\n", mode.c_str(), caught, bugs, failures);
  return failures == 0 ? 0 : 1;
}
