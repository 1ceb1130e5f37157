// The Block of core/tile.h as plain loops, one number at a time: what the device's is tested against.
#pragma once

#include <deque>
#include <vector>

#include "core/tile.h"

namespace symkern::testing {

template <class S>
struct PlainBlock {
  using Scalar = S;
  using Lanes = OneLane<S>;
  static constexpr int rows = 5;

  std::deque<std::vector<S>> held;

  static constexpr int ld(int width) { return (width + 15) / 16 * 16; }
  static bool good(int64_t i, int64_t size) { return i >= 0 && i < size; }
  static int64_t index(int64_t i, int64_t size) { return good(i, size) ? i : 0; }
  S* tile(int width) {
    held.emplace_back(static_cast<size_t>(16 * ld(width)), S(NAN));
    return held.back().data();
  }
  S* column() { return tile(1); }
  static TileWeight<S> weight(const TileWeight<S>& w) { return w; }

  template <class F>
  void each(int n, int width, F f) {
    for (int r = 0; r < n; ++r) {
      for (int c = 0; c < width; ++c) f(r, c);
    }
  }
  template <class G>
  void each_by_row(int n, int width, G g) {
    each(n, width, [&](int r, int c) { g(r)(c); });
  }
  template <class F>
  void each_row(int n, F f) {
    for (int r = 0; r < n; ++r) f(r);
  }
  template <class F, class G>
  void dot(int n, int width, F f, G g) {
    for (int r = 0; r < n; ++r) {
      S sum = 0;
      for (int c = 0; c < width; ++c) sum += f(r, c);
      g(r, sum);
    }
  }
  template <int m, class F, class G>
  void dots(int n, int width, F f, G g) {
    for (int r = 0; r < n; ++r) {
      S sums[m] = {};
      for (int c = 0; c < width; ++c) f(r, c, sums);
      g(r, sums);
    }
  }
  // weights as plain rows
  template <class F>
  void product(int n, const S* a, int64_t lda, const TileWeight<S>& w, F f) {
    for (int r = 0; r < n; ++r) {
      for (int c = 0; c < w.n; ++c) {
        S sum = 0;
        for (int k = 0; k < w.k; ++k) sum += a[r * lda + k] * w.data[k * w.n + c];
        f(r, c, sum);
      }
    }
  }
  void add_product(int n, const S* a, int64_t lda, int m, const S* b, int64_t ldb, int width, S* out) {
    for (int r = 0; r < n; ++r) {
      for (int i = 0; i < m; ++i) {
        for (int c = 0; c < width; ++c) out[i * width + c] += a[r * lda + i] * b[r * ldb + c];
      }
    }
  }
  template <class F>
  void add_columns(int n, int width, F f, S* out) {
    for (int r = 0; r < n; ++r) {
      for (int c = 0; c < width; ++c) out[c] += f(r, c);
    }
  }
  template <class I, class F>
  void add_to(int n, int width, I index_of, F f, S* out) {
    for (int r = 0; r < n; ++r) {
      for (int c = 0; c < width; ++c) out[index_of(r) * width + c] += f(r, c);
    }
  }
  template <int m, class I, class F>
  void add_parts(int n, int width, I index_of, F f, S* out) {
    for (int r = 0; r < n; ++r) {
      for (int c = 0; c < width; ++c) {
        S sums[m] = {};
        f(r, c, sums);
        for (int j = 0; j < m; ++j) out[(index_of(r) * m + j) * width + c] += sums[j];
      }
    }
  }
};

// A weight of nn.Linear (outputs, inputs) as plain rows of the right side of a product, or its transpose.
template <class S>
TileWeight<S> plain_weight(const std::vector<S>& from, int outputs, int inputs, bool transposed, std::vector<S>& to) {
  if (from.empty() && inputs > 0) return {nullptr, 0, 0};
  const int k = transposed ? outputs : inputs, columns = transposed ? inputs : outputs, n = (columns + 15) / 16 * 16;
  to.assign(static_cast<size_t>(k * n + 1), S(0));
  for (int r = 0; r < k; ++r) {
    for (int c = 0; c < columns; ++c) to[r * n + c] = transposed ? from[r * inputs + c] : from[c * inputs + r];
  }
  return {to.data(), k, n};
}

}  // namespace symkern::testing
