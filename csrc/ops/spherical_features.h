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

constexpr int kMaxSpherical = 8, kMaxRadial = 8;

// g_l, g_(l+1), g_(l+2) at w = y^2: upwards where y is larger than the order, else the series.
SYMKERN_HD void bessel_over_power(int l, double w, double* g) {
  const double y = sqrt(w);
  if (y > l + 2) {
    const double inverse = 1 / w, g0 = sin(y) / y;
    double below = g0, here = (g0 - cos(y)) * inverse;
    for (int k = 1; k < l + 1; ++k) {
      const double next = ((2 * k + 1) * here - below) * inverse;
      below = here, here = next;
    }
    g[0] = below, g[1] = here, g[2] = ((2 * l + 3) * here - below) * inverse;
    return;
  }
  double scale = 1;  // 1 / (2 l + 1)!!
  for (int k = 1; k <= l; ++k) scale /= 2 * k + 1;
  for (int order = l; order < l + 3; ++order, scale /= 2 * order + 1) {
    double sum = 1, term = 1;
    for (int k = 1; k < 40 && term * term > 1e-36; ++k) {
      term *= -0.5 * w / (k * (2 * order + 2 * k + 1));
      sum += term;
    }
    g[order - l] = scale * sum;
  }
}

SYMKERN_HD void bessel_pair(int l, double w, double& g, double& slope) {
  double orders[3];
  bessel_over_power(l, w, orders);
  g = orders[0], slope = -0.5 * orders[1];
}
SYMKERN_HD void bessel_pair(int l, Dual w, Dual& g, Dual& slope) {
  double orders[3];
  bessel_over_power(l, w.v, orders);
  g = {orders[0], -0.5 * orders[1] * w.d}, slope = {-0.5 * orders[1], 0.25 * orders[2] * w.d};
}

// Where wave numbers and constants are: all of them fp64.
struct SphericalShape {
  const double* wave;      // (L, R) k = z_ln / cutoff
  const double* norm;      // (L, R) c_ln k^l
  const double* harmonic;  // (L, L) by l and m >= 0: what makes orthonormal harmonics
  const double* legendre;  // (L, 2), see Legendre
  int spherical, radial;
};

// r^l Y_lm up to L - 1, without Condon-Shortley phase: column l^2 + l + m.
template <class N>
class SolidHarmonics {
 public:
  SYMKERN_HD SolidHarmonics(const SphericalShape& shape, VecOf<N> x) : shape_(shape), s_(dot(x, x)) {
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
        q_[at(l, m)] = N(1.0 / (l - m)) * next;
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

// Y_l0 and its slope in the angle.
SYMKERN_HD void legendre_pair(const Legendre<double, double, 3>& of, double, double& y, double& slope) {
  y = of.f, slope = of.d1;
}
SYMKERN_HD void legendre_pair(const Legendre<double, double, 3>& of, Dual angle, Dual& y, Dual& slope) {
  y = {of.f, of.d1 * angle.d}, slope = {of.d1, of.d2 * angle.d};
}

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
    each_order([&](int l, const N* radial, const N*, N y, N) {
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
    each_order([&](int l, const N* radial, const N* slope, N y, N slope_y) {
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
  // f(l, radial functions, their slopes in r^2, Y_l0(tau), its slope)
  template <class F>
  SYMKERN_HD void each_order(const F& f) const {
    Legendre<double, double, 3> legendre(value_of(tau_), shape_.legendre);
    for (int l = 0; l < shape_.spherical; ++l, legendre.next()) {
      N radial[kMaxRadial], slope[kMaxRadial], y, slope_y;
      for (int n = 0; n < shape_.radial; ++n) {
        const double k = shape_.wave[l * shape_.radial + n], c = shape_.norm[l * shape_.radial + n];
        bessel_pair(l, N(k * k) * solid_.square(), radial[n], slope[n]);
        radial[n] = N(c) * radial[n], slope[n] = N(c * k * k) * slope[n];
      }
      legendre_pair(legendre, tau_, y, slope_y);
      f(l, radial, slope, y, slope_y);
    }
  }

  const SphericalShape& shape_;
  VecOf<N> x_;
  N tau_, over_r_;
  SolidHarmonics<N> solid_;
  N power_[kMaxSpherical];
};

}  // namespace symkern
