// Spherical Bessel functions times real spherical harmonics of a vector X, and times Legendre polynomials of an angle:
// formulas and their adjoint, over numbers N (core/dual.h).
//
// j_l(k r) Y_lm(X / r) is written as g_l(k^2 r^2) k^l times the solid harmonic r^l Y_lm, with g_l(y^2) = j_l(y) / y^l:
// all of it is smooth, at r = 0 and on the axes too, and dg_l/dw = -g_(l+1) / 2.
#pragma once

#include "core/dual.h"
#include "ops/spherical_basis.h"

#include <cstdint>

namespace symkern {

constexpr int kMaxSpherical = 8, kMaxRadial = 8, kMaxColumns = kMaxSpherical * kMaxRadial;

// g_l, g_(l+1), g_(l+2) at w = y^2 for y > l: upwards.
SYMKERN_HD void bessel_over_power(int l, double w, double* g) {
  const double y = sqrt(w), inverse = 1 / w, g0 = sin(y) / y;
  double below = g0, here = (g0 - cos(y)) * inverse;
  for (int k = 1; k < l + 1; ++k) {
    const double next = ((2 * k + 1) * here - below) * inverse;
    below = here, here = next;
  }
  g[0] = below, g[1] = here, g[2] = ((2 * l + 3) * here - below) * inverse;
}

// Constants, all of them fp64. Within the cutoff the radial functions are tabulated, by Python, as polynomials in r^2
// on intervals that are equal in r: exact to rounding, without a sine or a series, and with their derivatives.
struct SphericalShape {
  const double* wave;      // (L, R) k = z_ln / cutoff
  const double* norm;      // (L, R) c_ln k^l
  const double* table;     // (intervals, degree + 1, stride), the highest power of t in [-1, 1] first
  const double* harmonic;  // (L, L) by l and m >= 0: what makes orthonormal harmonics
  const double* legendre;  // (L, 2), see Legendre
  int spherical, radial, intervals, coefficients;
  double inverse_cutoff;

  static constexpr int block = 8;  // columns at a time
  SYMKERN_HD int stride() const { return (spherical * radial + block - 1) / block * block; }
};

// Where a distance is in the table.
struct RadialInterval {
  int cell;        // -1: beyond the cutoff
  double t, step;  // and dt / d(r^2)

