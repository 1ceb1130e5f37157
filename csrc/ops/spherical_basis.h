// The spherical basis of DimeNet: radial functions of an edge times Legendre polynomials of an angle, each with two
// derivatives.
#pragma once

#include "ops/radial_basis.h"

#include <cstdint>

namespace symkern {

// Columns of the radial functions that are evaluated together: as vectors on the host, one on the device.
#if defined(__CUDACC__)
constexpr int kRadialBlock = 1;
#else
constexpr int kRadialBlock = 8;
#endif

// u(x) / x times c_ln j_l(z_ln x) at x = d / cutoff; derivatives with respect to d. A call evaluates all columns of an
// edge on the host, one on the device.
//
// The Bessel functions are fixed and smooth, so Python tabulates them once as polynomials on equal intervals of [0, 1],
// exact to rounding. That needs no sine, no recurrence that is unstable at small x, and vectorises over columns.
template <class T, int orders>
struct RadialFunctions {
  const T* d;      // (E)
  const T* table;  // (intervals, degree + 1, padded columns), the highest power of t in [-1, 1] first
  int64_t intervals, coefficients, padded, columns;
  RadialShape<double> shape;
  T* out;  // (E, orders, columns)

  SYMKERN_HD Jet<double> envelope(double r) const {
    const double rest = ((shape.cutoff - r) + shape.rest) * shape.inverse;
    // at zero distance the basis has no limit, so it is zero there
    if (!(rest > 0) || r < 1e-9 * shape.cutoff) return {r * 0, 0, 0};  // NaN stays
    const Jet<double> u = polynomial_envelope(shape, r * shape.inverse, rest);
    const double i = shape.cutoff / r, i1 = -i / r, i2 = -2 * i1 / r;
    return {u.f * i, u.d1 * i + u.f * i1, u.d2 * i + 2 * u.d1 * i1 + u.f * i2};
  }

  int64_t parts() const { return kRadialBlock == 1 ? columns : 1; }

  SYMKERN_HD void operator()(int64_t index) const {
    const int64_t e = kRadialBlock == 1 ? index / columns : index;
    const Jet<double> u = envelope(static_cast<double>(d[e]));
    const double x = d[e] * shape.inverse, place = x < 1 ? x * intervals : intervals;
    const int64_t cell = place < intervals - 1 ? static_cast<int64_t>(place) : intervals - 1;
    const T t = static_cast<T>(2 * (place - cell) - 1);
    const T* rows = table + cell * coefficients * padded;
    T* to = out + e * orders * columns;
    if constexpr (kRadialBlock == 1) {
      block(u, t, rows, index % columns, to);
    } else {
      for (int64_t first = 0; first < columns; first += kRadialBlock) block(u, t, rows, first, to);
    }
  }

  SYMKERN_HD void block(const Jet<double>& u, T t, const T* rows, int64_t first, T* to) const {
    const T* row = rows + first;
    T f[kRadialBlock] = {}, f1[kRadialBlock] = {}, f2[kRadialBlock] = {};  // f2 is half the second derivative
    for (int64_t k = 0; k < coefficients; ++k, row += padded) {
      for (int c = 0; c < kRadialBlock; ++c) {
        if constexpr (orders > 2) f2[c] = f2[c] * t + f1[c];
        if constexpr (orders > 1) f1[c] = f1[c] * t + f[c];
        f[c] = f[c] * t + row[c];
      }
    }
    const T step = static_cast<T>(2 * intervals * shape.inverse);  // dt / dd
    const T e0 = static_cast<T>(u.f), e1 = static_cast<T>(u.d1), e2 = static_cast<T>(u.d2);
    to += first;
    const int64_t count = columns - first < kRadialBlock ? columns - first : kRadialBlock;
    for (int64_t c = 0; c < count; ++c) {
      to[c] = e0 * f[c];
      if constexpr (orders > 1) to[columns + c] = e1 * f[c] + e0 * step * f1[c];
      if constexpr (orders > 2) {
        to[2 * columns + c] = e2 * f[c] + 2 * e1 * step * f1[c] + 2 * e0 * step * step * f2[c];
      }
    }
  }
};

// Y_l0 of an angle for one l after another: Y_(l+1) = p_l cos(angle) Y_l - q_l Y_(l-1), and what follows from that for
// the derivatives with respect to the angle, up to order `orders` - 1. V is a number or a vector of them, S its scalar.
template <class V, class S, int orders>
class Legendre {
 public:
  SYMKERN_FORMULA Legendre(V cosine, V sine, const S* recurrence)
      : recurrence_(recurrence), cosine_(cosine), sine_(sine) {}

  V f = V{} + S(0.28209479177387814), d1 = V{}, d2 = V{};  // sqrt(1 / 4 pi)

  SYMKERN_FORMULA void next() {
    const S p = recurrence_[0], q = recurrence_[1];
    const V g = p * cosine_ * f - q * f_;
    if constexpr (orders > 1) {
      const V g1 = p * (cosine_ * d1 - sine_ * f) - q * d1_;
      if constexpr (orders > 2) {
        const V g2 = p * (cosine_ * (d2 - f) - 2 * sine_ * d1) - q * d2_;
        d2_ = d2, d2 = g2;
      }
      d1_ = d1, d1 = g1;
    }
    f_ = f, f = g;
    recurrence_ += 2;
  }

 private:
  const S* recurrence_;  // (L, 2)
  V cosine_, sine_;
  V f_ = V{}, d1_ = V{}, d2_ = V{};  // those of l - 1
};

template <int orders, class T>
SYMKERN_FORMULA Legendre<T, T, orders> legendre(T angle, const T* recurrence) {
  T sine, cosine;
  sine_cosine(angle, sine, cosine);
  return Legendre<T, T, orders>(cosine, sine, recurrence);
}

}  // namespace symkern
