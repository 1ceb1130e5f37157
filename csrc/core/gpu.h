// symkern: everything a GPU schedule needs, on CUDA and on the host.
//
// Compiled by nvcc this header maps onto CUDA; by any other compiler onto the SIMT shim (testing/simt.h), which runs
// the same kernels on the CPU to find bugs. No other file has __CUDA_ARCH__, PTX, CUB or a kernel launch.
//
// Kernels:
//   SYMKERN_KERNEL SYMKERN_BOUNDS(128 [, blocks per multiprocessor]) name(args)  { ... }  arguments by value, trivially
//   copyable; may be a template SYMKERN_DEVICE int helper(...)                          inline device function, may use
//   everything below SYMKERN_SHARED(type, name, count);                      T (&name)[count], 16-byte aligned, count
//   constant SYMKERN_DYNAMIC_SHARED(type, name);                     T* name, 16-byte aligned, size given at launch
//
// CUDA names that work on both:
//   threadIdx.x blockIdx.x blockDim.x gridDim.x, __syncthreads{,_or,_and,_count}, __syncwarp
//   __ballot_sync __any_sync __all_sync __match_any_sync, __shfl{,_up,_down,_xor}_sync (4- and 8-byte numbers)
//   __popc{,ll} __ffs{,ll} __clz{,ll}, __threadfence{,_block}, __ldg
//   atomicAdd/Sub/Min/Max/And/Or/Xor/Exch/CAS, on the types CUDA has (atomicAdd on floats for planted bugs only)
//   float2 float4 double2 int2 int4 uint2 uint4, make_*
//
// In kernels:
//   gpu::lane(), gpu::warp(), gpu::full_mask        position in the block, mask of all 32 lanes
//   gpu::reduce_add/min/max(mask, x)                int or unsigned, result in each lane of mask
//   gpu::warp_sum(x), gpu::warp_exclusive_sum(int)  all 32 lanes, fixed order
//   gpu::BlockScan<T, THREADS>                      SYMKERN_SHARED(typename Scan::Storage, s, 1);
//                                                   x = Scan::exclusive_sum(s[0], x, total);
//                                                   no barrier: __syncthreads() before s or other threads' data
//   gpu::async_copy16(shared, global), gpu::async_commit(), gpu::async_wait<N>()
//   gpu::load16(p), gpu::store16(p, v)              16 bytes at once (float4, double2), 16-byte aligned
//   gpu::to_tf32(x), gpu::mma_m16n8k8_tf32(c, a, b)  c += a b on per-lane fragments
//   gpu::has_tf32()                                 whether that is fast on the device compiled for
//
// On the host:
//   gpu::Stream, gpu::on_device, gpu::grid_for(items, block), gpu::check(error, what)
//   gpu::launch(kernel<...>, blocks, threads, dynamic_shared_bytes, stream, args...)  the only way to start a kernel
//   gpu::memset_async(p, byte, bytes, stream)
//   gpu::symbol_address(variable)                  of a __device__ variable
//   gpu::room<kernel>(threads)                     what the device has for a kernel: see `Room`
//   gpu::copy_to_host(dst, src, bytes, stream)      waits for the stream
// Device-wide; called twice as in CUB (temp == nullptr: only sets bytes); n is 64-bit; outputs distinct from inputs:
//   gpu::exclusive_sum, gpu::inclusive_sum(temp, bytes, in, out, n, stream)  summed in the type of out
//   gpu::sort_pairs(temp, bytes, keys_in, keys_out, values_in, values_out, n, begin_bit, end_bit, stream)  stable
//   gpu::sort_keys(temp, bytes, keys_in, keys_out, n, begin_bit, end_bit, stream)
// Define SYMKERN_GPU_NO_DEVICE_ALGORITHMS before including to leave these out where nvcc's time matters.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <string>
#include <type_traits>

#ifdef __CUDACC__
#include <cub/block/block_scan.cuh>
#include <cuda_runtime.h>
#ifndef SYMKERN_GPU_NO_DEVICE_ALGORITHMS
#include <cub/device/device_radix_sort.cuh>
#include <cub/device/device_scan.cuh>
#include <cuda/std/functional>
#endif
#else
#include "testing/simt.h"
#endif