  SYMKERN_HD RadialInterval(const SphericalShape& shape, double square) {
    const double n = shape.intervals, place = sqrt(square) * shape.inverse_cutoff * n;
    cell = place < n ? static_cast<int>(place) : -1;  // NaN is beyond
    // cell k is (k / n)^2 to ((k + 1) / n)^2 in (r / cutoff)^2
    const double half = cell + 0.5, middle = (cell + 0.5) * (cell + 0.5) + 0.25;
    step = n * n * shape.inverse_cutoff * shape.inverse_cutoff / half;
    t = square * step - middle / half;
  }
};

// All radial functions as functions of r^2, and their first `orders` - 1 derivatives, one after another.
template <int orders>
SYMKERN_HD void radial_functions(const SphericalShape& shape, double square, double (&out)[orders][kMaxColumns]) {
  const int columns = shape.spherical * shape.radial;
  const RadialInterval at(shape, square);
  if (at.cell < 0) {
    for (int c = 0; c < columns; ++c) {
      const double k2 = shape.wave[c] * shape.wave[c];
      double g[3], factor = shape.norm[c];
      bessel_over_power(c / shape.radial, k2 * square, g);
      for (int d = 0; d < orders; ++d, factor *= -0.5 * k2) out[d][c] = factor * g[d];
    }
    return;
  }
  // a block of columns at a time: as many sums run side by side
  constexpr int block = SphericalShape::block;
  const int stride = shape.stride();
  const double* rows = shape.table + int64_t{at.cell} * shape.coefficients * stride;
  for (int first = 0; first < columns; first += block, rows += block) {
    double f[block] = {}, f1[block] = {}, f2[block] = {};  // f2 is half the second derivative
    for (int k = 0; k < shape.coefficients; ++k) {
      for (int n = 0; n < block; ++n) {
        if constexpr (orders > 2) f2[n] = f2[n] * at.t + f1[n];
        if constexpr (orders > 1) f1[n] = f1[n] * at.t + f[n];
        f[n] = f[n] * at.t + rows[k * stride + n];
      }
    }
    for (int n = 0; n < block; ++n) {
      out[0][first + n] = f[n];
      if constexpr (orders > 1) out[1][first + n] = at.step * f1[n];
      if constexpr (orders > 2) out[2][first + n] = 2 * at.step * at.step * f2[n];
    }
  }
}

// r^l Y_lm up to L - 1, without Condon-Shortley phase: column l^2 + l + m.
template <class N>
class SolidHarmonics {
 public:
  SYMKERN_HD SolidHarmonics(const SphericalShape& shape, VecOf<N> x) : shape_(shape), s_(dot(x, x)) {
    constexpr double inverse[kMaxSpherical] = {0, 1, 1.0 / 2, 1.0 / 3, 1.0 / 4, 1.0 / 5, 1.0 / 6, 1.0 / 7};
    // a + i b = (x + i y)^m; q: Legendre functions over sin^m, as polynomials in z and r^2
    a_[0] = N(1), b_[0] = N(0);
    for (int m = 1; m < shape.spherical; ++m) {
      a_[m] = x.x * a_[m - 1] - x.y * b_[m - 1], b_[m] = x.x * b_[m - 1] + x.y * a_[m - 1];
    }
    N diagonal(1);
    for (int m = 0; m < shape.spherical; ++m) {
      if (m > 0) diagonal = N(2 * m - 1) * diagonal;
      q_[at(m, m)] = diagonal;
      for (int l = m + 1; l < shape.spherical; ++l) {
        N next = N(2 * l - 1) * x.z * q_[at(l - 1, m)];
        if (l > m + 1) next = next - N(l + m - 1) * s_ * q_[at(l - 2, m)];
        q_[at(l, m)] = N(inverse[l - m]) * next;
      }
    }
  }

  SYMKERN_HD N value(int l, int m) const {
    const int k = m < 0 ? -m : m;
    return N(factor(l, k)) * q_[at(l, k)] * (m < 0 ? b_[k] : a_[k]);
  }

  SYMKERN_HD VecOf<N> gradient(int l, int m, VecOf<N> x) const {
    const int k = m < 0 ? -m : m;
    const N angular = m < 0 ? b_[k] : a_[k], q = q_[at(l, k)], across = l > k + 1 ? q_[at(l - 1, k + 1)] : N(0);
    const N along = l > k ? N(l + k) * q_[at(l - 1, k)] : N(0), f(factor(l, k));
    VecOf<N> g{N(-1) * x.x * across * angular, N(-1) * x.y * across * angular, along * angular};
    if (k > 0) {
      const N by_x = m < 0 ? b_[k - 1] : a_[k - 1], by_y = m < 0 ? a_[k - 1] : N(-1) * b_[k - 1];
      g.x = g.x + N(k) * q * by_x, g.y = g.y + N(k) * q * by_y;
    }
    return {f * g.x, f * g.y, f * g.z};
  }

  SYMKERN_HD N square() const { return s_; }

 private:
  SYMKERN_HD static int at(int l, int m) { return l * (l + 1) / 2 + m; }
  SYMKERN_HD double factor(int l, int m) const { return shape_.harmonic[l * shape_.spherical + m]; }

