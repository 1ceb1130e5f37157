// The spherical basis of DimeNet: radial functions of an edge times Legendre polynomials of an angle, each with two
// derivatives. One text for plain numbers (CUDA) and for vectors (host): N is the type of their words, as OneLane.
#pragma once

#include "ops/radial_basis.h"

#include <cstdint>

namespace symkern {

// ---- radial functions -----------------------------------------------------------------------------------------------

// u(x) / x times c_ln j_l(z_ln x) at x = d / cutoff; derivatives with respect to d.
//
// The Bessel functions are fixed and smooth, so Python tabulates them once as polynomials on equal intervals of [0, 1],
// exact to rounding. That needs no sine, no recurrence that is unstable at small x, and vectorises over columns.
template <class S>
struct SphericalRadial {
  const S* d;      // (E)
  const S* table;  // (intervals, degree + 1, stride), the highest power of t in [-1, 1] first
  int64_t edges, intervals, coefficients, columns;
  int64_t stride;  // columns, filled up to a multiple of 16
  RadialShape<double> shape;
  S* out;  // (E, orders, stride)
};

template <class V>
SYMKERN_FORMULA Jet<V> envelope_over_x(const RadialShape<double>& shape, V r) {
  const V rest = ((shape.cutoff - r) + shape.rest) * shape.inverse;
  const Jet<V> u = polynomial_envelope(shape, r * shape.inverse, rest);
  const V i = shape.cutoff / r, i1 = -i / r, i2 = -2.0 * i1 / r;
  // at zero distance the basis has no limit, so it is zero there
  const auto inside = (rest > 0.0) & (r >= 1e-9 * shape.cutoff);
  const V outside = r * 0.0;  // NaN stays
  return {select(inside, u.f * i, outside), select(inside, u.d1 * i + u.f * i1, outside),
          select(inside, u.d2 * i + 2.0 * u.d1 * i1 + u.f * i2, outside)};
}

// Where an edge is in the table, and its envelope.
template <class S>
struct RadialPlace {
  const S* rows;
  S t, e0, e1, e2;

  SYMKERN_FORMULA RadialPlace(const SphericalRadial<S>& in, int64_t e, double u, double u1, double u2)
      : e0(static_cast<S>(u)), e1(static_cast<S>(u1)), e2(static_cast<S>(u2)) {
    const double x = in.d[e] * in.shape.inverse, place = x < 1 ? x * in.intervals : in.intervals;
    const int64_t cell = place < in.intervals - 1 ? static_cast<int64_t>(place) : in.intervals - 1;
    t = static_cast<S>(2 * (place - cell) - 1);
    rows = in.table + cell * in.coefficients * in.stride;
  }
};

// As many columns of edge e as N has lanes, from `first` on.
template <class N, int orders, class S>
SYMKERN_FORMULA void radial_columns(const SphericalRadial<S>& in, const RadialPlace<S>& at, int64_t e, int64_t first) {
  using V = typename N::Vector;
  const V t = N::splat(at.t);
  V f = N::splat(0), f1 = f, f2 = f;  // f2 is half the second derivative
  const S* row = at.rows + first;
  for (int64_t k = 0; k < in.coefficients; ++k, row += in.stride) {
    if constexpr (orders > 2) f2 = f2 * t + f1;
    if constexpr (orders > 1) f1 = f1 * t + f;
    f = f * t + N::load(row);
  }
  const S step = static_cast<S>(2 * in.intervals * in.shape.inverse);  // dt / dd
  S* to = in.out + e * orders * in.stride + first;
  N::store(to, at.e0 * f);
  if constexpr (orders > 1) N::store(to + in.stride, at.e1 * f + at.e0 * step * f1);
  if constexpr (orders > 2) {
    N::store(to + 2 * in.stride, at.e2 * f + 2 * at.e1 * step * f1 + 2 * at.e0 * step * step * f2);
  }
}

// ---- Legendre polynomials -------------------------------------------------------------------------------------------

// Y_l0 of an angle for one l after another: Y_(l+1) = p_l cos(angle) Y_l - q_l Y_(l-1), and what follows from that for
// the derivatives with respect to the angle, up to order `orders` - 1. V is a number or a vector of them, S its scalar.
template <class V, class S, int orders>
class Legendre {
 public:
  SYMKERN_FORMULA Legendre(V angle, const S* recurrence) : recurrence_(recurrence) {
    sine_cosine(angle, sine_, cosine_);
  }

