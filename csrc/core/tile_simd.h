// The Block of core/tile.h on the host: one thread, vectors of its native width, the tile in its caches.
// Only for *_simd.cpp: everything has internal linkage through its Lanes.
#pragma once

#include "core/simd.h"
#include "core/simd64.h"

#include "core/tile.h"

namespace symkern {
namespace {

template <class L>
struct SimdBlock {
  using Scalar = typename L::Scalar;
  using S = Scalar;
  using Lanes = L;
  using V = typename L::Vector;
  static constexpr int W = L::width;
  static constexpr int rows = 48;
  static constexpr int R = 6;  // rows of a product in registers
#if defined(__AVX512F__)
  static constexpr int P = 4;  // and vectors
#else
  static constexpr int P = 2;
#endif

  S* next;  // room for tiles, aligned to 64 bytes; the caller knows how much the pass takes

  static constexpr int ld(int width) { return (width + 15) / 16 * 16; }
  S* tile(int width) {
    S* at = next;
    next += static_cast<int64_t>(rows) * ld(width);
    return at;
  }
  S* column() {
    S* at = next;
    next += (rows + 15) / 16 * 16;
    return at;
  }
  static constexpr bool good(int64_t, int64_t) { return true; }
  static constexpr int64_t index(int64_t i, int64_t) { return i; }
  static TileWeight<S> weight(const TileWeight<S>& w) { return w; }

  // to: k * n numbers. Panels of up to P vectors, each with its k rows one after the other.
  static void pack(const S* from, int64_t row_stride, int64_t column_stride, int k, int n, S* to) {
    for (int c = 0; c < n;) {
      const int panel = n - c < P * W ? n - c : P * W;
      for (int r = 0; r < k; ++r) {
        for (int j = 0; j < panel; ++j) *to++ = from[r * row_stride + (c + j) * column_stride];
      }
      c += panel;
    }
  }

  template <class F>
  SYMKERN_INLINE void each(int n, int width, F f) {
    for (int r = 0; r < n; ++r) {
      for (int c = 0; c < width; c += W) f(r, c);
    }
  }

  template <class G>
  SYMKERN_INLINE void each_by_row(int n, int width, G g) {
    for (int r = 0; r < n; ++r) {
      const auto f = g(r);
      for (int c = 0; c < width; c += W) f(c);
    }
  }

  template <class F>
  SYMKERN_INLINE void each_row(int n, F f) {
    for (int r = 0; r < n; ++r) f(r);
  }

  template <class F, class G>
  SYMKERN_INLINE void dot(int n, int width, F f, G g) {
    for (int r = 0; r < n; ++r) {
      V sum = L::splat(0);
      for (int c = 0; c < width; c += W) sum += f(r, c);
      g(r, L::sum(sum));
    }
  }

  template <int m, class F, class G>
  SYMKERN_INLINE void dots(int n, int width, F f, G g) {
    for (int r = 0; r < n; ++r) {
      V sums[m];
      S found[m];
      for (int j = 0; j < m; ++j) sums[j] = L::splat(0);
      for (int c = 0; c < width; c += W) f(r, c, sums);
      for (int j = 0; j < m; ++j) found[j] = L::sum(sums[j]);
      g(r, found);
    }
  }

  template <class F>
  SYMKERN_INLINE void product(int n, const S* a, int64_t lda, const TileWeight<S>& w, F f) {
    alignas(64) S found[R * P * W];
    for (int c = 0; c < w.n;) {
      const int panel = w.n - c < P * W ? w.n - c : P * W;
      for (int r = 0; r < n; r += R) {
        const int count = n - r < R ? n - r : R;
        multiply(count, panel / W, a + r * lda, lda, w.data + static_cast<int64_t>(c) * w.k, w.k, found);
        for (int i = 0; i < count; ++i) {
          for (int j = 0; j < panel; j += W) f(r + i, c + j, L::load(found + i * P * W + j));
        }
      }
      c += panel;
    }
  }

