// Vectors of the native width of the instruction set this file is compiled for, with the functions formulas need.
// Formulas are templates over their number type, so the same text serves these vectors, plain floats and doubles, and
// CUDA.
//
// Only for *_simd.cpp: everything has internal linkage (see docs/design.md, "Instruction sets").
#pragma once

#include <cmath>
#include <cstdint>

#if defined(__AVX2__)
#if defined(__GNUC__) && !defined(__clang__)
// g++ 12 warns of the deliberately undefined registers inside its own intrinsics
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <immintrin.h>
#endif

#define SYMKERN_INLINE static inline __attribute__((always_inline))

namespace symkern {
namespace {

#if defined(__AVX512F__)
constexpr int W = 16;
#elif defined(__AVX2__)
constexpr int W = 8;
#else
constexpr int W = 4;
#endif

typedef float VF __attribute__((vector_size(W * 4), aligned(4), may_alias));
typedef uint32_t VU __attribute__((vector_size(W * 4), aligned(4), may_alias));
typedef int32_t VI __attribute__((vector_size(W * 4)));

SYMKERN_INLINE VF load_f(const float* p) { return *reinterpret_cast<const VF*>(p); }
SYMKERN_INLINE VU load_u(const uint32_t* p) { return *reinterpret_cast<const VU*>(p); }
SYMKERN_INLINE void store_f(float* p, VF v) { *reinterpret_cast<VF*>(p) = v; }
SYMKERN_INLINE void store_u(uint32_t* p, VU v) { *reinterpret_cast<VU*>(p) = v; }
SYMKERN_INLINE VF splat_f(float x) { return x - VF{}; }  // 0 + x would cost an add: it is not x for x = -0
SYMKERN_INLINE VU splat_u(uint32_t x) { return x - VU{}; }

SYMKERN_INLINE uint32_t to_mask(VI lanes) {  // lanes are 0 or -1
#if defined(__AVX512F__)
  return _mm512_movepi32_mask(reinterpret_cast<__m512i>(lanes));
#elif defined(__AVX2__)
  return static_cast<uint32_t>(_mm256_movemask_ps(reinterpret_cast<__m256>(lanes)));
#else
  uint32_t mask = 0;
  for (int l = 0; l < W; ++l) mask |= (static_cast<uint32_t>(lanes[l]) & 1u) << l;
  return mask;
#endif
}

// ---- the words of core/number.h
// ---------------------------------------------------------------------------------------

SYMKERN_INLINE VF select(VI mask, VF a, VF b) { return mask ? a : b; }
SYMKERN_INLINE VF multiply_add(VF a, VF b, VF c) { return a * b + c; }  // contracted: *_simd.cpp allows it
SYMKERN_INLINE VF reciprocal(VF x) { return 1.0f / x; }

// Nearest integer of |x| < 2^22, as a float and as an int: adding 1.5 * 2^23 leaves it in the low bits.
SYMKERN_INLINE VF nearest(VF x, VI& integer) {
  const VF magic = splat_f(12582912.0f), shifted = x + magic;
  integer = reinterpret_cast<VI>(shifted) - reinterpret_cast<VI>(magic);
  return shifted - magic;
}

// e^x to 1 ulp: x = n ln 2 + r, |r| <= ln 2 / 2, minimax polynomial in r. Zero below e^-87: no denormals.
SYMKERN_INLINE VF exponential(VF x) {
  const VF low = splat_f(-87.0f), high = splat_f(89.0f);
  const VF above = select(low > x, low, x);  // in this order one instruction each, and NaN stays
  const VF clamped = select(high < above, high, above);
  VI n;
  const VF whole = nearest(clamped * 1.44269504f, n);
  VF r = clamped - whole * 0.693145752f;
  r = r - whole * 1.42860677e-6f;
  VF p = splat_f(1.38146023e-3f);
  p = multiply_add(p, r, splat_f(8.36871658e-3f));
  p = multiply_add(p, r, splat_f(4.16683890e-2f));
  p = multiply_add(p, r, splat_f(1.66665211e-1f));
  p = multiply_add(p, r, splat_f(4.99999940e-1f));
  p = multiply_add(p * r, r, r) + 1.0f;
  const VF half = reinterpret_cast<VF>((n + 126) << 23);  // 2^n itself may overflow where e^x does not
  return select(x < low, VF{}, (p + p) * half);
}

// log(1 + x) to 1 ulp for 0 <= x <= 1, as 2 artanh(t) with t = x / (2 + x) <= 1/3: odd minimax polynomial in t.
SYMKERN_INLINE VF log_one_plus(VF x) {
  const VF t = x / (x + 2.0f), t2 = t * t;
  VF p = splat_f(0.121508345f);
  p = multiply_add(p, t2, splat_f(0.107135929f));
  p = multiply_add(p, t2, splat_f(0.143084824f));
  p = multiply_add(p, t2, splat_f(0.199994370f));
  p = multiply_add(p, t2, splat_f(0.333333373f));
  const VF twice = t + t;
  return multiply_add(p * t2, twice, twice);
}

// 1 / (1 + e^-x), in two thirds of the instructions: between -87 and 87, where 2^n is a number, nothing needs a case of
// its own. One part of ln 2 is enough where a * b + c rounds once.
SYMKERN_INLINE VF sigmoid(VF x) {
  const VF low = splat_f(-87.0f), high = splat_f(87.0f), magic = splat_f(12582912.0f);
  const VF above = select(low > x, low, x);
  const VF y = select(high < above, high, above);
  const VF shifted = magic - y * 1.44269504f, whole = shifted - magic;
#if defined(__FMA__)
  const VF r = -(whole * 0.693147182f) - y;
#else
  const VF r = -(whole * 1.42860677e-6f) - (whole * 0.693145752f + y);
#endif
  VF p = splat_f(1.38146023e-3f);
  p = multiply_add(p, r, splat_f(8.36871658e-3f));
  p = multiply_add(p, r, splat_f(4.16683890e-2f));
  p = multiply_add(p, r, splat_f(1.66665211e-1f));
  p = multiply_add(p, r, splat_f(4.99999940e-1f));
  p = multiply_add(p * r, r, r) + 1.0f;
  const VF e = reinterpret_cast<VF>(reinterpret_cast<VI>(p) + (reinterpret_cast<VI>(shifted) << 23));
  return 1.0f / (e + 1.0f);
}

// Both to about 1 ulp of 1: quarter turns are removed in three parts, whose products with up to 2^13 turns are exact.
SYMKERN_INLINE void sine_cosine(VF x, VF& s, VF& c) {
  VI n;
  const VF turns = nearest(x * 0.636619772f, n);
  VF r = x - turns * 1.5703125f;
  r = r - turns * 4.83751297e-4f;
  r = r - turns * 7.54978995e-8f;
  const VF r2 = r * r;
  VF sine = splat_f(2.7557319e-6f);
  sine = multiply_add(sine, r2, splat_f(-1.9841270e-4f));
  sine = multiply_add(sine, r2, splat_f(8.3333333e-3f));
  sine = multiply_add(sine, r2, splat_f(-1.6666667e-1f));
  sine = multiply_add(sine * r2, r, r);
  VF cosine = splat_f(2.4801587e-5f);
  cosine = multiply_add(cosine, r2, splat_f(-1.3888889e-3f));
  cosine = multiply_add(cosine, r2, splat_f(4.1666667e-2f));
  cosine = multiply_add(cosine, r2, splat_f(-0.5f));
  cosine = multiply_add(cosine, r2, splat_f(1.0f));
  const VI odd = -(n & 1);
  const VF a = select(odd, cosine, sine), b = select(odd, sine, cosine);
  s = reinterpret_cast<VF>(reinterpret_cast<VI>(a) ^ ((n & 2) << 30));
  c = reinterpret_cast<VF>(reinterpret_cast<VI>(b) ^ (((n + 1) & 2) << 30));
  const VF limit = splat_f(8192.0f);
  const uint32_t large = to_mask((x > limit) | (x < -limit));
  if (__builtin_expect(large != 0, 0)) {
    for (int l = 0; l < W; ++l) {
      if ((large >> l) & 1) s[l] = __builtin_sinf(x[l]), c[l] = __builtin_cosf(x[l]);
    }
  }
}

// The first n < W lanes; the others are zero, and their memory is not touched.
SYMKERN_INLINE VF load_first_f(const float* p, int64_t n) {
#if defined(__AVX512F__)
  return reinterpret_cast<VF>(_mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << n) - 1u), p));