  V f = V{} + S(0.28209479177387814), d1 = V{}, d2 = V{};  // sqrt(1 / 4 pi)

  SYMKERN_FORMULA void next() {
    const S p = recurrence_[0], q = recurrence_[1];
    const V g = p * cosine_ * f - q * f_;
    if constexpr (orders > 1) {
      const V g1 = p * (cosine_ * d1 - sine_ * f) - q * d1_;
      if constexpr (orders > 2) {
        const V g2 = p * (cosine_ * (d2 - f) - S(2) * sine_ * d1) - q * d2_;
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

// ---- triplets -------------------------------------------------------------------------------------------------------

template <class S>
struct SphericalInput {
  const int64_t* kj;    // (T)
  const int64_t* real;  // one number: triplets from it on are padding
  const S* angle;       // (T)
  const S* recurrence;  // (L, 2)
  const S* radial;      // (E, orders, stride)
  int64_t count, num_spherical, num_radial, stride;

  SYMKERN_FORMULA int64_t columns() const { return num_spherical * num_radial; }
};

// What derivatives read and write.
template <class S>
struct SphericalDerivative {
  const S* grad;       // (T, L N)
  const S* towards_d;  // (E), or nullptr: zero; second order, like the next
  const S* towards_a;  // (T), or nullptr: zero
  S* out_grad;         // (T, L N), second order
  S* out_angle;        // (T), or nullptr: not wanted; the next likewise
  S* shares;           // (T) each triplet's share of the gradient of its distance
};

// Triplets t .. t + N::width - 1: polynomials in vectors over triplets, then rows in vectors over the num_radial
// columns of one l. radial > 0: num_radial, when it is known at compile time, so that loops over it are unrolled.
template <class N, int radial>
struct SphericalBlock {
  using S = typename N::Scalar;
  using V = typename N::Vector;
  static constexpr int W = N::width;
  static constexpr int64_t kAhead = 4;  // blocks from the one that is computed to the one that is fetched

  const SphericalInput<S>& in;
  const int64_t t, n, columns;
  const int64_t rows, filled;  // triplets of the block, and those that are no padding

  SYMKERN_FORMULA SphericalBlock(const SphericalInput<S>& input, int64_t first)
      : in(input),
        t(first),
        n(radial > 0 ? radial : input.num_radial),
        columns(input.num_spherical * n),
        rows(least(W, input.count - first)),
        filled(least(rows, *input.real - first)) {}

  SYMKERN_FORMULA static int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
  SYMKERN_FORMULA static V load(const S* p, int64_t count) { return count >= W ? N::load(p) : N::load_first(p, count); }

  // Rows are read a few columns at a time, in which processors see no stream.
  SYMKERN_FORMULA void prefetch([[maybe_unused]] const S* grad) const {
#if !defined(__CUDACC__)
    const int64_t begin = least(t + kAhead * W, in.count) * columns,
                  end = least(t + (kAhead + 1) * W, in.count) * columns;
    for (int64_t i = begin; i < end; i += 64 / sizeof(S)) __builtin_prefetch(grad + i);
#endif
  }

  template <int orders>
  SYMKERN_FORMULA Legendre<V, S, orders> legendre() const {
    return {load(in.angle + t, filled), in.recurrence};
  }

  // Lanes beyond the last triplet read what the first reads, and are not written.
  SYMKERN_FORMULA int64_t triplet(int b) const { return t + (b < filled ? b : 0); }

  // A vector may spill over the columns of its l: they are written in order. But not over its row.
  SYMKERN_FORMULA void store(S* to, V x, int64_t column) const {
    columns - column >= W ? N::store(to + column, x) : N::store_first(to + column, x, columns - column);
  }

  SYMKERN_FORMULA void store_sums(S* to, const V* sums) const {
    if (to == nullptr) return;
    for (int b = 0; b < rows; ++b) to[t + b] = b < filled ? N::sum(sums[b]) : S(0);
  }

  SYMKERN_FORMULA void clear_padding(S* out) const {
    for (int64_t i = (t + (filled > 0 ? filled : 0)) * columns; i < (t + rows) * columns; ++i) out[i] = 0;
  }

  SYMKERN_FORMULA void forward(S* out) const {
    clear_padding(out);
    if (filled <= 0) return;
    const S* r[W];
    for (int b = 0; b < W; ++b) r[b] = in.radial + in.kj[triplet(b)] * in.stride;
    auto y = legendre<1>();
    for (int64_t first = 0; first < columns; first += n, y.next()) {
      S f[W];
      N::store(f, y.f);
      for (int b = 0; b < filled; ++b) {
        for (int64_t c = first; c < first + n; c += W) {
          store(out + (t + b) * columns, load(r[b] + c, columns - c) * f[b], c);
        }
      }
    }
  }

  template <bool by_d, bool by_angle>
  SYMKERN_FORMULA void backward(const SphericalDerivative<S>& io) const {
    constexpr int orders = by_d ? 2 : 1;
    V d[W] = {}, angle[W] = {};
    prefetch(io.grad);
    if (filled > 0) {
      const S *g[W], *r[W];
      for (int b = 0; b < W; ++b) {
        g[b] = io.grad + triplet(b) * columns;
        r[b] = in.radial + in.kj[triplet(b)] * orders * in.stride;
      }
      auto y = legendre<by_angle ? 2 : 1>();
      for (int64_t first = 0; first < columns; first += n, y.next()) {
        S f[W], f1[W];
        N::store(f, y.f), N::store(f1, y.d1);
        for (int b = 0; b < W; ++b) {
          V s{}, s1{};
          for (int64_t c = first; c < first + n; c += W) {
            const int64_t left = first + n - c;
            const V gradient = load(g[b] + c, left);
            if constexpr (by_angle) s += gradient * load(r[b] + c, left);
            if constexpr (by_d) s1 += gradient * load(r[b] + in.stride + c, left);
          }
          angle[b] += s * f1[b], d[b] += s1 * f[b];
        }
      }
    }
    if constexpr (by_angle) store_sums(io.out_angle, angle);
    if constexpr (by_d) store_sums(io.shares, d);
  }

  // Adjoint of `backward` for directions of distances and angles.
  SYMKERN_FORMULA void double_backward(const SphericalDerivative<S>& io) const {
    clear_padding(io.out_grad);
    V d[W] = {}, angle[W] = {};
    prefetch(io.grad);
    if (filled > 0) {
      const S *g[W], *r[W];
      S along_d[W], along_a[W];
      for (int b = 0; b < W; ++b) {
        const int64_t e = in.kj[triplet(b)];
        g[b] = io.grad + triplet(b) * columns;
        r[b] = in.radial + e * 3 * in.stride;
        along_d[b] = io.towards_d != nullptr ? io.towards_d[e] : S(0);
        along_a[b] = io.towards_a != nullptr ? io.towards_a[triplet(b)] : S(0);
      }
      const V hd = N::load(along_d), ha = N::load(along_a);
      auto y = legendre<3>();
      for (int64_t first = 0; first < columns; first += n, y.next()) {
        S d0[W], d1[W], a1[W], a2[W];
        N::store(d0, hd * y.f), N::store(d1, hd * y.d1), N::store(a1, ha * y.d1), N::store(a2, ha * y.d2);
        for (int b = 0; b < W; ++b) {
          for (int64_t c = first; c < first + n; c += W) {
            const int64_t left = first + n - c;
            const V gradient = load(g[b] + c, left), r0 = load(r[b] + c, left);
            const V r1 = load(r[b] + in.stride + c, left), r2 = load(r[b] + 2 * in.stride + c, left);
            angle[b] += gradient * (r1 * d1[b] + r0 * a2[b]);
            d[b] += gradient * (r2 * d0[b] + r1 * a1[b]);
            if (b < filled) store(io.out_grad + (t + b) * columns, r1 * d0[b] + r0 * a1[b], c);
          }
        }
      }
    }
    store_sums(io.out_angle, angle);
    store_sums(io.shares, d);
  }
};

}  // namespace symkern
