// The words formulas are written in, for plain numbers on host and device. core/simd.h has the same for vectors, so one
// formula serves all.
#pragma once

#include <cmath>
#include <cstdint>

#include "core/macros.h"

// For formulas over any number type: always inlined, so that they leave no symbol that two instruction sets would
// share.
#if defined(__CUDACC__)
#define SYMKERN_FORMULA __host__ __device__ __forceinline__
#else
#define SYMKERN_FORMULA SYMKERN_ALWAYS_INLINE
#endif

namespace symkern {

SYMKERN_HD float select(bool mask, float a, float b) { return mask ? a : b; }
SYMKERN_HD double select(bool mask, double a, double b) { return mask ? a : b; }
SYMKERN_HD float multiply_add(float a, float b, float c) { return fmaf(a, b, c); }
SYMKERN_HD double multiply_add(double a, double b, double c) { return fma(a, b, c); }
SYMKERN_HD float reciprocal(float x) { return 1.0f / x; }
SYMKERN_HD double reciprocal(double x) { return 1.0 / x; }
SYMKERN_HD float exponential(float x) { return expf(x); }
SYMKERN_HD double exponential(double x) { return exp(x); }
SYMKERN_HD float log_one_plus(float x) { return log1pf(x); }  // vectors: 0 <= x <= 1
SYMKERN_HD double log_one_plus(double x) { return log1p(x); }
SYMKERN_FORMULA float sigmoid(float x) { return 1.0f / (expf(-x) + 1.0f); }
SYMKERN_FORMULA double sigmoid(double x) { return 1.0 / (exp(-x) + 1.0); }
SYMKERN_HD void sine_cosine(float x, float& s, float& c) { s = sinf(x), c = cosf(x); }
SYMKERN_HD void sine_cosine(double x, double& s, double& c) { s = sin(x), c = cos(x); }

// A plain number as a vector of one lane, for loops over vectors (core/simd.h has `Lanes` for real ones).
template <class T>
struct OneLane {
  using Scalar = T;
  using Vector = T;
  static constexpr int width = 1;
  SYMKERN_FORMULA static T splat(T x) { return x; }
  SYMKERN_FORMULA static T load(const T* p) { return *p; }
  SYMKERN_FORMULA static T load_first(const T* p, int64_t) { return *p; }
  SYMKERN_FORMULA static void store(T* p, T x) { *p = x; }
  SYMKERN_FORMULA static void store_first(T* p, T x, int64_t) { *p = x; }
  SYMKERN_FORMULA static T sum(T x) { return x; }
};

}  // namespace symkern
