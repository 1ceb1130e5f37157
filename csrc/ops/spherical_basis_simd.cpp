// Compiled once per instruction-set level with SYMKERN_ISA_LEVEL = baseline | avx2 | avx512. The lanes have internal
// linkage, hence all that is instantiated for them; formulas are always inlined (scripts/audit.py looks at the
// symbols).
#include "core/simd.h"  // before the formulas, which find its words where they are defined

namespace symkern {
namespace {

// As Lanes, of floats or doubles, but eight at most: one l has 6 to 8 columns in models, and sixteen are slower there.
template <class S>
struct RowLanes {
  using Scalar = S;
  static constexpr int width = W * 4 / sizeof(S) < 8 ? W * 4 / sizeof(S) : 8;
  typedef S Vector __attribute__((vector_size(width * sizeof(S))));
  typedef S Memory __attribute__((vector_size(width * sizeof(S)), aligned(sizeof(S)), may_alias));

  SYMKERN_INLINE Vector splat(S x) { return x - Vector{}; }
  SYMKERN_INLINE Vector load(const S* p) { return *reinterpret_cast<const Memory*>(p); }
  SYMKERN_INLINE void store(S* p, Vector v) { *reinterpret_cast<Memory*>(p) = v; }

  SYMKERN_INLINE Vector load_first(const S* p, int64_t n) {
#if defined(__AVX512F__)
    const __mmask8 mask = static_cast<__mmask8>((1u << n) - 1u);
    if constexpr (sizeof(S) == 8) return reinterpret_cast<Vector>(_mm512_maskz_loadu_pd(mask, p));
    if constexpr (sizeof(S) == 4) return reinterpret_cast<Vector>(_mm256_maskz_loadu_ps(mask, p));
#else
    if constexpr (sizeof(S) == 4) return load_first_f(p, n);
#if defined(__AVX2__)
    typedef int64_t Mask __attribute__((vector_size(32)));
    if constexpr (sizeof(S) == 8) {
      return reinterpret_cast<Vector>(_mm256_maskload_pd(p, reinterpret_cast<__m256i>(Mask{0, 1, 2, 3} < n)));
    }
#else
    if constexpr (sizeof(S) == 8) return n == 0 ? Vector{} : Vector{p[0], 0};
#endif
#endif
  }

  SYMKERN_INLINE void store_first(S* p, Vector v, int64_t n) {
#if defined(__AVX512F__)
    const __mmask8 mask = static_cast<__mmask8>((1u << n) - 1u);
    if constexpr (sizeof(S) == 8) _mm512_mask_storeu_pd(p, mask, reinterpret_cast<__m512d>(v));
    if constexpr (sizeof(S) == 4) _mm256_mask_storeu_ps(p, mask, reinterpret_cast<__m256>(v));
#elif defined(__AVX2__)
    typedef int64_t Mask __attribute__((vector_size(32)));
    if constexpr (sizeof(S) == 4) store_first_f(p, v, n);
    if constexpr (sizeof(S) == 8) {
      _mm256_maskstore_pd(p, reinterpret_cast<__m256i>(Mask{0, 1, 2, 3} < n), reinterpret_cast<__m256d>(v));
    }
#else
    for (int l = 0; l < width - 1; ++l) {
      if (l < n) p[l] = v[l];
    }
#endif
  }

  // Halves are added to halves.
  SYMKERN_INLINE S sum(Vector v) {
    S x[width];
    store(x, v);
#pragma GCC unroll 8
    for (int half = width / 2; half > 0; half /= 2) {
      for (int l = 0; l < half; ++l) x[l] += x[l + half];
    }
    return x[0];
  }
};

using Floats = RowLanes<float>;
using Doubles = RowLanes<double>;

// ---- the words that formulas need beyond those of core/simd.h -------------------------------------------------------

SYMKERN_INLINE Doubles::Vector select(decltype(Doubles::Vector{} < 0.0) mask, Doubles::Vector a, Doubles::Vector b) {
  return mask ? a : b;
}

SYMKERN_INLINE void sine_cosine(Doubles::Vector x, Doubles::Vector& s, Doubles::Vector& c) {
  for (int l = 0; l < Doubles::width; ++l) s[l] = __builtin_sin(x[l]), c[l] = __builtin_cos(x[l]);
}

#if defined(__AVX512F__)
SYMKERN_INLINE void sine_cosine(Floats::Vector x, Floats::Vector& s, Floats::Vector& c) {
  VF sine, cosine;
  sine_cosine(reinterpret_cast<VF>(_mm512_zextps256_ps512(reinterpret_cast<__m256>(x))), sine, cosine);
  s = reinterpret_cast<Floats::Vector>(_mm512_castps512_ps256(reinterpret_cast<__m512>(sine)));
  c = reinterpret_cast<Floats::Vector>(_mm512_castps512_ps256(reinterpret_cast<__m512>(cosine)));
}
#endif

}  // namespace
}  // namespace symkern

#include "ops/spherical_basis_simd.h"

#define SYMKERN_CONCAT_(a, b) a##b
#define SYMKERN_CONCAT(a, b) SYMKERN_CONCAT_(a, b)

namespace symkern {

const SphericalLevel* SYMKERN_CONCAT(symkern_spherical_kernels_, SYMKERN_ISA_LEVEL)() {
  static constexpr SphericalLevel level{SphericalTile<Floats, Doubles>::table(),
                                        SphericalTile<Doubles, Doubles>::table()};
  return &level;
}

}  // namespace symkern
