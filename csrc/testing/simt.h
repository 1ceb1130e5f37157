// CUDA's thread model on the host, to run GPU schedules without a GPU and to find their bugs. Every CUDA thread is a
// fiber of one host thread; fibers switch only at collectives, atomics and (race checker) memory accesses, in an order
// drawn from Config. Launches are synchronous; only one host thread may launch. Included by core/gpu.h; tests use
// Config, with() and for_orders() from here, everything else through gpu.h.
#pragma once

#include <algorithm>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <numeric>
#include <source_location>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <vector>

namespace symkern::simt {

using Where = std::source_location;

struct Index {
  unsigned x = 0, y = 0, z = 0;
};

}  // namespace symkern::simt

// Of the running fiber; the scheduler sets them at every switch.
inline symkern::simt::Index threadIdx, blockIdx, blockDim, gridDim;

namespace symkern::simt {

// ---------- for the tests

enum class Order { forward, reverse, random };

struct Config {
  Order order = Order::forward;
  unsigned seed = 0;        // random order: choices of the scheduler, fill of shared memory, time of async copies
  int resident_blocks = 2;  // blocks whose threads are interleaved
  std::size_t shared_limit = 64 * 1024;  // static + dynamic, per block (sm_75)

  std::string name() const;
};

// The configuration of the next launches. Starts from SYMKERN_SIMT_ORDER (forward, reverse, random) and
// SYMKERN_SIMT_SEED; if the former is set, orders() returns nothing else, to repeat one run of a failed test.
Config& config();

template <class F>
void with(const Config& temporary, F&& run) {
  struct Restore {
    Config saved = config();
    ~Restore() { config() = saved; }
  } restore;
  config() = temporary;
  run();
}

// Forward, reverse and random orders with seeds 1 to random_seeds. Less than five seeds miss known bugs.
std::vector<Config> orders(int random_seeds = 5);

// Runs under each of them; an exception says which one it was.
template <class F>
void for_orders(F&& run, int random_seeds = 5) {
  for (const Config& one : orders(random_seeds)) {
    try {
      with(one, run);
    } catch (const std::exception& error) {
      throw std::runtime_error("[" + one.name() + "] " + error.what());
    }
  }
}

// ---------- for gpu.h

void launch(std::int64_t blocks, int threads, std::size_t shared_bytes, void (*run)(const void*), const void* kernel);

template <class F>
void launch(std::int64_t blocks, int threads, std::size_t shared_bytes, const F& kernel) {
  launch(blocks, threads, shared_bytes, [](const void* f) { (*static_cast<const F*>(f))(); }, &kernel);
}

// One array per block, key and size; exactly as large as asked for, so that ASan sees the first byte beyond.
void* shared_memory(const void* key, std::size_t bytes);
void* dynamic_shared();

template <class T, std::size_t N>
auto shared_array(const void* key) -> T (&)[N] {
  static_assert(std::is_trivially_copyable_v<T> && alignof(T) <= 16, "shared memory has no constructors");
  return *static_cast<T(*)[N]>(shared_memory(key, sizeof(T) * N));
}

// The primitive under all collectives: each participant leaves a slot, the last one to arrive calls resolve with the
// slots of all (nullptr where a lane is not in the mask), then everyone goes on in the order of the scheduler.
using Resolve = void (*)(void** slots, int count);
void warp_meet(const char* what, unsigned mask, void* slot, Resolve resolve, Where where);
void block_meet(const char* what, void* slot, Resolve resolve, Where where);

void block_barrier(const char* what, void* slot, Resolve resolve, Where where);  // block_meet that orders memory
void warp_barrier(unsigned mask, Where where);                                   // warp_meet that orders memory
std::uint64_t gather(const char* what, unsigned mask, std::uint64_t bits, int source_lane, Where where);
unsigned ballot(const char* what, unsigned mask, bool vote, Where where);
unsigned match(unsigned mask, std::uint64_t bits, Where where);
void fence();

enum class Atomic { add, min, max, bit_and, bit_or, bit_xor, exchange, compare_and_swap };
template <class T>
T atomic(Atomic operation, T* p, T value, T compare = T{});  // int, unsigned, (unsigned) long long, float, double

void async_copy16(void* shared, const void* global, Where where = Where::current());
void async_commit();
void async_wait(int groups_left);
void mma_m16n8k8_tf32(float (&c)[4], const float (&a)[4], const float (&b)[2], Where where = Where::current());

// Called when a block scan begins: its storage must not have been used since the last barrier.
void claim_scan_storage(const void* storage, int scan_threads);

template <class T>
T block_exclusive_sum(T* storage, int scan_threads, T x, T& total, Where where) {
  struct Slot {
    T x, total;
  } slot{x, T{}};
  claim_scan_storage(storage, scan_threads);
  storage[threadIdx.x] = x;  // as CUB would: whatever else is kept in these bytes is gone
  block_meet(
      "BlockScan", &slot,
      [](void** slots, int count) {
        T sum = 0;
        for (int i = 0; i < count; ++i) {
          Slot& one = *static_cast<Slot*>(slots[i]);
          const T value = one.x;
          one.x = sum;
          sum += value;
        }
        for (int i = 0; i < count; ++i) static_cast<Slot*>(slots[i])->total = sum;
      },
      where);
  storage[threadIdx.x] = slot.x;
  total = slot.total;
  return slot.x;
}

// Both calls of the two-call interface; true in the second one, after overwriting temp to show what overlaps with it.
bool use_temp(void* temp, std::size_t& bytes, std::int64_t n);

template <class Key, class Value>
void stable_sort(const Key* keys_in, Key* keys_out, const Value* values_in, Value* values_out, std::int64_t n,
                 int begin_bit, int end_bit) {
  constexpr int width = static_cast<int>(8 * sizeof(Key));
  if (begin_bit < 0 || end_bit > width || begin_bit > end_bit)
    throw std::runtime_error("sort: bits outside of the key");
  auto digits = [&](std::int64_t i) {
    const Key low = static_cast<Key>(end_bit == width ? ~Key{0} : (Key{1} << end_bit) - 1);
    return begin_bit == width ? Key{0} : static_cast<Key>((keys_in[i] & low) >> begin_bit);
  };
  std::vector<std::int64_t> order(static_cast<std::size_t>(n));
  std::iota(order.begin(), order.end(), std::int64_t{0});
  std::stable_sort(order.begin(), order.end(), [&](std::int64_t i, std::int64_t j) { return digits(i) < digits(j); });
  for (std::int64_t i = 0; i < n; ++i) keys_out[i] = keys_in[order[i]];
  if (values_in == nullptr) return;
  for (std::int64_t i = 0; i < n; ++i) values_out[i] = values_in[order[i]];
}

template <class T>
concept Number = std::is_arithmetic_v<T> && (sizeof(T) == 4 || sizeof(T) == 8);

template <Number T>
std::uint64_t to_bits(T x) {
  std::uint64_t bits = 0;
  std::memcpy(&bits, &x, sizeof x);
  return bits;
}

template <Number T>
T from_bits(std::uint64_t bits) {
  T x;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}

}  // namespace symkern::simt

