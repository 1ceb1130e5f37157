// Four neighboring numbers as one: the vector that a device thread loads, computes with and stores, so that formulas
// over vectors (core/simd.h has those of the host) move 16 bytes at a time on the device.
#pragma once

#include "core/gpu.h"
#include "core/number.h"

namespace symkern {

template <class S>
struct Quad {
  S x, y, z, w;
};

struct QuadMask {
  bool x, y, z, w;
};

#define SYMKERN_QUAD_OPERATOR(op)                                      \
  template <class S>                                                   \
  SYMKERN_FORMULA Quad<S> operator op(Quad<S> a, Quad<S> b) {          \
    return {a.x op b.x, a.y op b.y, a.z op b.z, a.w op b.w};           \
  }                                                                    \
  template <class S>                                                   \
  SYMKERN_FORMULA Quad<S> operator op(Quad<S> a, S b) {                \
    return {a.x op b, a.y op b, a.z op b, a.w op b};                   \
  }                                                                    \
  template <class S>                                                   \
  SYMKERN_FORMULA Quad<S> operator op(S a, Quad<S> b) {                \
    return {a op b.x, a op b.y, a op b.z, a op b.w};                   \
  }                                                                    \
  template <class S, class T>                                          \
  SYMKERN_FORMULA Quad<S>& operator op## = (Quad<S> & a, const T& b) { \
    return a = a op b;                                                 \
  }
SYMKERN_QUAD_OPERATOR(+)
SYMKERN_QUAD_OPERATOR(-)
SYMKERN_QUAD_OPERATOR(*)
SYMKERN_QUAD_OPERATOR(/)
#undef SYMKERN_QUAD_OPERATOR

#define SYMKERN_QUAD_COMPARISON(op)                            \
  template <class S>                                           \
  SYMKERN_FORMULA QuadMask operator op(Quad<S> a, Quad<S> b) { \
    return {a.x op b.x, a.y op b.y, a.z op b.z, a.w op b.w};   \
  }                                                            \
  template <class S>                                           \
  SYMKERN_FORMULA QuadMask operator op(Quad<S> a, S b) {       \
    return {a.x op b, a.y op b, a.z op b, a.w op b};           \
  }
SYMKERN_QUAD_COMPARISON(<)
SYMKERN_QUAD_COMPARISON(>)
SYMKERN_QUAD_COMPARISON(<=)
SYMKERN_QUAD_COMPARISON(>=)
#undef SYMKERN_QUAD_COMPARISON

template <class S>
SYMKERN_FORMULA Quad<S> operator-(Quad<S> a) {
  return {-a.x, -a.y, -a.z, -a.w};
}

// The words of core/number.h.

template <class S>
SYMKERN_FORMULA Quad<S> select(QuadMask m, Quad<S> a, Quad<S> b) {
  return {select(m.x, a.x, b.x), select(m.y, a.y, b.y), select(m.z, a.z, b.z), select(m.w, a.w, b.w)};
}

template <class S>
SYMKERN_FORMULA Quad<S> multiply_add(Quad<S> a, Quad<S> b, Quad<S> c) {
  return {multiply_add(a.x, b.x, c.x), multiply_add(a.y, b.y, c.y), multiply_add(a.z, b.z, c.z),
          multiply_add(a.w, b.w, c.w)};
}

#define SYMKERN_QUAD_WORD(name)                          \
  template <class S>                                     \
  SYMKERN_FORMULA Quad<S> name(Quad<S> a) {              \
    return {name(a.x), name(a.y), name(a.z), name(a.w)}; \
  }
SYMKERN_QUAD_WORD(reciprocal)
SYMKERN_QUAD_WORD(exponential)
SYMKERN_QUAD_WORD(sigmoid)
SYMKERN_QUAD_WORD(log_one_plus)
#undef SYMKERN_QUAD_WORD

template <class S>
SYMKERN_FORMULA void sine_cosine(Quad<S> a, Quad<S>& s, Quad<S>& c) {
  sine_cosine(a.x, s.x, c.x), sine_cosine(a.y, s.y, c.y), sine_cosine(a.z, s.z, c.z), sine_cosine(a.w, s.w, c.w);
}

// The first n numbers, one at a time; the others are zero, and their memory is not touched.
template <class S>
SYMKERN_DEVICE Quad<S> load_first_of_four(const S* p, int64_t n) {
  return {n > 0 ? p[0] : S(0), n > 1 ? p[1] : S(0), n > 2 ? p[2] : S(0), n > 3 ? p[3] : S(0)};
}
template <class S>
SYMKERN_DEVICE void store_first_of_four(S* p, Quad<S> v, int64_t n) {
  if (n > 0) p[0] = v.x;
  if (n > 1) p[1] = v.y;
  if (n > 2) p[2] = v.z;
  if (n > 3) p[3] = v.w;
}

// The type that loops over vectors are written for.
template <class S>
struct QuadLanes;

template <>
struct QuadLanes<float> {
  using Scalar = float;
  using Vector = Quad<float>;
  static constexpr int width = 4;
  SYMKERN_FORMULA static Vector splat(float x) { return {x, x, x, x}; }
  SYMKERN_DEVICE static Vector load(const float* p) {
    const float4 v = gpu::load16(p);
    return {v.x, v.y, v.z, v.w};
  }
  SYMKERN_DEVICE static void store(float* p, Vector v) { gpu::store16(p, float4{v.x, v.y, v.z, v.w}); }
  SYMKERN_DEVICE static Vector load_first(const float* p, int64_t n) { return load_first_of_four(p, n); }
  SYMKERN_DEVICE static void store_first(float* p, Vector v, int64_t n) { store_first_of_four(p, v, n); }
  SYMKERN_FORMULA static float sum(Vector v) { return (v.x + v.y) + (v.z + v.w); }
};

template <>
struct QuadLanes<double> {
  using Scalar = double;
  using Vector = Quad<double>;
  static constexpr int width = 4;
  SYMKERN_FORMULA static Vector splat(double x) { return {x, x, x, x}; }
  SYMKERN_DEVICE static Vector load(const double* p) {
    const double2 a = gpu::load16(p), b = gpu::load16(p + 2);
    return {a.x, a.y, b.x, b.y};
  }
  SYMKERN_DEVICE static void store(double* p, Vector v) {
    gpu::store16(p, double2{v.x, v.y}), gpu::store16(p + 2, double2{v.z, v.w});
  }
  SYMKERN_DEVICE static Vector load_first(const double* p, int64_t n) { return load_first_of_four(p, n); }
  SYMKERN_DEVICE static void store_first(double* p, Vector v, int64_t n) { store_first_of_four(p, v, n); }
  SYMKERN_FORMULA static double sum(Vector v) { return (v.x + v.y) + (v.z + v.w); }
};

}  // namespace symkern