// ---------- declarations

#ifdef __CUDACC__
#define SYMKERN_KERNEL [[maybe_unused]] static __global__ void
#define SYMKERN_BOUNDS(...) __launch_bounds__(__VA_ARGS__)
#define SYMKERN_DEVICE __device__ __forceinline__
#define SYMKERN_UNROLL _Pragma("unroll")
#define SYMKERN_PRAGMA(text) _Pragma(#text)
#define SYMKERN_UNROLL_BY(count) SYMKERN_PRAGMA(unroll count)
#define SYMKERN_NO_UNROLL _Pragma("unroll 1")
#define SYMKERN_SHARED(type, name, count) __shared__ __align__(16) type name[count]
#define SYMKERN_DYNAMIC_SHARED(type, name)          \
  extern __shared__ uint4 symkern_dynamic_shared[]; \
  type* const name = reinterpret_cast<type*>(symkern_dynamic_shared)
#else
#define SYMKERN_KERNEL [[maybe_unused]] static void
#define SYMKERN_BOUNDS(...)
#define SYMKERN_DEVICE inline
#define SYMKERN_UNROLL
#define SYMKERN_UNROLL_BY(count)
#define SYMKERN_NO_UNROLL
// The static in the lambda gives one key per declaration and template instance, as one __shared__ variable does.
#define SYMKERN_SHARED(type, name, count)                                       \
  auto& name = ::symkern::simt::shared_array<type, count>([]() -> const void* { \
    static char key;                                                            \
    return &key;                                                                \
  }())
#define SYMKERN_DYNAMIC_SHARED(type, name) type* const name = static_cast<type*>(::symkern::simt::dynamic_shared())
#endif

namespace symkern::gpu {

constexpr unsigned full_mask = 0xffffffffu;
constexpr std::size_t static_shared_limit = 48 * 1024;    // what a kernel gets without asking
constexpr std::size_t portable_shared_limit = 64 * 1024;  // sm_75, the smallest of the supported devices

SYMKERN_DEVICE int lane() { return static_cast<int>(threadIdx.x & 31u); }
SYMKERN_DEVICE int warp() { return static_cast<int>(threadIdx.x >> 5); }

// ---------- host side

#ifdef __CUDACC__
using Stream = cudaStream_t;
constexpr bool on_device = true;

inline void check(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  cudaGetLastError();  // not sticky: the next call must not report this one again
  throw std::runtime_error(std::string(what) + ": " + cudaGetErrorString(error));
}
#else
using Stream = void*;
constexpr bool on_device = false;

inline void check(int error, const char* what) {
  if (error != 0) throw std::runtime_error(std::string(what) + ": error " + std::to_string(error));
}
#endif

namespace detail {

template <class T>
struct Identity {
  using type = T;
};

inline void check_launch(std::int64_t blocks, int threads, std::size_t shared, std::size_t shared_limit) {
  if (blocks < 0 || blocks > INT32_MAX)
    throw std::runtime_error("launch: " + std::to_string(blocks) +
                             " blocks, the limit is 2^31 - 1; use a grid-stride loop");
  if (threads <= 0 || threads > 1024 || threads % 32 != 0)
    throw std::runtime_error("launch: " + std::to_string(threads) +
                             " threads in a block, not a multiple of 32 in 32..1024");
  if (shared > shared_limit)
    throw std::runtime_error("launch: " + std::to_string(shared) + " bytes of dynamic shared memory, the limit is " +
                             std::to_string(shared_limit));
}

}  // namespace detail

// Blocks for one thread per item, capped so that the kernel's grid-stride loop takes the rest.
inline std::int64_t grid_for(std::int64_t items, int block, std::int64_t cap = std::int64_t{1} << 20) {
  return items <= 0 ? 0 : std::min((items - 1) / block + 1, cap);
}

// Arguments convert to the kernel's parameter types. blocks == 0 does nothing.
template <class... P>
void launch(void (*kernel)(P...), std::int64_t blocks, int threads, std::size_t shared, Stream stream,
            typename detail::Identity<P>::type... args) {
  static_assert((std::is_trivially_copyable_v<P> && ...), "kernel arguments are copied as bytes");
#ifdef __CUDACC__
  std::size_t limit = static_shared_limit;
  if (shared > limit) {
    int device = 0, opt_in = 0;
    check(cudaGetDevice(&device), "cudaGetDevice");
    check(cudaDeviceGetAttribute(&opt_in, cudaDevAttrMaxSharedMemoryPerBlockOptin, device), "cudaDeviceGetAttribute");
    limit = static_cast<std::size_t>(opt_in);
  }
  detail::check_launch(blocks, threads, shared, limit);
  if (blocks == 0) return;
  if (shared > static_shared_limit)
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared)),
          "launch: dynamic shared memory");
  void* pointers[] = {const_cast<void*>(static_cast<const void*>(&args))..., nullptr};
  check(cudaLaunchKernel(reinterpret_cast<const void*>(kernel), dim3(static_cast<unsigned>(blocks)),
                         dim3(static_cast<unsigned>(threads)), pointers, shared, stream),
        "kernel launch");
