// Radial bases times a cutoff function, with their first and second derivatives. One text for plain numbers (host fp64,
// CUDA) and vectors (core/simd.h): V is the number type, S its scalar.
#pragma once

#include <cstdint>

#include "core/number.h"

namespace symkern {

enum class BasisKind : int { gaussian = 0, bessel = 1, expnorm = 2 };
enum class EnvelopeKind : int { cosine = 0, polynomial = 1, none = 2 };

// Value and two derivatives with respect to the distance.
template <class V>
struct Jet {
  V f, d1, d2;
};

template <class V, class S>
SYMKERN_HD V zero_like(V x) {
  return x * S(0);
}

template <class V, class S>
SYMKERN_HD Jet<V> envelope(EnvelopeKind kind, int exponent, S cutoff, V d) {
  const S inverse = S(1) / cutoff;
  const V x = d * inverse, zero = zero_like<V, S>(x);
  if (kind == EnvelopeKind::none) return {zero + S(1), zero, zero};
  const auto inside = x < S(1);
  if (kind == EnvelopeKind::cosine) {
    // (1 + cos pi x) / 2 = sin^2 t = 1 - cos^2 t with t = pi (1 - x) / 2: each form where it is accurate
    constexpr S pi = S(3.14159265358979323846);
    V s, c;
    sine_cosine((S(1) - x) * (pi / 2), s, c);
    const V value = select(x < S(0.5), S(1) - c * c, s * s);
    return {select(inside, value, zero), select(inside, s * c * (-pi * inverse), zero),
            select(inside, (c * c - s * s) * (pi * pi / 2 * inverse * inverse), zero)};
  }
  // 1 + a x^p + b x^(p+1) + c x^(p+2): DimeNet's u(d) without its 1/d
  const S p = S(exponent), a = -(p + 1) * (p + 2) / 2, b = p * (p + 2), c = -p * (p + 1) / 2;
  V power = zero + S(1);  // x^(p-2), or 1 for p < 2
  for (int k = 2; k < exponent; ++k) power = power * x;
  const V p1 = exponent >= 2 ? power * x : power, p0 = exponent >= 1 ? p1 * x : p1;
  const V value = S(1) + p0 * (a + x * (b + c * x));
  const V first = p1 * (a * p + x * (b * (p + 1) + c * (p + 2) * x)) * inverse;
  const V second = (exponent >= 2 ? power * (a * p * (p - 1) + x * (b * (p + 1) * p + c * (p + 2) * (p + 1) * x))
                                  : b * (p + 1) * p + c * (p + 2) * (p + 1) * x) *
                   (inverse * inverse);
  return {select(inside, value, zero), select(inside, first, zero), select(inside, second, zero)};
}

// One basis function of distance d with parameters p (centre or frequency) and q (width), and its derivatives. What a
// caller does not use, the compiler drops.
template <class V>
struct BasisJet {
  V f, d, p, q, dd, dp, dq, pp, pq, qq;
};

// exp(-q (t - p)^2), derivatives with respect to t in place of d
template <class V, class S>
SYMKERN_HD BasisJet<V> gaussian(V t, V p, V q) {
  const V a = t - p, a2 = a * a, qa = q * a;
  const V f = exponential(-(qa * a));
  const V first = S(-2) * qa * f, second = (S(4) * qa * qa - S(2) * q) * f, mixed = S(2) * a * (qa * a - S(1)) * f;
  return {f, first, -first, -(a2 * f), second, -second, mixed, second, -mixed, a2 * a2 * f};
}

// sqrt(2 / cutoff) sin(p d) / d, by its series where p d is small
template <class V, class S>
SYMKERN_HD BasisJet<V> bessel(V d, V p, S cutoff) {
  const S norm = S(sqrt(2.0 / static_cast<double>(cutoff)));
  const V x = p * d, x2 = x * x, zero = zero_like<V, S>(x);
  V s, c;
  sine_cosine(x, s, c);
  // g(x) = sin(x) / x, g' and g'': closed forms cancel below about 1, series of 6 terms hold there
  const auto small = x2 < S(1);
  const V inverse = reciprocal(select(small, zero + S(1), x));
  const V g = select(
      small,
      S(1) - x2 * (S(1) / 6) *
                 (S(1) -
                  x2 * (S(1) / 20) *
                      (S(1) - x2 * (S(1) / 42) *
                                  (S(1) - x2 * (S(1) / 72) * (S(1) - x2 * (S(1) / 110) * (S(1) - x2 * (S(1) / 156)))))),
      s * inverse);
  const V g1 = select(
      small,
      x * (S(-1) / 3) *
          (S(1) - x2 * (S(1) / 10) *
                      (S(1) - x2 * (S(1) / 28) *
                                  (S(1) - x2 * (S(1) / 54) * (S(1) - x2 * (S(1) / 88) * (S(1) - x2 * (S(1) / 130)))))),
      (c - s * inverse) * inverse);
  // from g'' = -g - 2 g' / x, with g' / x by its series
  const V ratio = select(
      small,
      (S(-1) / 3) *
          (S(1) - x2 * (S(1) / 10) *
                      (S(1) - x2 * (S(1) / 28) *
                                  (S(1) - x2 * (S(1) / 54) * (S(1) - x2 * (S(1) / 88) * (S(1) - x2 * (S(1) / 130)))))),
      g1 * inverse);
  const V g2 = -g - S(2) * ratio;
  // f = norm p g(p d)
  return {norm * p * g, norm * p * p * g1, norm * c, zero, norm * p * p * p * g2, -(norm * p * s),
          zero,         -(norm * d * s),   zero,     zero};
}

// t(d) of exponential-normal bases, exp(-5 d / cutoff), and its derivatives.
template <class V, class S>
SYMKERN_HD Jet<V> decay(V d, S cutoff) {
  const S rate = S(-5) / cutoff;
  const V t = exponential(d * rate);
  return {t, rate * t, rate * rate * t};
}

// Basis times envelope: `u` is the envelope at d, `t` the decay (expnorm only).
template <class V, class S, BasisKind kind>
SYMKERN_HD BasisJet<V> radial(V d, const Jet<V>& t, const Jet<V>& u, V p, V q, S cutoff) {
  BasisJet<V> b;
  if constexpr (kind == BasisKind::bessel) {
    b = bessel<V, S>(d, p, cutoff);
  } else if constexpr (kind == BasisKind::gaussian) {
    b = gaussian<V, S>(d, p, q);
  } else {
    b = gaussian<V, S>(t.f, p, q);
    b.dd = b.dd * t.d1 * t.d1 + b.d * t.d2;
    b.d = b.d * t.d1, b.dp = b.dp * t.d1, b.dq = b.dq * t.d1;
  }
  return {u.f * b.f,
          u.d1 * b.f + u.f * b.d,
          u.f * b.p,
          u.f * b.q,
          u.d2 * b.f + S(2) * u.d1 * b.d + u.f * b.dd,
          u.d1 * b.p + u.f * b.dp,
          u.d1 * b.q + u.f * b.dq,
          u.f * b.pp,
          u.f * b.pq,
          u.f * b.qq};
}

}  // namespace symkern
