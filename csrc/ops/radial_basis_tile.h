// The host schedule of radial bases, over vectors or plain numbers: rows of a tile first give their envelopes, `width`
// of them at a time, then each row its values, `width` parameters at a time with a masked tail.
#pragma once

#include "ops/radial_basis.h"

namespace symkern {

template <class S>
struct RadialKernels {
  using Forward = void (*)(const RadialInput<S>&, int64_t tile, S* out);
  using Derivative = void (*)(const RadialInput<S>&, const RadialDerivative<S>&, int64_t tile);
  Forward forward[3];              // by kind
  Derivative derivative[3][2][2];  // by kind, order - 1, params
};

template <class N>
struct RadialTile {
  using S = typename N::Scalar;
  using V = typename N::Vector;
  static constexpr int64_t kColumns = 256;  // parameters whose sums are kept at a time

  // Rows of the tile, each quantity on its own.
  struct Rows {
    S d[kRadialTile], t[3][kRadialTile], u[3][kRadialTile];
  };

  template <BasisKind kind>
  static void fill(const RadialInput<S>& in, int64_t begin, int64_t count, Rows& rows) {
    for (int64_t r = 0; r < count; r += N::width) {
      const S* d = in.d + begin + r;
      const RadialRow<V> row =
          radial_row(in.shape, kind, count - r >= N::width ? N::load(d) : N::load_first(d, count - r));
      N::store(rows.d + r, row.d);
      N::store(rows.t[0] + r, row.t.f), N::store(rows.t[1] + r, row.t.d1), N::store(rows.t[2] + r, row.t.d2);
      N::store(rows.u[0] + r, row.u.f), N::store(rows.u[1] + r, row.u.d1), N::store(rows.u[2] + r, row.u.d2);
    }
  }

  SYMKERN_FORMULA static RadialRow<V> get(const Rows& rows, int64_t r) {
    return {N::splat(rows.d[r]),
            {N::splat(rows.t[0][r]), N::splat(rows.t[1][r]), N::splat(rows.t[2][r])},
            {N::splat(rows.u[0][r]), N::splat(rows.u[1][r]), N::splat(rows.u[2][r])}};
  }

  SYMKERN_FORMULA static V load(const S* p, int64_t n) { return n >= N::width ? N::load(p) : N::load_first(p, n); }
  SYMKERN_FORMULA static void store(S* p, V x, int64_t n) { n >= N::width ? N::store(p, x) : N::store_first(p, x, n); }
  SYMKERN_FORMULA static V load_or_zero(const S* p, int64_t k, int64_t n) {
    return p == nullptr ? N::splat(0) : load(p + k, n);
  }

  template <BasisKind kind>
  static void forward(const RadialInput<S>& in, int64_t tile, S* out) {
    const int64_t begin = tile * kRadialTile, left = in.rows - begin, count = left < kRadialTile ? left : kRadialTile;
    Rows rows;
    fill<kind>(in, begin, count, rows);
    for (int64_t r = 0; r < count; ++r) {
      const RadialRow<V> row = get(rows, r);
      S* to = out + (begin + r) * in.count;
      const auto step = [&](int64_t k, int64_t n) __attribute__((always_inline)) {
        store(to + k, radial<kind>(in.shape, row, load(in.p + k, n), load_or_zero(in.q, k, n)).f, n);
      };
      int64_t k = 0;
      for (; k + N::width <= in.count; k += N::width) step(k, N::width);
      if (k < in.count) step(k, in.count - k);
    }
  }

  template <BasisKind kind, int order, bool params>
  static void derivative(const RadialInput<S>& in, const RadialDerivative<S>& io, int64_t tile) {
    const int64_t begin = tile * kRadialTile, left = in.rows - begin, count = left < kRadialTile ? left : kRadialTile;
    Rows rows;
    fill<kind>(in, begin, count, rows);
    for (int64_t first = 0; first < in.count; first += kColumns) {
      const int64_t columns = in.count - first < kColumns ? in.count - first : kColumns;
      S sums_p[params ? kColumns : 1] = {}, sums_q[params ? kColumns : 1] = {};
      for (int64_t r = 0; r < count; ++r) {
        const RadialRow<V> row = get(rows, r);
        const V along = N::splat(io.along_d != nullptr ? io.along_d[begin + r] : S(0));
        const int64_t at = (begin + r) * in.count + first;
        V sum_d = N::splat(0);
        const auto step = [&](int64_t k, int64_t n) __attribute__((always_inline)) {
          const BasisJet<V> b =
              radial<kind>(in.shape, row, load(in.p + first + k, n), load_or_zero(in.q, first + k, n));
          V along_p = N::splat(0), along_q = along_p;
          if constexpr (params && order == 2) {
            along_p = load_or_zero(io.along_p, first + k, n), along_q = load_or_zero(io.along_q, first + k, n);
          }
          const RadialShare<V> share = radial_share<order, params>(b, along, along_p, along_q);
          if constexpr (order == 2) {
            if (io.value != nullptr) store(io.value + at + k, share.value, n);
          }
          const V grad = load(io.grad + at + k, n);  // zero beyond the last
          sum_d += grad * share.d;
          if constexpr (params) {
            if (io.sums_p != nullptr) store(sums_p + k, load(sums_p + k, n) + grad * share.p, n);
            if (io.sums_q != nullptr) store(sums_q + k, load(sums_q + k, n) + grad * share.q, n);
          }
        };
        int64_t k = 0;
        for (; k + N::width <= columns; k += N::width) step(k, N::width);
        if (k < columns) step(k, columns - k);
        if (io.d != nullptr) io.d[begin + r] = (first > 0 ? io.d[begin + r] : S(0)) + N::sum(sum_d);
      }
      if constexpr (params) {
        const int64_t to = tile * in.count + first;
        for (int64_t k = 0; k < columns && io.sums_p != nullptr; ++k) io.sums_p[to + k] = sums_p[k];
        for (int64_t k = 0; k < columns && io.sums_q != nullptr; ++k) io.sums_q[to + k] = sums_q[k];
      }
    }
  }

  static constexpr RadialKernels<S> table() {
    constexpr BasisKind a = BasisKind::gaussian, b = BasisKind::bessel, c = BasisKind::expnorm;
    return {{forward<a>, forward<b>, forward<c>},
            {{{derivative<a, 1, false>, derivative<a, 1, true>}, {derivative<a, 2, false>, derivative<a, 2, true>}},
             {{derivative<b, 1, false>, derivative<b, 1, true>}, {derivative<b, 2, false>, derivative<b, 2, true>}},
             {{derivative<c, 1, false>, derivative<c, 1, true>}, {derivative<c, 2, false>, derivative<c, 2, true>}}}};
  }
};

}  // namespace symkern