#else
  (void)stream;
  detail::check_launch(blocks, threads, shared, portable_shared_limit);
  if (blocks > 0) simt::launch(blocks, threads, shared, [&] { kernel(args...); });
#endif
}

inline void memset_async(void* p, int byte, std::size_t bytes, [[maybe_unused]] Stream stream) {
  if (bytes == 0) return;
#ifdef __CUDACC__
  check(cudaMemsetAsync(p, byte, bytes, stream), "cudaMemsetAsync");
#else
  std::memset(p, byte, bytes);
#endif
}

// For persistent kernels: multiprocessors, blocks of the kernel that fit on one as far as registers go, and bytes of
// dynamic shared memory of a block, and of all blocks on one multiprocessor.
struct Room {
  int multiprocessors, blocks;
  std::size_t shared_block, shared_all;
};

template <auto kernel>
Room room([[maybe_unused]] int threads) {
#ifdef __CUDACC__
  int device = 0;
  check(cudaGetDevice(&device), "cudaGetDevice");
  thread_local Room found{};  // of `known`: asking takes longer than a launch
  thread_local int known = -1;
  if (device == known) return found;
  int block = 0, all = 0, reserved = 0;
  check(cudaDeviceGetAttribute(&found.multiprocessors, cudaDevAttrMultiProcessorCount, device), "multiprocessors");
  check(cudaDeviceGetAttribute(&block, cudaDevAttrMaxSharedMemoryPerBlockOptin, device), "shared memory");
  check(cudaDeviceGetAttribute(&all, cudaDevAttrMaxSharedMemoryPerMultiprocessor, device), "shared memory");
  check(cudaDeviceGetAttribute(&reserved, cudaDevAttrReservedSharedMemoryPerBlock, device), "shared memory");
  check(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&found.blocks, kernel, threads, 0), "occupancy");
  cudaFuncAttributes made{};
  check(cudaFuncGetAttributes(&made, reinterpret_cast<const void*>(kernel)), "cudaFuncGetAttributes");
  found.blocks = std::max(found.blocks, 1);
  found.shared_block = static_cast<std::size_t>(block) - made.sharedSizeBytes;
  found.shared_all = static_cast<std::size_t>(all) - static_cast<std::size_t>(found.blocks) *
                                                         (static_cast<std::size_t>(reserved) + made.sharedSizeBytes);
  known = device;
  return found;
#else
  return {2, 2, simt::config().shared_limit - 9 * 1024, 2 * simt::config().shared_limit};  // 9 KB of static arrays
#endif
}

// Where a __device__ variable lives; on the host, the variable itself.
template <class T>
void* symbol_address(T& symbol) {
#ifdef __CUDACC__
  void* address = nullptr;
  check(cudaGetSymbolAddress(&address, symbol), "cudaGetSymbolAddress");
  return address;
#else
  return &symbol;
#endif
}