// ---------- CUDA's names, for kernels

#define SYMKERN_SIMT_WHERE symkern::simt::Where where = symkern::simt::Where::current()

inline void __syncthreads(SYMKERN_SIMT_WHERE) {
  symkern::simt::block_barrier("__syncthreads", nullptr, nullptr, where);
}

inline int __syncthreads_count(int predicate, SYMKERN_SIMT_WHERE) {
  int slot = predicate != 0;
  symkern::simt::block_barrier(
      "__syncthreads_{or,and,count}", &slot,
      [](void** slots, int count) {
        int sum = 0;
        for (int i = 0; i < count; ++i) sum += *static_cast<int*>(slots[i]);
        for (int i = 0; i < count; ++i) *static_cast<int*>(slots[i]) = sum;
      },
      where);
  return slot;
}
inline int __syncthreads_or(int predicate, SYMKERN_SIMT_WHERE) { return __syncthreads_count(predicate, where) > 0; }
inline int __syncthreads_and(int predicate, SYMKERN_SIMT_WHERE) {
  return __syncthreads_count(predicate, where) == static_cast<int>(blockDim.x);
}

inline void __syncwarp(unsigned mask = 0xffffffffu, SYMKERN_SIMT_WHERE) { symkern::simt::warp_barrier(mask, where); }
inline unsigned __ballot_sync(unsigned mask, int vote, SYMKERN_SIMT_WHERE) {
  return symkern::simt::ballot("__ballot_sync", mask, vote != 0, where);
}
inline int __any_sync(unsigned mask, int vote, SYMKERN_SIMT_WHERE) {
  return symkern::simt::ballot("__any_sync", mask, vote != 0, where) != 0;
}
inline int __all_sync(unsigned mask, int vote, SYMKERN_SIMT_WHERE) {
  return symkern::simt::ballot("__all_sync", mask, vote != 0, where) == mask;
}

template <symkern::simt::Number T>
unsigned __match_any_sync(unsigned mask, T x, SYMKERN_SIMT_WHERE) {
  return symkern::simt::match(mask, symkern::simt::to_bits(x), where);
}