  static void add_product(int n, const S* a, int64_t lda, int m, const S* b, int64_t ldb, int width, S* out) {
    for (int c = 0; c < width;) {
      const int panel = width - c < P * W ? width - c : P * W;
      for (int i = 0; i < m; i += R) {
        const int count = m - i < R ? m - i : R;
        outer(count, panel / W, n, a + i, lda, b + c, ldb, out + static_cast<int64_t>(i) * width + c, width);
      }
      c += panel;
    }
  }

  template <class F>
  SYMKERN_INLINE void add_columns(int n, int width, F f, S* out) {
    for (int c = 0; c < width; c += W) {
      V sum = L::splat(0);
      for (int r = 0; r < n; ++r) sum += f(r, c);
      L::store(out + c, L::load(out + c) + sum);
    }
  }

  template <class I, class F>
  SYMKERN_INLINE void add_to(int n, int width, I index, F f, S* out) {
    for (int begin = 0, end; begin < n; begin = end) {
      const int64_t at = index(begin);
      for (end = begin + 1; end < n && index(end) == at;) ++end;
      S* to = out + at * width;
      for (int c = 0; c < width; c += W) {
        V sum = f(begin, c);
        for (int r = begin + 1; r < end; ++r) sum += f(r, c);
        L::store(to + c, L::load(to + c) + sum);
      }
    }
  }

  // Several columns at a time, so that what f looks up for a row is looked up less often.
  template <int m, class I, class F>
  SYMKERN_INLINE void add_parts(int n, int width, I index, F f, S* out) {
    constexpr int U = 16 / W < 1 ? 1 : 16 / W;  // 16 columns: widths are multiples of that
    for (int begin = 0, end; begin < n; begin = end) {
      const int64_t at = index(begin);
      for (end = begin + 1; end < n && index(end) == at;) ++end;
      S* to = out + at * m * width;
      for (int c = 0; c < width; c += U * W) {
        V sums[U][m];
#pragma GCC unroll 8
        for (int u = 0; u < U; ++u) {
#pragma GCC unroll 4
          for (int j = 0; j < m; ++j) sums[u][j] = L::splat(0);
        }
        for (int r = begin; r < end; ++r) {
#pragma GCC unroll 8
          for (int u = 0; u < U; ++u) f(r, c + u * W, sums[u]);
        }
#pragma GCC unroll 8
        for (int u = 0; u < U; ++u) {
#pragma GCC unroll 4
          for (int j = 0; j < m; ++j) {
            S* p = to + j * width + c + u * W;
            L::store(p, L::load(p) + sums[u][j]);
          }
        }
      }
    }
  }

 private:
  // found (m rows of P vectors) = a (m, k) times a panel b (k, v vectors)
  template <int m, int v>
  __attribute__((noinline)) static void multiply_(const S* a, int64_t lda, const S* b, int k, S* found) {
    V sum[m][v];
#pragma GCC unroll 8
    for (int i = 0; i < m; ++i) {
#pragma GCC unroll 4
      for (int j = 0; j < v; ++j) sum[i][j] = L::splat(0);
    }
    for (int x = 0; x < k; ++x, b += v * W) {
      V right[v];
#pragma GCC unroll 4
      for (int j = 0; j < v; ++j) right[j] = L::load(b + j * W);
#pragma GCC unroll 8
      for (int i = 0; i < m; ++i) {
        const V left = L::splat(a[i * lda + x]);
#pragma GCC unroll 4
        for (int j = 0; j < v; ++j) sum[i][j] += left * right[j];
      }
    }
#pragma GCC unroll 8
    for (int i = 0; i < m; ++i) {
#pragma GCC unroll 4
      for (int j = 0; j < v; ++j) L::store(found + (i * P + j) * W, sum[i][j]);
    }
  }