// The one place where the host waits for the device.
inline void copy_to_host(void* dst, const void* src, std::size_t bytes, [[maybe_unused]] Stream stream) {
#ifdef __CUDACC__
  if (bytes > 0) check(cudaMemcpyAsync(dst, src, bytes, cudaMemcpyDeviceToHost, stream), "cudaMemcpyAsync");
  check(cudaStreamSynchronize(stream), "cudaStreamSynchronize");
#else
  if (bytes > 0) std::memcpy(dst, src, bytes);
#endif
}

#ifndef SYMKERN_GPU_NO_DEVICE_ALGORITHMS
#ifdef __CUDACC__

template <class In, class Out>
void exclusive_sum(void* temp, std::size_t& bytes, const In* in, Out* out, std::int64_t n, Stream stream) {
  check(cub::DeviceScan::ExclusiveScan(temp, bytes, in, out, cuda::std::plus<>{}, Out{0}, n, stream), "exclusive_sum");
}

template <class In, class Out>
void inclusive_sum(void* temp, std::size_t& bytes, const In* in, Out* out, std::int64_t n, Stream stream) {
  check(cub::DeviceScan::InclusiveScanInit(temp, bytes, in, out, cuda::std::plus<>{}, Out{0}, n, stream),
        "inclusive_sum");
}

template <class Key, class Value>
void sort_pairs(void* temp, std::size_t& bytes, const Key* keys_in, Key* keys_out, const Value* values_in,
                Value* values_out, std::int64_t n, int begin_bit, int end_bit, Stream stream) {
  static_assert(std::is_unsigned_v<Key>);
  check(cub::DeviceRadixSort::SortPairs(temp, bytes, keys_in, keys_out, values_in, values_out, n, begin_bit, end_bit,
                                        stream),
        "sort_pairs");
}

template <class Key>
void sort_keys(void* temp, std::size_t& bytes, const Key* keys_in, Key* keys_out, std::int64_t n, int begin_bit,
               int end_bit, Stream stream) {
  static_assert(std::is_unsigned_v<Key>);
  check(cub::DeviceRadixSort::SortKeys(temp, bytes, keys_in, keys_out, n, begin_bit, end_bit, stream), "sort_keys");
}

#else

template <class In, class Out>
void exclusive_sum(void* temp, std::size_t& bytes, const In* in, Out* out, std::int64_t n, Stream) {
  if (!simt::use_temp(temp, bytes, n)) return;
  Out sum = 0;
  for (std::int64_t i = 0; i < n; ++i) {
    const Out x = static_cast<Out>(in[i]);  // before the store: in may be out
    out[i] = sum;
    sum += x;
  }
}

template <class In, class Out>
void inclusive_sum(void* temp, std::size_t& bytes, const In* in, Out* out, std::int64_t n, Stream) {
  if (!simt::use_temp(temp, bytes, n)) return;
  Out sum = 0;
  for (std::int64_t i = 0; i < n; ++i) out[i] = sum += static_cast<Out>(in[i]);
}

template <class Key, class Value>
void sort_pairs(void* temp, std::size_t& bytes, const Key* keys_in, Key* keys_out, const Value* values_in,
                Value* values_out, std::int64_t n, int begin_bit, int end_bit, Stream) {
  static_assert(std::is_unsigned_v<Key>);
  if (!simt::use_temp(temp, bytes, n)) return;
  if (n > 0 && (keys_in == keys_out || (values_in != nullptr && values_in == values_out)))
    throw std::runtime_error("sort_pairs: outputs must differ from inputs");
  simt::stable_sort(keys_in, keys_out, values_in, values_out, n, begin_bit, end_bit);
}

template <class Key>
void sort_keys(void* temp, std::size_t& bytes, const Key* keys_in, Key* keys_out, std::int64_t n, int begin_bit,
               int end_bit, Stream stream) {
  sort_pairs<Key, char>(temp, bytes, keys_in, keys_out, nullptr, nullptr, n, begin_bit, end_bit, stream);
}

#endif
#endif  // SYMKERN_GPU_NO_DEVICE_ALGORITHMS

// ---------- warp and block