  SphericalShape shape_;
  N s_, a_[kMaxSpherical], b_[kMaxSpherical], q_[kMaxSpherical * (kMaxSpherical + 1) / 2];
};

// A function of a number N from its derivatives; and how many of these that takes beyond its value.
SYMKERN_HD double chain(double f, double, double) { return f; }
SYMKERN_HD Dual chain(double f, double slope, Dual x) { return {f, slope * x.d}; }

template <class N>
constexpr int kDerivatives = 0;
template <>
inline constexpr int kDerivatives<Dual> = 1;

// Both kinds of features of one edge: column (l^2 + l + m) R + n of the first, l R + n of the second.
template <class N>
class SphericalFeatures {
 public:
  SYMKERN_HD SphericalFeatures(const SphericalShape& shape, VecOf<N> x, N tau)
      : shape_(shape), x_(x), tau_(tau), solid_(shape, x) {
    const bool away = value_of(solid_.square()) > 0;
    const N r = away ? root(solid_.square()) : N(0);
    over_r_ = away ? N(1) / r : N(0);
    power_[0] = N(1);
    for (int l = 1; l < shape.spherical; ++l) power_[l] = r * power_[l - 1];
  }

  // first(column, value) and second(column, value)
  template <class F, class G>
  SYMKERN_HD void values(const F& first, const G& second) const {
    each_order<0>([&](int l, const N* radial, const N*, N y, N) {
      for (int m = -l; m <= l; ++m) {
        const N harmonic = solid_.value(l, m);
        for (int n = 0; n < shape_.radial; ++n) first((l * l + l + m) * shape_.radial + n, radial[n] * harmonic);
      }
      const N angular = power_[l] * y;
      for (int n = 0; n < shape_.radial; ++n) second(l * shape_.radial + n, radial[n] * angular);
    });
  }

  // Gradients of sum(first * values) + sum(second * values).
  template <class T>
  SYMKERN_HD void gradient(const T* first, const T* second, VecOf<N>& by_x, N& by_tau) const {
    by_x = {N(0), N(0), N(0)}, by_tau = N(0);
    N by_square(0);
    each_order<1>([&](int l, const N* radial, const N* slope, N y, N slope_y) {
      const auto contract = [&](const T* g, N& values, N& slopes) {
        values = slopes = N(0);
        for (int n = 0; n < shape_.radial; ++n) {
          values = values + N(g[n]) * radial[n], slopes = slopes + N(g[n]) * slope[n];
        }
      };
      N values, slopes;
      for (int m = -l; m <= l; ++m) {
        contract(first + (l * l + l + m) * shape_.radial, values, slopes);
        by_x = by_x + values * solid_.gradient(l, m, x_);
        by_square = by_square + slopes * solid_.value(l, m);
      }
      contract(second + l * shape_.radial, values, slopes);
      by_square = by_square + slopes * power_[l] * y;
      by_tau = by_tau + values * power_[l] * slope_y;
      if (l > 0) by_x = by_x + (N(l) * values * y * (l > 1 ? power_[l - 2] : over_r_)) * x_;
    });
    by_x = by_x + (N(2) * by_square) * x_;
  }

 private:
  // f(l, radial functions, their slopes in r^2, Y_l0(tau), its slope); slopes if there is one
  template <int slopes, class F>
  SYMKERN_HD void each_order(const F& f) const {
    constexpr int orders = 1 + slopes + kDerivatives<N>;
    const N square = solid_.square();
    double derivatives[orders][kMaxColumns];
    radial_functions<orders>(shape_, value_of(square), derivatives);
    Legendre<double, double, orders> legendre(value_of(tau_), shape_.legendre);
    for (int l = 0; l < shape_.spherical; ++l, legendre.next()) {
      N radial[kMaxRadial], slope[kMaxRadial];
      for (int n = 0; n < shape_.radial; ++n) {
        const int c = l * shape_.radial + n;
        radial[n] = chain(derivatives[0][c], derivatives[orders > 1][c], square);
        if constexpr (slopes > 0) slope[n] = chain(derivatives[1][c], derivatives[orders - 1][c], square);
      }
      f(l, radial, slope, chain(legendre.f, legendre.d1, tau_), chain(legendre.d1, legendre.d2, tau_));
    }
  }

  const SphericalShape& shape_;
  VecOf<N> x_;
  N tau_, over_r_;
  SolidHarmonics<N> solid_;
  N power_[kMaxSpherical];
};

}  // namespace symkern
