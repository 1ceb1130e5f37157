// Compiled once per instruction-set level with SYMKERN_ISA_LEVEL = baseline | avx2 | avx512. Everything has internal
// linkage (scripts/audit.py looks at the symbols).
#include "core/simd.h"

#include "ops/symmetric_chamfer_simd.h"

namespace symkern {
namespace {

// ---- sifting in fp32: lanes over (operation, query), targets broadcast ----------------------------------------------

#if defined(__AVX512F__)
constexpr int kBlock = 6;  // vectors of queries in registers
#else
constexpr int kBlock = 2;
#endif

// queries[c][g * count + i] = (M_g^T x_i)_c, or (M_g x_i)_c
SYMKERN_INLINE void rotate_queries(const float* const* x, int64_t count, const float* matrices, int64_t operations,
                                   bool transposed, float* const* queries) {
  for (int64_t g = 0; g < operations; ++g) {
    const float* m = matrices + 9 * g;
    for (int c = 0; c < 3; ++c) {
      const VF a = splat_f(transposed ? m[c] : m[3 * c]), b = splat_f(transposed ? m[3 + c] : m[3 * c + 1]);
      const VF d = splat_f(transposed ? m[6 + c] : m[3 * c + 2]);
      float* out = queries[c] + g * count;
      // the lanes behind the last query belong to the next operation, which is written later
      for (int64_t i = 0; i < count; i += W) {
        store_f(out + i, multiply_add(a, load_f(x[0] + i), multiply_add(b, load_f(x[1] + i), d * load_f(x[2] + i))));
      }
    }
  }
}

template <bool typed>
SYMKERN_INLINE void minima(const float* const* queries, const float* query_types, const float* const* targets,
                           const float* half, const float* types, int64_t count, int64_t at, float* out) {
  VF x[kBlock], y[kBlock], z[kBlock], kind[kBlock], least[kBlock];
  for (int v = 0; v < kBlock; ++v) {
    x[v] = load_f(queries[0] + at + v * W), y[v] = load_f(queries[1] + at + v * W);
    z[v] = load_f(queries[2] + at + v * W);
    if (typed) kind[v] = load_f(query_types + at + v * W);
    least[v] = splat_f(__builtin_inff());
  }
  for (int64_t j = 0; j < count; ++j) {
    const VF tx = splat_f(targets[0][j]), ty = splat_f(targets[1][j]), tz = splat_f(targets[2][j]);
    const VF h = splat_f(half[j]);
    for (int v = 0; v < kBlock; ++v) {
      VF d = h - tx * x[v];
      d = d - ty * y[v];
      d = d - tz * z[v];
      if (typed) d = select(kind[v] == splat_f(types[j]), d, splat_f(__builtin_inff()));
      least[v] = select(d < least[v], d, least[v]);
    }
  }
  for (int v = 0; v < kBlock; ++v) store_f(out + at + v * W, least[v]);
}

template <bool typed>
SYMKERN_INLINE void sift_types(const SymmetricSearch& in, const float* matrices, int64_t operations, bool back,
                               const SymmetricScratch& scratch, float* sums) {
  const float* const* from = back ? in.target.f : in.pred.f;
  const float* const* to = back ? in.pred.f : in.target.f;
  const int64_t count = in.count, total = operations * count;
  float* const half = scratch.half_square;
  for (int64_t j = 0; j < count; j += W) {
    const VF x = load_f(to[0] + j), y = load_f(to[1] + j), z = load_f(to[2] + j);
    store_f(half + j, 0.5f * multiply_add(x, x, multiply_add(y, y, z * z)));
  }
  if (typed) {
    for (int64_t g = 0; g < operations; ++g) {
      for (int64_t i = 0; i < count; i += W) store_f(scratch.types + g * count + i, load_f(in.types_f + i));
    }
  }
  rotate_queries(from, count, matrices, operations, !back, scratch.queries);
  for (int64_t at = 0; at < total; at += kBlock * W) {
    minima<typed>(scratch.queries, scratch.types, to, half, in.types_f, count, at, scratch.least);
  }
  for (int64_t g = 0; g < operations; ++g) {
    VF sum{};
    int64_t i = 0;
    for (; i + W <= count; i += W) sum += load_f(scratch.least + g * count + i);
    if (i < count) sum += load_first_f(scratch.least + g * count + i, count - i);
    sums[g] = sum_f(sum);
  }
}

void sift(const SymmetricSearch& in, const float* matrices, int64_t operations, bool back,
          const SymmetricScratch& scratch, float* sums) {
  if (in.types_f != nullptr) {
    sift_types<true>(in, matrices, operations, back, scratch, sums);
  } else {
    sift_types<false>(in, matrices, operations, back, scratch, sums);
  }
}

// ---- the chosen operation in fp64: lanes over queries, targets broadcast --------------------------------------------

constexpr int WD = W / 2;
typedef double VD __attribute__((vector_size(WD * 8)));
typedef double VDMemory __attribute__((vector_size(WD * 8), aligned(8), may_alias));

SYMKERN_INLINE VD load_d(const double* p) { return *reinterpret_cast<const VDMemory*>(p); }
SYMKERN_INLINE void store_d(double* p, VD v) { *reinterpret_cast<VDMemory*>(p) = v; }
SYMKERN_INLINE VD splat_d(double x) { return x - VD{}; }

// One rounding: a * b + c would leave it to the compiler which product of a sum it contracts.
SYMKERN_INLINE VD fused(VD a, VD b, VD c) {
#if defined(__AVX512F__)
  return reinterpret_cast<VD>(
      _mm512_fmadd_pd(reinterpret_cast<__m512d>(a), reinterpret_cast<__m512d>(b), reinterpret_cast<__m512d>(c)));
#elif defined(__AVX2__)
  return reinterpret_cast<VD>(
      _mm256_fmadd_pd(reinterpret_cast<__m256d>(a), reinterpret_cast<__m256d>(b), reinterpret_cast<__m256d>(c)));
#else
  VD r;
  for (int l = 0; l < WD; ++l) r[l] = __builtin_fma(a[l], b[l], c[l]);
  return r;
#endif
}

void nearest(const SymmetricSearch& in, const double* m, bool back, const SymmetricScratch& scratch, double* squares,
             double* places) {
  const int64_t count = in.count;
  for (int64_t i = 0; i < count; i += WD) {
    const VD x = load_d(in.target.d[0] + i), y = load_d(in.target.d[1] + i), z = load_d(in.target.d[2] + i);
    for (int c = 0; c < 3; ++c) {
      const double* row = m + 3 * c;
      store_d(scratch.rotated[c] + i, fused(splat_d(row[0]), x, fused(splat_d(row[1]), y, splat_d(row[2]) * z)));
    }
  }
  const double* const rotated[3] = {scratch.rotated[0], scratch.rotated[1], scratch.rotated[2]};
  const double* const* from = back ? rotated : in.pred.d;
  const double* const* to = back ? in.pred.d : rotated;
  const bool typed = in.types_d != nullptr;
  for (int64_t i = 0; i < count; i += WD) {
    const VD x = load_d(from[0] + i), y = load_d(from[1] + i), z = load_d(from[2] + i);
    const VD kind = typed ? load_d(in.types_d + i) : VD{};
    VD least = splat_d(__builtin_inf()), place = splat_d(-1.0);
    for (int64_t j = 0; j < count; ++j) {
      const VD dx = splat_d(to[0][j]) - x, dy = splat_d(to[1][j]) - y, dz = splat_d(to[2][j]) - z;
      const VD square = fused(dx, dx, fused(dy, dy, dz * dz));
      auto nearer = square < least;
      if (typed) nearer = nearer & (kind == splat_d(in.types_d[j]));
      least = nearer ? square : least;
      place = nearer ? splat_d(static_cast<double>(j)) : place;
    }
    store_d(squares + i, least);
    store_d(places + i, place);
  }
}

}  // namespace

#define SYMKERN_CONCAT_(a, b) a##b
#define SYMKERN_CONCAT(a, b) SYMKERN_CONCAT_(a, b)

const SymmetricKernels* SYMKERN_CONCAT(symkern_symmetric_kernels_, SYMKERN_ISA_LEVEL)() {
  static constexpr SymmetricKernels kernels{sift, nearest};
  return &kernels;
}

}  // namespace symkern
