// Vectors of doubles beside core/simd.h: half as many lanes, with the transcendental functions of the C library, one
// lane at a time. Only for *_simd.cpp, as that.
#pragma once

#include "core/simd.h"

namespace symkern {
namespace {

constexpr int W64 = W / 2;
typedef double VD __attribute__((vector_size(W64 * 8), aligned(8), may_alias));
typedef int64_t VL __attribute__((vector_size(W64 * 8)));

SYMKERN_INLINE VD splat_d(double x) { return x - VD{}; }
SYMKERN_INLINE VD select(VL mask, VD a, VD b) { return mask ? a : b; }
SYMKERN_INLINE VD multiply_add(VD a, VD b, VD c) { return a * b + c; }
SYMKERN_INLINE VD reciprocal(VD x) { return 1.0 / x; }
SYMKERN_INLINE VD exponential(VD x) {
  VD y;
  for (int l = 0; l < W64; ++l) y[l] = __builtin_exp(x[l]);
  return y;
}
SYMKERN_INLINE VD log_one_plus(VD x) {
  VD y;
  for (int l = 0; l < W64; ++l) y[l] = __builtin_log1p(x[l]);
  return y;
}
SYMKERN_INLINE VD sigmoid(VD x) { return 1.0 / (exponential(-x) + 1.0); }
SYMKERN_INLINE void sine_cosine(VD x, VD& s, VD& c) {
  for (int l = 0; l < W64; ++l) s[l] = __builtin_sin(x[l]), c[l] = __builtin_cos(x[l]);
}

struct Lanes64 {
  using Scalar = double;
  typedef double Vector __attribute__((vector_size(W64 * 8)));
  static constexpr int width = W64;
  SYMKERN_INLINE VD splat(double x) { return splat_d(x); }
  SYMKERN_INLINE VD load(const double* p) { return *reinterpret_cast<const VD*>(p); }
  SYMKERN_INLINE VD load_first(const double* p, int64_t n) {
    VD v = {};
    for (int64_t l = 0; l < n; ++l) v[l] = p[l];
    return v;
  }
  SYMKERN_INLINE void store(double* p, VD v) { *reinterpret_cast<VD*>(p) = v; }
  SYMKERN_INLINE void store_first(double* p, VD v, int64_t n) {
    for (int64_t l = 0; l < n; ++l) p[l] = v[l];
  }
  SYMKERN_INLINE double sum(VD v) {
    double x = v[0];
    for (int l = 1; l < W64; ++l) x += v[l];
    return x;
  }
};

}  // namespace
}  // namespace symkern