#elif defined(__AVX2__)
  const VI lane = {0, 1, 2, 3, 4, 5, 6, 7};
  return reinterpret_cast<VF>(_mm256_maskload_ps(p, reinterpret_cast<__m256i>(lane < static_cast<int>(n))));
#else
  if (n == 1) return VF{p[0], 0, 0, 0};  // in registers: element by element would go through memory
  if (n == 2) return VF{p[0], p[1], 0, 0};
  return n == 0 ? VF{} : VF{p[0], p[1], p[2], 0};
#endif
}

SYMKERN_INLINE void store_first_f(float* p, VF v, int64_t n) {
#if defined(__AVX512F__)
  _mm512_mask_storeu_ps(p, static_cast<__mmask16>((1u << n) - 1u), reinterpret_cast<__m512>(v));
#elif defined(__AVX2__)
  const VI lane = {0, 1, 2, 3, 4, 5, 6, 7};
  _mm256_maskstore_ps(p, reinterpret_cast<__m256i>(lane < static_cast<int>(n)), reinterpret_cast<__m256>(v));
#else
  if (n > 0) p[0] = v[0];
  if (n > 1) p[1] = v[1];
  if (n > 2) p[2] = v[2];
  if (n > 3) p[3] = v[3];
#endif
}

// Halves are added to halves.
SYMKERN_INLINE float sum_f(VF v) {
  float x[W];
  store_f(x, v);
#pragma GCC unroll 16
  for (int half = W / 2; half > 0; half /= 2) {
    for (int l = 0; l < half; ++l) x[l] += x[l + half];
  }
  return x[0];
}

// The type that loops over vectors are written for, as OneLane is for plain numbers.
struct Lanes {
  using Scalar = float;
  typedef float Vector __attribute__((vector_size(W * 4)));  // VF without the attributes a template argument would lose
  static constexpr int width = W;
  SYMKERN_INLINE VF splat(float x) { return splat_f(x); }
  SYMKERN_INLINE VF load(const float* p) { return load_f(p); }
  SYMKERN_INLINE VF load_first(const float* p, int64_t n) { return load_first_f(p, n); }
  SYMKERN_INLINE void store(float* p, VF v) { store_f(p, v); }
  SYMKERN_INLINE void store_first(float* p, VF v, int64_t n) { store_first_f(p, v, n); }
  SYMKERN_INLINE float sum(VF v) { return sum_f(v); }
};

}  // namespace
}  // namespace symkern
