// Tabulated filters: quintic Hermite interpolation in tables of F rows of values and of two derivatives, and the two
// passes over a graph that use them. Rows of a knot stand together, values first, derivatives scaled to the interval,
// so that a filter is a combination of six rows in one place.
#pragma once

#include "core/number.h"

namespace symkern {

// What the n-th derivative of the six polynomials in t = 0 .. 1 weighs the rows with, lowest power first.
template <class S>
struct FilterWeights {
  S c[6][6];
};

// value, slope and curvature at the left knot, then at the right one
constexpr double kHermite[6][6] = {
    {1, 0, 0, -10, 15, -6}, {0, 1, 0, -6, 8, -3}, {0, 0, 0.5, -1.5, 1.5, -0.5},
    {0, 0, 0, 10, -15, 6},  {0, 0, 0, -4, 7, -3}, {0, 0, 0, 0.5, -1, 0.5},
};

// Of the n-th derivative in d, with `scale` intervals per Å.
template <class S>
FilterWeights<S> filter_weights(int64_t n, double scale) {
  FilterWeights<S> w = {};
  for (int k = 0; k < 6; ++k) {
    for (int m = static_cast<int>(n); m < 6; ++m) {
      double factor = kHermite[k][m];
      for (int j = 0; j < n; ++j) factor *= (m - j) * scale;
      w.c[k][m - n] = static_cast<S>(factor);
    }
  }
  return w;
}

template <class S>
struct FilterTable {
  const S* rows;  // (knots, 3, F)
  const S* d;     // (E)
  int64_t knots, width;
  S cutoff, scale;
  FilterWeights<S> weights;

  // The six rows of edge e and their weights; false where the filter is zero. A d that is no distance gives NaN.
  SYMKERN_FORMULA bool find(int64_t e, const S*& row, S* w) const {
    const S x = d[e];
    if (x >= cutoff) return false;
    S place = x * scale;
    int64_t k = 0;
    if (x >= 0) {
      k = static_cast<int64_t>(place);
      if (k > knots - 2) k = knots - 2;
    } else {
      place = static_cast<S>(NAN);
    }
    const S t = place - static_cast<S>(k);
    row = rows + 3 * width * k;
    for (int j = 0; j < 6; ++j) {
      S sum = weights.c[j][5];
      for (int m = 4; m >= 0; --m) sum = multiply_add(sum, t, weights.c[j][m]);
      w[j] = sum;
    }
    return true;
  }

  // Lanes f .. of the combination.
  template <class L, class Load>
  SYMKERN_FORMULA auto combine(const S* row, const S* w, int64_t f, const Load& load) const {
    auto sum = L::splat(w[0]) * load(row + f);
    for (int j = 1; j < 6; ++j) sum = multiply_add(L::splat(w[j]), load(row + j * width + f), sum);
    return sum;
  }
};

// out_n = sum over the edges e of n of factor_e F(d_e) x_other(e). Edges of n: order[ptr[n]] .. order[ptr[n + 1] - 1].
template <class S>
struct FilterSum {
  FilterTable<S> table;
  const S* x;            // (N, F)
  const S* factor;       // (E), or nullptr: 1
  const int64_t* ptr;    // (N + 1)
  const int64_t* order;  // (E), or nullptr: as they are
  const int64_t* other;  // (E)
  int64_t atoms, edges;
  S* out;  // (N, F)
};

// out_e = sum over channels of a_i F(d_e) b_j, for an edge j -> i.
template <class S>
struct FilterDot {
  FilterTable<S> table;
  const S *a, *b;                      // (N, F)
  const int64_t *receivers, *senders;  // (E)
  S* out;                              // (E)
};

template <class S>
struct FilterKernels {
  void (*sum)(const FilterSum<S>& io, int64_t n);
  void (*dot)(const FilterDot<S>& io, int64_t e);
};

// On vectors of channels; what indices point at has been checked.
template <class L>
struct FilterRows {
  using S = typename L::Scalar;

  SYMKERN_HD static void sum(const FilterSum<S>& io, int64_t n) {
    const int64_t width = io.table.width, whole = width - width % L::width;
    S* out = io.out + n * width;
    for (int64_t f = 0; f < width; ++f) out[f] = 0;
    for (int64_t k = io.ptr[n]; k < io.ptr[n + 1]; ++k) {
      const int64_t e = io.order != nullptr ? io.order[k] : k;
      const S* row = nullptr;
      S w[6];
      if (!io.table.find(e, row, w)) continue;
      if (io.factor != nullptr) {
        for (int j = 0; j < 6; ++j) w[j] *= io.factor[e];
      }
      const S* x = io.x + io.other[e] * width;
      const auto all = [](const S* p) { return L::load(p); };
      for (int64_t f = 0; f < whole; f += L::width) {
        L::store(out + f, multiply_add(io.table.template combine<L>(row, w, f, all), L::load(x + f), L::load(out + f)));
      }
      if (whole < width) {
        const int64_t left = width - whole;
        const auto some = [left](const S* p) { return L::load_first(p, left); };
        const auto sum =
            multiply_add(io.table.template combine<L>(row, w, whole, some), some(x + whole), some(out + whole));
        L::store_first(out + whole, sum, left);
      }
    }
  }

  SYMKERN_HD static void dot(const FilterDot<S>& io, int64_t e) {
    const int64_t width = io.table.width, whole = width - width % L::width;
    const S* row = nullptr;
    S w[6];
    io.out[e] = 0;
    if (!io.table.find(e, row, w)) return;
    const S *a = io.a + io.receivers[e] * width, *b = io.b + io.senders[e] * width;
    const auto all = [](const S* p) { return L::load(p); };
    auto sum = L::splat(0);
    for (int64_t f = 0; f < whole; f += L::width) {
      sum = multiply_add(io.table.template combine<L>(row, w, f, all), L::load(a + f) * L::load(b + f), sum);
    }
    if (whole < width) {
      const int64_t left = width - whole;
      const auto some = [left](const S* p) { return L::load_first(p, left); };
      sum = multiply_add(io.table.template combine<L>(row, w, whole, some), some(a + whole) * some(b + whole), sum);
    }
    io.out[e] = L::sum(sum);
  }

  static constexpr FilterKernels<S> table() { return {&sum, &dot}; }
};

}  // namespace symkern