namespace detail {

// sm_75 has no redux: every lane of the mask reads every other one, in lane order.
template <class T, class Op>
SYMKERN_DEVICE T reduce_by_shuffles(unsigned mask, T x, Op op) {
  T result = __shfl_sync(mask, x, __ffs(static_cast<int>(mask)) - 1);
  for (unsigned rest = mask & (mask - 1); rest != 0; rest &= rest - 1)
    result = op(result, __shfl_sync(mask, x, __ffs(static_cast<int>(rest)) - 1));
  return result;
}

struct Add {
  template <class T>
  SYMKERN_DEVICE T operator()(T a, T b) const {
    return a + b;
  }
};
struct Min {
  template <class T>
  SYMKERN_DEVICE T operator()(T a, T b) const {
    return b < a ? b : a;
  }
};
struct Max {
  template <class T>
  SYMKERN_DEVICE T operator()(T a, T b) const {
    return a < b ? b : a;
  }
};

}  // namespace detail

template <class T>
SYMKERN_DEVICE T reduce_add(unsigned mask, T x) {
  static_assert(std::is_same_v<T, int> || std::is_same_v<T, unsigned>);
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  return __reduce_add_sync(mask, x);
#else
  return detail::reduce_by_shuffles(mask, x, detail::Add{});
#endif
}

template <class T>
SYMKERN_DEVICE T reduce_min(unsigned mask, T x) {
  static_assert(std::is_same_v<T, int> || std::is_same_v<T, unsigned>);
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  return __reduce_min_sync(mask, x);
#else
  return detail::reduce_by_shuffles(mask, x, detail::Min{});
#endif
}

template <class T>
SYMKERN_DEVICE T reduce_max(unsigned mask, T x) {
  static_assert(std::is_same_v<T, int> || std::is_same_v<T, unsigned>);
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  return __reduce_max_sync(mask, x);
#else
  return detail::reduce_by_shuffles(mask, x, detail::Max{});
#endif
}

// Butterfly: the same tree in every lane, so all lanes get the same bits.
template <class T>
SYMKERN_DEVICE T warp_sum(T x) {
  for (int step = 16; step > 0; step /= 2) x += __shfl_xor_sync(full_mask, x, step);
  return x;
}

template <class T>
SYMKERN_DEVICE T warp_min(T x) {
  for (int step = 16; step > 0; step /= 2) x = fmin(x, __shfl_xor_sync(full_mask, x, step));
  return x;
}

template <class T>
SYMKERN_DEVICE T warp_max(T x) {
  for (int step = 16; step > 0; step /= 2) x = fmax(x, __shfl_xor_sync(full_mask, x, step));
  return x;
}

SYMKERN_DEVICE int warp_exclusive_sum(int x) {
  int sum = x;
  for (int step = 1; step < 32; step *= 2) {
    const int left = __shfl_up_sync(full_mask, sum, static_cast<unsigned>(step));
    if (lane() >= step) sum += left;
  }
  return sum - x;
}

// All THREADS == blockDim.x threads take part. Neither a barrier nor a fence: __syncthreads() before storage is used
// again.
template <class T, int THREADS>
struct BlockScan {
#ifdef __CUDACC__
  using Scan = cub::BlockScan<T, THREADS>;
  using Storage = typename Scan::TempStorage;

  static SYMKERN_DEVICE T exclusive_sum(Storage& storage, T x, T& total) {
    T result;
    Scan(storage).ExclusiveSum(x, result, total);
    return result;
  }
#else
  struct Storage {
    T value[THREADS];
  };

  static T exclusive_sum(Storage& storage, T x, T& total, simt::Where where = simt::Where::current()) {
    return simt::block_exclusive_sum(storage.value, THREADS, x, total, where);
  }
#endif
};

// ---------- async copies

#ifndef __CUDACC__
using simt::async_commit;
using simt::async_copy16;

template <int N>
void async_wait() {
  simt::async_wait(N);
}
#else
// Copies 16 bytes from global to shared memory, both 16-byte aligned. Neither may be touched before the wait; the data
// is then there for the thread that copied, and for the block after a barrier.
SYMKERN_DEVICE void async_copy16(void* shared, const void* global) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  asm volatile(
      "cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(static_cast<unsigned>(__cvta_generic_to_shared(shared))),
      "l"(__cvta_generic_to_global(global))
      : "memory");