  // out (m, v vectors) += the transpose of a (n, m) times b (n, v vectors)
  template <int m, int v>
  __attribute__((noinline)) static void outer_(int n, const S* a, int64_t lda, const S* b, int64_t ldb, S* out,
                                               int64_t ldo) {
    V sum[m][v];
#pragma GCC unroll 8
    for (int i = 0; i < m; ++i) {
#pragma GCC unroll 4
      for (int j = 0; j < v; ++j) sum[i][j] = L::splat(0);
    }
    for (int r = 0; r < n; ++r, a += lda, b += ldb) {
      V right[v];
#pragma GCC unroll 4
      for (int j = 0; j < v; ++j) right[j] = L::load(b + j * W);
#pragma GCC unroll 8
      for (int i = 0; i < m; ++i) {
        const V left = L::splat(a[i]);
#pragma GCC unroll 4
        for (int j = 0; j < v; ++j) sum[i][j] += left * right[j];
      }
    }
#pragma GCC unroll 8
    for (int i = 0; i < m; ++i) {
#pragma GCC unroll 4
      for (int j = 0; j < v; ++j) L::store(out + i * ldo + j * W, L::load(out + i * ldo + j * W) + sum[i][j]);
    }
  }

  template <int v>
  static void multiply_rows(int m, const S* a, int64_t lda, const S* b, int k, S* found) {
    switch (m) {
      case 1:
        return multiply_<1, v>(a, lda, b, k, found);
      case 2:
        return multiply_<2, v>(a, lda, b, k, found);
      case 3:
        return multiply_<3, v>(a, lda, b, k, found);
      case 4:
        return multiply_<4, v>(a, lda, b, k, found);
      case 5:
        return multiply_<5, v>(a, lda, b, k, found);
      default:
        return multiply_<6, v>(a, lda, b, k, found);
    }
  }
  static void multiply(int m, int v, const S* a, int64_t lda, const S* b, int k, S* found) {
    if (v == P) return multiply_rows<P>(m, a, lda, b, k, found);
    if constexpr (P == 4) {
      if (v == 3) return multiply_rows<3>(m, a, lda, b, k, found);
      if (v == 2) return multiply_rows<2>(m, a, lda, b, k, found);
    }
    multiply_rows<1>(m, a, lda, b, k, found);
  }

  template <int v>
  static void outer_rows(int m, int n, const S* a, int64_t lda, const S* b, int64_t ldb, S* out, int64_t ldo) {
    switch (m) {
      case 1:
        return outer_<1, v>(n, a, lda, b, ldb, out, ldo);
      case 2:
        return outer_<2, v>(n, a, lda, b, ldb, out, ldo);
      case 3:
        return outer_<3, v>(n, a, lda, b, ldb, out, ldo);
      case 4:
        return outer_<4, v>(n, a, lda, b, ldb, out, ldo);
      case 5:
        return outer_<5, v>(n, a, lda, b, ldb, out, ldo);
      default:
        return outer_<6, v>(n, a, lda, b, ldb, out, ldo);
    }
  }
  static void outer(int m, int v, int n, const S* a, int64_t lda, const S* b, int64_t ldb, S* out, int64_t ldo) {
    if (v == P) return outer_rows<P>(m, n, a, lda, b, ldb, out, ldo);
    if constexpr (P == 4) {
      if (v == 3) return outer_rows<3>(m, n, a, lda, b, ldb, out, ldo);
      if (v == 2) return outer_rows<2>(m, n, a, lda, b, ldb, out, ldo);
    }
    outer_rows<1>(m, n, a, lda, b, ldb, out, ldo);
  }
};

// A pass, which has `tiles(block)` and is called with a block and a range, for vectors of type L.
template <class L, class Pass>
struct SimdPass {
  using S = typename Pass::Scalar;
  static int64_t room(const Pass& pass) {
    S* const start = reinterpret_cast<S*>(uintptr_t{64});  // of no memory: only the distance counts
    SimdBlock<L> block{start};
    pass.tiles(block);
    return block.next - start;
  }
  static void run(const Pass& pass, TileRange range, S* scratch) {
    SimdBlock<L> block{scratch};
    pass(block, range);
  }
  static constexpr TileKernel<Pass> kernel() { return {room, run}; }
};

}  // namespace
}  // namespace symkern
