// Compiler differences in one place. SYMKERN_HD marks functions that run on the host and on the device: the same
// formula is compiled by g++ and by nvcc, so that CPU and CUDA never have two copies of the math.
#pragma once

#if defined(__CUDACC__)
#define SYMKERN_HD __host__ __device__ inline
#else
#define SYMKERN_HD inline
#endif

#if defined(__GNUC__)
#define SYMKERN_ALWAYS_INLINE inline __attribute__((always_inline))
#define SYMKERN_LIKELY(x) __builtin_expect(!!(x), 1)
#define SYMKERN_UNLIKELY(x) __builtin_expect(!!(x), 0)
#else
#define SYMKERN_ALWAYS_INLINE inline
#define SYMKERN_LIKELY(x) (x)
#define SYMKERN_UNLIKELY(x) (x)
#endif