#else
  *static_cast<uint4*>(shared) = *static_cast<const uint4*>(global);
#endif
}

// Closes the group of the copies made so far by this thread.
SYMKERN_DEVICE void async_commit() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

// Waits until at most the last N groups of this thread are still under way.
template <int N>
SYMKERN_DEVICE void async_wait() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
#endif
}
#endif

// ---------- 16 bytes at once

// Component by component on the host, where the race checker would not see the copy of a whole struct.
#ifndef __CUDACC__
inline void check_aligned(const void* p) {
  if (reinterpret_cast<std::uintptr_t>(p) % 16 != 0) throw std::runtime_error("16-byte access to unaligned memory");
}
inline float4 load16(const float* p) { return check_aligned(p), float4{p[0], p[1], p[2], p[3]}; }
inline double2 load16(const double* p) { return check_aligned(p), double2{p[0], p[1]}; }
inline void store16(float* p, float4 v) { check_aligned(p), p[0] = v.x, p[1] = v.y, p[2] = v.z, p[3] = v.w; }
inline void store16(double* p, double2 v) { check_aligned(p), p[0] = v.x, p[1] = v.y; }
#else
SYMKERN_DEVICE float4 load16(const float* p) { return *reinterpret_cast<const float4*>(p); }
SYMKERN_DEVICE double2 load16(const double* p) { return *reinterpret_cast<const double2*>(p); }
SYMKERN_DEVICE void store16(float* p, float4 v) { *reinterpret_cast<float4*>(p) = v; }
SYMKERN_DEVICE void store16(double* p, double2 v) { *reinterpret_cast<double2*>(p) = v; }
#endif

// ---------- tensor core

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
SYMKERN_DEVICE constexpr bool has_tf32() { return false; }
#else
SYMKERN_DEVICE constexpr bool has_tf32() { return true; }
#endif

// Nearest tf32 value (10 explicit mantissa bits, ties away from zero), as a float.
SYMKERN_DEVICE float to_tf32(float x) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  unsigned bits;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(x));
  return __uint_as_float(bits);
#else
  unsigned bits;
  memcpy(&bits, &x, sizeof bits);
  if ((bits & 0x7f800000u) != 0x7f800000u) bits = (bits + 0x1000u) & ~0x1fffu;  // infinities and NaNs stay
  memcpy(&x, &bits, sizeof bits);
  return x;
#endif
}

// c += a b for a 16x8 (row, k), b 8x8 (k, column), c 16x8, all operands already through to_tf32(). With g = lane / 4, t
// = lane % 4:
//   a = { A[g][t], A[g + 8][t], A[g][t + 4], A[g + 8][t + 4] }      b = { B[t][g], B[t + 4][g] }
//   c = { C[g][2t], C[g][2t + 1], C[g + 8][2t], C[g + 8][2t + 1] }
// All 32 lanes. Tensor cores sum in an order of their own: bitwise equal between runs, not between devices.
#ifndef __CUDACC__
using simt::mma_m16n8k8_tf32;
#else
SYMKERN_DEVICE void mma_m16n8k8_tf32(float (&c)[4], const float (&a)[4], const float (&b)[2]) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  asm volatile(
      "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, "
      "%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(__float_as_uint(a[0])), "r"(__float_as_uint(a[1])), "r"(__float_as_uint(a[2])), "r"(__float_as_uint(a[3])),
        "r"(__float_as_uint(b[0])), "r"(__float_as_uint(b[1])));
#else
  const int group = lane() / 4, pair = lane() % 4;
  for (int k = 0; k < 8; ++k) {
    const float top = __shfl_sync(full_mask, k < 4 ? a[0] : a[2], group * 4 + k % 4);
    const float bottom = __shfl_sync(full_mask, k < 4 ? a[1] : a[3], group * 4 + k % 4);
    for (int j = 0; j < 2; ++j) {
      const float right = __shfl_sync(full_mask, k < 4 ? b[0] : b[1], (2 * pair + j) * 4 + k % 4);
      c[j] += top * right;
      c[2 + j] += bottom * right;
    }
  }
#endif
}
#endif

}  // namespace symkern::gpu
