// Radial bases times a cutoff function, with their first and second derivatives. One text for plain numbers (host fp64,
// CUDA) and vectors (core/simd.h, included before this): V is the number type, S its scalar.
#pragma once

#include <cstdint>

#include "core/number.h"

namespace symkern {

enum class BasisKind : int { gaussian = 0, bessel = 1, expnorm = 2 };
enum class EnvelopeKind : int { cosine = 0, polynomial = 1, none = 2 };

// What is the same for all distances.
template <class S>
struct RadialShape {
  S cutoff, rest;  // their sum is the cutoff to twice the precision: rounding it would spoil what is left near it
  S inverse;       // 1 / cutoff
  S norm;          // sqrt(2 / cutoff), bessel only
  EnvelopeKind envelope;
  int exponent;

  RadialShape(double rc, EnvelopeKind kind, int order)
      : cutoff(static_cast<S>(rc)),
        rest(static_cast<S>(rc - static_cast<double>(cutoff))),
        inverse(static_cast<S>(1 / rc)),
        norm(static_cast<S>(sqrt(2 / rc))),
        envelope(kind),
        exponent(order) {}
};

// Value and two derivatives with respect to the distance.
template <class V>
struct Jet {
  V f, d1, d2;
};

// x = d / cutoff in [0, 1] and y = 1 - x, which is exact where x is near 1; `inside` is d < cutoff.
template <class V, class S, class M>
SYMKERN_FORMULA Jet<V> cosine_envelope(const RadialShape<S>& shape, V x, V y, M inside) {
  // (1 + cos pi x) / 2 = sin^2(pi y / 2) = 1 - sin^2(pi x / 2): each form where its argument is small
  constexpr S pi = S(3.14159265358979323846);
  const auto outer = y < S(0.5);
  V s, c;
  sine_cosine(select(outer, y, x) * (pi / 2), s, c);
  const V square = s * s, curve = (c * c - square) * (pi * pi / 2 * shape.inverse * shape.inverse);
  return {select(outer, square, S(1) - square), s * c * (-pi * shape.inverse),
          select(inside, select(outer, curve, -curve), x * S(0))};
}

template <class V, class S>
SYMKERN_FORMULA Jet<V> polynomial_envelope(const RadialShape<S>& shape, V x, V y) {
  // 1 - (p + 1)(p + 2)/2 x^p + p (p + 2) x^(p + 1) - p (p + 1)/2 x^(p + 2) is y^3 times the first p terms of the series
  // of (1 - x)^-3, all of one sign: nothing cancels. Its derivative is -p (p + 1)(p + 2)/2 x^(p - 1) y^2.
  const int p = shape.exponent;
  V series = x * S(0), power = series + S(1);  // power: x^(p - 2), or 1
  for (int j = p - 1; j >= 0; --j) series = series * x + S(0.5) * S(j + 1) * S(j + 2);
  for (int j = 2; j < p; ++j) power = power * x;
  const V next = p > 1 ? power * x : power;  // x^(p - 1)
  const S slope = S(-0.5) * S(p) * S(p + 1) * S(p + 2) * shape.inverse;
  return {y * y * y * series, next * y * y * slope, (power * y * S(p - 1) - next * S(2)) * y * (slope * shape.inverse)};
}

// All about one distance that does not depend on the parameters: envelope u, and t, which is 1 / d for bessel and
// exp(-5 d / cutoff) with its derivatives for expnorm.
template <class V>
struct RadialRow {
  V d;
  Jet<V> t, u;
};

// d must not be negative; NaN makes everything NaN.
template <class V, class S>
SYMKERN_FORMULA RadialRow<V> radial_row(const RadialShape<S>& shape, BasisKind kind, V d) {
  const V zero = d * S(0), one = zero + S(1);
  RadialRow<V> row{d, {zero, zero, zero}, {one, zero, zero}};
  if (shape.envelope != EnvelopeKind::none) {
    // from the cutoff on all is zero, so the basis is evaluated at the cutoff, where it cannot overflow
    const V left = ((shape.cutoff - d) + shape.rest) / shape.cutoff;
    const auto inside = left > S(0), outside = left <= S(0);
    const V x = select(outside, one, d / shape.cutoff), y = select(inside, left, zero);
    row.d = select(outside, zero + shape.cutoff, d);
    row.u = shape.envelope == EnvelopeKind::cosine ? cosine_envelope(shape, x, y, inside)
                                                   : polynomial_envelope(shape, x, y);
  }
  if (kind == BasisKind::bessel) {
    // sin(p d) / d is p, to the last bit, long before this: no division by zero
    const S least = shape.cutoff * S(1e-18);
    row.d = select(row.d < least, zero + least, row.d);
    row.t.f = reciprocal(row.d);
  } else if (kind == BasisKind::expnorm) {
    const S rate = S(-5) * shape.inverse;
    const V t = exponential(row.d * rate);
    row.t = {t, t * rate, t * (rate * rate)};
  }
  return row;
}

// A basis function of the distance d with parameters p (centre or frequency) and q (width), and its derivatives. What a
// caller does not use, the compiler drops.
template <class V>
struct BasisJet {
  V f, d, p, q, dd, dp, dq, pp, pq, qq;
};

// exp(-q (t - p)^2), derivatives with respect to t in place of d
template <class V, class S>
SYMKERN_FORMULA BasisJet<V> gaussian(V t, V p, V q) {
  const V a = t - p, a2 = a * a, qa = q * a;
  const V f = exponential(-(qa * a));
  const V first = S(-2) * qa * f, second = (S(4) * qa * qa - S(2) * q) * f, mixed = S(2) * a * (qa * a - S(1)) * f;
  return {f, first, -first, -(a2 * f), second, -second, mixed, second, -mixed, a2 * a2 * f};
}

// norm sin(p d) / d
template <class V, class S>
SYMKERN_FORMULA BasisJet<V> bessel(const RadialShape<S>& shape, V d, V inverse, V p) {
  const V x = p * d, x2 = x * x, zero = x * S(0);
  V s, c;
  sine_cosine(x, s, c);
  const V f = shape.norm * s * inverse;
  // f' / d; the closed form cancels where x is small, and the series holds: (sin x / x)' / x = -1/3 + x^2 / 30 - ...
  constexpr int terms = sizeof(S) == 8 ? 8 : 5;
  V series = zero + S(1);
  for (int k = terms; k >= 1; --k) series = S(1) - x2 * series * (S(1) / S(2 * k * (2 * k + 3)));
  const V over_d =
      shape.norm * select(x2 < S(1), p * p * p * series * (S(-1) / S(3)), (p * c - s * inverse) * inverse * inverse);
  // from f'' + 2 f' / d + p^2 f = 0
  return {f,
          over_d * d,
          shape.norm * c,
          zero,
          -(p * p * f) - S(2) * over_d,
          -(shape.norm * p * s),
          zero,
          -(shape.norm * d * s),
          zero,
          zero};
}

// Basis times envelope.
template <BasisKind kind, class V, class S>
SYMKERN_FORMULA BasisJet<V> radial(const RadialShape<S>& shape, const RadialRow<V>& row, V p, V q) {
  const Jet<V>&t = row.t, &u = row.u;
  BasisJet<V> b;
  if constexpr (kind == BasisKind::bessel) {
    b = bessel(shape, row.d, t.f, p);
  } else if constexpr (kind == BasisKind::gaussian) {
    b = gaussian<V, S>(row.d, p, q);
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

// What one element f(d, p, q) of weight 1 adds to the gradients of d, p and q (order 1), or, along a direction
// (hd, hp, hq), what its directional derivative is and adds to them (order 2). Without `params` only d is of interest.
template <class V>
struct RadialShare {
  V value, d, p, q;
};

template <int order, bool params, class V>
SYMKERN_FORMULA RadialShare<V> radial_share(const BasisJet<V>& b, V hd, V hp, V hq) {
  if constexpr (order == 1) return {b.f, b.d, b.p, b.q};
  if constexpr (order == 2 && !params) return {b.d * hd, b.dd * hd, b.dp * hd, b.dq * hd};
  return {b.d * hd + b.p * hp + b.q * hq, b.dd * hd + b.dp * hp + b.dq * hq, b.dp * hd + b.pp * hp + b.pq * hq,
          b.dq * hd + b.pq * hp + b.qq * hq};
}

// ---- one call
// --------------------------------------------------------------------------------------------------------

// Rows are worked on in tiles of fixed size, whose sums over rows are added in a fixed order.
constexpr int64_t kRadialTile = 128;

inline constexpr int64_t radial_tiles(int64_t rows) { return (rows + kRadialTile - 1) / kRadialTile; }

template <class S>
struct RadialInput {
  const S* d;  // (rows)
  const S* p;  // (count): centres or frequencies
  const S* q;  // (count): widths, nullptr for bessel
  int64_t rows, count;
  RadialShape<S> shape;
};

// Of both derivatives; null pointers are not asked for, and directions that are null are zero.
template <class S>
struct RadialDerivative {
  const S* grad;  // (rows, count)
  const S *along_d, *along_p, *along_q;
  S* value;                 // (rows, count): derivative along the direction
  S* d;                     // (rows)
  double *sums_p, *sums_q;  // (tiles, count)
};

// Columns of a (rows, width) matrix, `group` rows at a time: out (ceil(rows / group), width).
template <class T>
struct ColumnSum {
  const double* in;
  int64_t rows, width, group;
  T* out;

  SYMKERN_HD void operator()(int64_t i) const {
    const int64_t g = i / width, c = i % width, end = (g + 1) * group < rows ? (g + 1) * group : rows;
    double sum = 0;
    for (int64_t r = g * group; r < end; ++r) sum += in[r * width + c];
    out[i] = static_cast<T>(sum);
  }
};

}  // namespace symkern
