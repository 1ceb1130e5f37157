// Vectors of the native width of the instruction set this file is compiled for, with the functions formulas need. Formulas
// are templates over their number type, so the same text serves these vectors, plain floats and doubles, and CUDA.
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

// ---- the words of core/number.h ---------------------------------------------------------------------------------------

SYMKERN_INLINE VF select(VI mask, VF a, VF b) { return mask ? a : b; }
SYMKERN_INLINE VF multiply_add(VF a, VF b, VF c) { return a * b + c; }  // contracted: *_simd.cpp allows it
SYMKERN_INLINE VF reciprocal(VF x) { return 1.0f / x; }

// Nearest integer of |x| < 2^22, as a float and as an int: adding 1.5 * 2^23 leaves it in the low bits.
SYMKERN_INLINE VF nearest(VF x, VI& integer) {
  const VF magic = splat_f(12582912.0f), shifted = x + magic;
  integer = reinterpret_cast<VI>(shifted) - reinterpret_cast<VI>(magic);
  return shifted - magic;
}

// e^x to 1 ulp or so: x = n ln 2 + r, |r| <= ln 2 / 2, polynomial in r. Zero below e^-87: no denormals.
SYMKERN_INLINE VF exponential(VF x) {
  const VF low = splat_f(-87.0f), high = splat_f(88.0f);
  const VF clamped = select(x < low, low, select(x > high, high, x));
  VI n;
  const VF whole = nearest(clamped * 1.44269504f, n);
  VF r = clamped - whole * 0.693145752f;
  r = r - whole * 1.42860677e-6f;
  VF p = splat_f(1.3888889e-3f);
  p = multiply_add(p, r, splat_f(8.3333333e-3f));
  p = multiply_add(p, r, splat_f(4.1666667e-2f));
  p = multiply_add(p, r, splat_f(1.6666667e-1f));
  p = multiply_add(p, r, splat_f(0.5f));
  p = multiply_add(p * r, r, r) + 1.0f;
  const VF scale = reinterpret_cast<VF>((n + 127) << 23);
  const VF inside = select(x < low, VF{}, p * scale);
  return select(x == x, select(x > splat_f(88.72283f), splat_f(__builtin_inff()), inside), x);
}

// Both to about 1 ulp of 1 for |x| up to some thousands: quarter turns are removed in three parts.
SYMKERN_INLINE void sine_cosine(VF x, VF& s, VF& c) {
  VI n;
  const VF turns = nearest(x * 0.636619772f, n);
  VF r = x - turns * 1.57079625f;
  r = r - turns * 7.54978942e-8f;
  r = r - turns * 5.39030253e-15f;
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
}

}  // namespace
}  // namespace symkern