// A lane outside of its segment of width lanes reads itself.
template <symkern::simt::Number T>
T __shfl_sync(unsigned mask, T x, int source, int width = 32, SYMKERN_SIMT_WHERE) {
  const int self = static_cast<int>(threadIdx.x & 31u);
  const int from = (self & ~(width - 1)) | (source & (width - 1));
  return symkern::simt::from_bits<T>(
      symkern::simt::gather("__shfl_sync", mask, symkern::simt::to_bits(x), from, where));
}
template <symkern::simt::Number T>
T __shfl_up_sync(unsigned mask, T x, unsigned delta, int width = 32, SYMKERN_SIMT_WHERE) {
  const int self = static_cast<int>(threadIdx.x & 31u), begin = self & ~(width - 1);
  const int from = self - static_cast<int>(delta) >= begin ? self - static_cast<int>(delta) : self;
  return symkern::simt::from_bits<T>(
      symkern::simt::gather("__shfl_up_sync", mask, symkern::simt::to_bits(x), from, where));
}
template <symkern::simt::Number T>
T __shfl_down_sync(unsigned mask, T x, unsigned delta, int width = 32, SYMKERN_SIMT_WHERE) {
  const int self = static_cast<int>(threadIdx.x & 31u), end = (self & ~(width - 1)) + width;
  const int from = self + static_cast<int>(delta) < end ? self + static_cast<int>(delta) : self;
  return symkern::simt::from_bits<T>(
      symkern::simt::gather("__shfl_down_sync", mask, symkern::simt::to_bits(x), from, where));
}
template <symkern::simt::Number T>
T __shfl_xor_sync(unsigned mask, T x, int lanes, int width = 32, SYMKERN_SIMT_WHERE) {
  const int self = static_cast<int>(threadIdx.x & 31u), other = self ^ lanes;
  const int from = other < (self & ~(width - 1)) + width ? other : self;
  return symkern::simt::from_bits<T>(
      symkern::simt::gather("__shfl_xor_sync", mask, symkern::simt::to_bits(x), from, where));
}

inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __ffsll(long long x) { return __builtin_ffsll(x); }
inline int __clz(int x) { return x == 0 ? 32 : __builtin_clz(static_cast<unsigned>(x)); }
inline int __clzll(long long x) { return x == 0 ? 64 : __builtin_clzll(static_cast<unsigned long long>(x)); }

inline void __threadfence() { symkern::simt::fence(); }
inline void __threadfence_block() {}  // orders nothing the race checker would accept: use a barrier or __threadfence()

template <class T>
T __ldg(const T* p) {
  return *p;
}

// The overloads CUDA has; uint64_t (unsigned long) needs the same cast there.
#define SYMKERN_SIMT_ATOMIC(name, T, operation) \
  inline T name(T* p, T x) { return symkern::simt::atomic<T>(symkern::simt::Atomic::operation, p, x); }
#define SYMKERN_SIMT_ATOMICS(name, operation)    \
  SYMKERN_SIMT_ATOMIC(name, int, operation)      \
  SYMKERN_SIMT_ATOMIC(name, unsigned, operation) \
  SYMKERN_SIMT_ATOMIC(name, unsigned long long, operation)
SYMKERN_SIMT_ATOMICS(atomicAdd, add)
SYMKERN_SIMT_ATOMIC(atomicAdd, float, add)  // results differ between orders: for planted bugs only
SYMKERN_SIMT_ATOMIC(atomicAdd, double, add)
SYMKERN_SIMT_ATOMICS(atomicMin, min)
SYMKERN_SIMT_ATOMIC(atomicMin, long long, min)
SYMKERN_SIMT_ATOMICS(atomicMax, max)
SYMKERN_SIMT_ATOMIC(atomicMax, long long, max)
SYMKERN_SIMT_ATOMICS(atomicAnd, bit_and)
SYMKERN_SIMT_ATOMICS(atomicOr, bit_or)
SYMKERN_SIMT_ATOMICS(atomicXor, bit_xor)
SYMKERN_SIMT_ATOMICS(atomicExch, exchange)
SYMKERN_SIMT_ATOMIC(atomicExch, float, exchange)
#undef SYMKERN_SIMT_ATOMICS
#undef SYMKERN_SIMT_ATOMIC
inline int atomicSub(int* p, int x) { return atomicAdd(p, static_cast<int>(0u - static_cast<unsigned>(x))); }
inline unsigned atomicSub(unsigned* p, unsigned x) { return atomicAdd(p, 0u - x); }

template <class T>
  requires std::same_as<T, int> || std::same_as<T, unsigned> || std::same_as<T, unsigned long long>
T atomicCAS(T* p, std::type_identity_t<T> compare, std::type_identity_t<T> value) {
  return symkern::simt::atomic<T>(symkern::simt::Atomic::compare_and_swap, p, value, compare);
}

#undef SYMKERN_SIMT_WHERE

#define SYMKERN_SIMT_VECTOR2(name, T, bytes) \
  struct alignas(bytes) name {               \
    T x, y;                                  \
  };                                         \
  inline name make_##name(T x, T y) { return {x, y}; }
#define SYMKERN_SIMT_VECTOR4(name, T, bytes) \
  struct alignas(bytes) name {               \
    T x, y, z, w;                            \
  };                                         \
  inline name make_##name(T x, T y, T z, T w) { return {x, y, z, w}; }
SYMKERN_SIMT_VECTOR2(float2, float, 8)
SYMKERN_SIMT_VECTOR2(int2, int, 8)
SYMKERN_SIMT_VECTOR2(uint2, unsigned, 8)
SYMKERN_SIMT_VECTOR2(double2, double, 16)
SYMKERN_SIMT_VECTOR4(float4, float, 16)
SYMKERN_SIMT_VECTOR4(int4, int, 16)
SYMKERN_SIMT_VECTOR4(uint4, unsigned, 16)
#undef SYMKERN_SIMT_VECTOR4
#undef SYMKERN_SIMT_VECTOR2
