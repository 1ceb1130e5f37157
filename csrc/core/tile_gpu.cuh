// The Block of core/tile.h on the device: 256 threads, four columns each at a time (core/quad.cuh), products on tensor
// cores. Tiles and weights are in shared memory as far as it goes, then in a piece of global memory of the block's own
// (which stays in L2), and packed weights where they are.
//
// Fragments. A tile's columns are given to the lanes of a tensor core so that each lane needs four neighboring numbers
// of a row, of the left side as of the result: with g = lane / 4 and t = lane % 4, rows g and g + 8 and columns
// 4 t .. 4 t + 3 of 16. The inner index of a product is renumbered in the same way, which changes no sum's terms. A row
// stride of 16 modulo 32 numbers puts the 16-byte accesses of 8 lanes (2 rows, 4 quads) on 32 different banks.
//
// Numbers. tf32x3: each float is the sum of two TF32 numbers, three of their four products are added up in fp32, the
// smallest (2^-22 of the result) is left out. tf32: one product. fma: doubles, and devices without TF32.
#pragma once

#include "core/quad.cuh"
#include "core/tile.h"

namespace symkern {

enum class TileMath { fma, tf32, tf32x3 };

// Planted by tests.
enum class TileBug { none, product_barrier, each_barrier, dot_barrier, run_barrier, column_barrier, column_reuse };

constexpr int kTileThreads = 256;

SYMKERN_HD constexpr int tile_stride(int width) { return (width + 15) / 16 * 16 | 16; }
SYMKERN_HD constexpr int padded_rows(int k) { return (k + 15) / 16 * 16; }

// Room for tiles: shared memory while it lasts. Launcher and kernel count with the same function.
template <class S>
struct TileRoom {
  S *shared, *scratch;
  int64_t left;  // numbers of shared memory

  SYMKERN_HD S* tile(int64_t size) {
    if (size > left) return scratch += size, scratch - size;
    return left -= size, shared += size, shared - size;
  }
  SYMKERN_HD bool fits(int64_t size) const { return size <= left; }
};

// Where element (k, n) of a weight of kk padded rows lies. For tensor cores: 16 x 16 pieces, one after the other down a
// column of pieces, each as its lanes read it, 4 of the inner index at a time.
template <bool tensor>
SYMKERN_HD int64_t packed_at(int k, int n, int kk, int width) {
  if constexpr (!tensor) return static_cast<int64_t>(k) * width + n;
  const int x = k % 16, y = n % 16, half = y / 2 % 2, g = y / 4 * 2 + y % 2;
  return (static_cast<int64_t>(n / 16) * (kk / 16) + k / 16) * 256 + half * 128 + (g * 4 + x / 4) * 4 + x % 4;
}

// rows_: 64, or 32 for passes with so many tiles that fewer rows are better than tiles in global memory. fit: how many
// blocks share the registers of a multiprocessor; two where a pass does with 128 per thread.
template <class S, TileMath math_, int rows_ = 64, int fit = 2, TileBug bug = TileBug::none>
struct GpuBlock {
  using Scalar = S;
  using Lanes = QuadLanes<S>;
  using V = Quad<S>;
  static constexpr TileMath math = math_;
  static constexpr int rows = rows_, threads = kTileThreads, warps = threads / 32;
  static constexpr int resident = sizeof(S) == 4 ? fit : 1;
  static constexpr int row_lanes = threads / rows;  // lanes per row of sums over columns
  static constexpr int strip = 128;                 // columns that add_columns sums at a time
  static constexpr int row_tiles = rows / 32;       // 16-row fragments of a warp's part of a product
  static_assert(rows == 32 || rows == 64);

  TileRoom<S> room;
  S* partial;           // (warps, strip), shared
  int* starts;          // (rows + 4), shared
  int64_t first, last;  // segments of this block: no other row of a sum over segments is touched

  static SYMKERN_HD constexpr bool good(int64_t i, int64_t size) {
    return static_cast<uint64_t>(i) < static_cast<uint64_t>(size);
  }
  static SYMKERN_HD constexpr int64_t index(int64_t i, int64_t size) { return good(i, size) ? i : 0; }
  static SYMKERN_HD constexpr int ld(int width) { return tile_stride(width); }
  SYMKERN_DEVICE S* tile(int width) { return room.tile(static_cast<int64_t>(rows) * ld(width)); }
  SYMKERN_DEVICE S* column() { return room.tile(rows); }

  SYMKERN_DEVICE TileWeight<S> weight(const TileWeight<S>& w) {
    const int64_t size = static_cast<int64_t>(padded_rows(w.k)) * w.n;
    if (w.data == nullptr || !room.fits(size)) return w;
    S* to = room.tile(size);
    constexpr int step = 16 / sizeof(S);
    for (int64_t i = thread() * step; i < size; i += threads * step) gpu::async_copy16(to + i, w.data + i);
    gpu::async_commit();
    gpu::async_wait<0>();
    __syncthreads();
    return {to, w.k, w.n};
  }

  template <class G>
  SYMKERN_DEVICE void each_by_row(int n, int width, G g) {
    each(n, width, [&](int r, int c) { g(r)(c); });
  }

  template <class F>
  SYMKERN_DEVICE void each(int n, int width, F f) {
    const int quads = width / 4, rows_on = threads / quads, quads_on = threads % quads;
    int r = thread() / quads, q = thread() % quads;
    SYMKERN_NO_UNROLL
    while (r < n) {
      f(r, 4 * q);
      r += rows_on, q += quads_on;
      if (q >= quads) q -= quads, ++r;
    }
    barrier<TileBug::each_barrier>();
  }

  template <class F>
  SYMKERN_DEVICE void each_row(int n, F f) {
    if (thread() < n) f(thread());
    __syncthreads();
  }

  template <int m, class F, class G>
  SYMKERN_DEVICE void dots(int n, int width, F f, G g) {
    const int r = thread() / row_lanes, lane = thread() % row_lanes;
    V sums[m];
    S found[m];
    SYMKERN_UNROLL
    for (int j = 0; j < m; ++j) sums[j] = Lanes::splat(0);
    if (r < n) {
      SYMKERN_NO_UNROLL
      for (int c = 4 * lane; c < width; c += 4 * row_lanes) f(r, c, sums);
    }
    SYMKERN_UNROLL
    for (int j = 0; j < m; ++j) {
      found[j] = Lanes::sum(sums[j]);
      SYMKERN_UNROLL
      for (int step = 1; step < row_lanes; step *= 2) found[j] += __shfl_xor_sync(gpu::full_mask, found[j], step);
    }
    __syncthreads();  // g may write where f reads
    if (r < n && lane == 0) g(r, found);
    barrier<TileBug::dot_barrier>();
  }

  template <class F, class G>
  SYMKERN_DEVICE void dot(int n, int width, F f, G g) {
    dots<1>(
        n, width, [&](int r, int c, V(&sums)[1]) { sums[0] += f(r, c); },
        [&](int r, const S(&found)[1]) { g(r, found[0]); });
  }

  // A warp takes half of the rows and 16 columns.
  template <class F>
  SYMKERN_DEVICE void product(int n, const S* a, int64_t lda, const TileWeight<S>& w, F f) {
    if constexpr (tensor()) {
      const int halves = n > rows / 2 ? 1 : 0, units = (w.n / 16) << halves, g = gpu::lane() / 4, t = gpu::lane() % 4;
      SYMKERN_NO_UNROLL
      for (int unit = gpu::warp(); unit < units; unit += warps) {
        const int r = (unit & halves) * (rows / 2) + g, strip_ = unit >> halves;
        float c[row_tiles][2][4] = {};
        multiply(c, n, r, a, lda, w, w.data + static_cast<int64_t>(strip_) * padded_rows(w.k) * 16);
        SYMKERN_UNROLL
        for (int i = 0; i < 2 * row_tiles; ++i) {
          const float (&even)[4] = c[i / 2][0], (&odd)[4] = c[i / 2][1];
          const int j = i % 2 * 2;
          if (r + 8 * i < n) f(r + 8 * i, strip_ * 16 + 4 * t, V{even[j], even[j + 1], odd[j], odd[j + 1]});
        }
      }
    } else {
      const int quads = w.n / 4, units = (n + 3) / 4 * quads;
      SYMKERN_NO_UNROLL
      for (int unit = thread(); unit < units; unit += threads) {
        const int r = unit / quads * 4, c = unit % quads * 4;
        V sums[4];
        multiply(sums, n, r, a, lda, w, c);
        SYMKERN_UNROLL
        for (int i = 0; i < 4; ++i) {
          if (r + i < n) f(r + i, c, sums[i]);
        }
      }
    }
    barrier<TileBug::product_barrier>();
  }

  SYMKERN_DEVICE void add_product(int n, const S* a, int64_t lda, int m, const S* b, int64_t ldb, int width, S* out) {
    if constexpr (tensor()) {
      const int across = (width + 31) / 32;
      if ((m + 31) / 32 * across < warps) {
        outer<1>(n, a, lda, m, b, ldb, width, out, across);
      } else {
        outer<2>(n, a, lda, m, b, ldb, width, out, across);
      }
    } else {
      outer(n, a, lda, m, b, ldb, width, out);
    }
    __syncthreads();
  }

  // Each warp its share of the rows, then the warps in order.
  template <class F>
  SYMKERN_DEVICE void add_columns(int n, int width, F f, S* out) {
    for (int first = 0; first < width; first += strip) {
      const int c = first + 4 * gpu::lane();
      V sum = Lanes::splat(0);
      if (c < width) {
        SYMKERN_NO_UNROLL
        for (int r = gpu::warp(); r < n; r += warps) sum += f(r, c);
      }
      Lanes::store(partial + gpu::warp() * strip + 4 * gpu::lane(), sum);
      barrier<TileBug::column_barrier>();
      const int mine = first + thread();
      if (thread() < strip && mine < width) {
        S total = 0;
        SYMKERN_UNROLL
        for (int k = 0; k < warps; ++k) total += partial[k * strip + thread()];
        out[mine] += total;
      }
      barrier<TileBug::column_reuse>();
    }
  }

  // A warp takes a run of rows of equal index and 32 columns; every fourth row one quarter of it.
  template <int m, class I, class F>
  SYMKERN_DEVICE void add_parts(int n, int width, I index, F f, S* out) {
    const int runs = find_runs(n, index), groups = (width + 31) / 32, part = gpu::lane() / 8;
    SYMKERN_NO_UNROLL
    for (int unit = gpu::warp(); unit < runs * groups; unit += warps) {
      const int run = unit / groups, c = (unit - run * groups) * 32 + gpu::lane() % 8 * 4;
      const int begin = starts[run], end = starts[run + 1];
      const int64_t at = index(begin);
      V sums[m];
      SYMKERN_UNROLL
      for (int j = 0; j < m; ++j) sums[j] = Lanes::splat(0);
      if (c < width) {
        for (int r = begin + part; r < end; r += 4) f(r, c, sums);
      }
      SYMKERN_UNROLL
      for (int j = 0; j < m; ++j) {
        add_lanes(sums[j], 8), add_lanes(sums[j], 16);
        if (part == j % 4 && c < width && at >= first && at < last) {
          S* p = out + (at * m + j) * width + c;
          Lanes::store(p, Lanes::load(p) + sums[j]);
        }
      }
    }
    __syncthreads();
  }

  template <class I, class F>
  SYMKERN_DEVICE void add_to(int n, int width, I index, F f, S* out) {
    add_parts<1>(n, width, index, [&](int r, int c, V(&sums)[1]) { sums[0] += f(r, c); }, out);
  }

  // One thread's share of packing a weight.
  static SYMKERN_DEVICE void pack(int64_t i, const S* from, int64_t row_stride, int64_t column_stride, int k, int n,
                                  int columns, S* to) {
    const int r = static_cast<int>(i / n), c = static_cast<int>(i % n);
    to[packed_at<tensor()>(r, c, padded_rows(k), n)] =
        r < k && c < columns ? from[r * row_stride + c * column_stride] : S(0);
  }

 private:
  static SYMKERN_DEVICE constexpr bool tensor() { return math != TileMath::fma && gpu::has_tf32(); }
  static SYMKERN_DEVICE int thread() { return static_cast<int>(threadIdx.x); }

  template <TileBug left_out>
  static SYMKERN_DEVICE void barrier() {
    if constexpr (bug != left_out) __syncthreads();
  }

  static SYMKERN_DEVICE void add_lanes(V& v, int step) {
    v.x += __shfl_xor_sync(gpu::full_mask, v.x, step);
    v.y += __shfl_xor_sync(gpu::full_mask, v.y, step);
    v.z += __shfl_xor_sync(gpu::full_mask, v.z, step);
    v.w += __shfl_xor_sync(gpu::full_mask, v.w, step);
  }

  // Rows where another index begins, in order, and n after the last: how many there are. Indices grow from run to run,
  // or two of them would be the same sum: a row whose index does not fit in is part of the run before it.
  template <class I>
  SYMKERN_DEVICE int find_runs(int n, I index) {
    const int r = thread();
    bool begins = false;
    if (r < rows) {
      const auto mine = [&](int row) {  // -1: of another block, or beyond the last
        const int64_t i = row < n ? index(row) : -1;
        return i >= first && i < last ? i : int64_t{-1};
      };
      const auto larger = [](int64_t a, int64_t b) { return a > b ? a : b; };
      const int64_t own = mine(r);
      int64_t before = -1;  // the largest index of a row before r
      if (gpu::warp() == 1) {
        before = mine(r - 32);
        SYMKERN_UNROLL
        for (int step = 1; step < 32; step *= 2) {
          before = larger(before, __shfl_xor_sync(gpu::full_mask, before, step));
        }
      }
      const int64_t left = __shfl_up_sync(gpu::full_mask, own, 1);
      if (gpu::lane() > 0) before = larger(before, left);
      SYMKERN_UNROLL
      for (int step = 1; step < 32; step *= 2) {
        const int64_t further = __shfl_up_sync(gpu::full_mask, before, static_cast<unsigned>(step));
        if (gpu::lane() >= step) before = larger(before, further);
      }
      begins = r < n && (r == 0 || own > before);
      const unsigned found = __ballot_sync(gpu::full_mask, begins);
      if (gpu::lane() == 0) run_masks()[gpu::warp()] = found;
    }
    barrier<TileBug::run_barrier>();
    const unsigned low = run_masks()[0], high = rows > 32 ? run_masks()[1] : 0;
    const int runs = __popc(low) + __popc(high);
    if (begins) {
      const unsigned below = (1u << gpu::lane()) - 1u;
      starts[r < 32 ? __popc(low & below) : __popc(low) + __popc(high & below)] = r;
    }
    if (r == 0) starts[runs] = n;
    __syncthreads();
    return runs;
  }
  SYMKERN_DEVICE unsigned* run_masks() { return reinterpret_cast<unsigned*>(starts) + rows + 2; }

  // Four numbers of a row, zero beyond its end.
  static SYMKERN_DEVICE V load_some(const S* row, int64_t stride, int c, int width) {
    if (c + 4 <= width && stride % 4 == 0) return Lanes::load(row + c);
    return load_first_of_four(row + c, width - c);
  }

  // ---- tensor cores

  // Two steps over 8 of the inner index: numbers x, y and z, w of the lanes' quads.
  template <int M, int N>
  static SYMKERN_DEVICE void multiply_quads(float (&c)[M][N][4], const V (&a)[2 * M], const V (&b)[N]) {
    SYMKERN_UNROLL
    for (int step = 0; step < 2; ++step) {
      float left[M][4], right[N][2], left_rest[M][4], right_rest[N][2];
      SYMKERN_UNROLL
      for (int i = 0; i < M; ++i) {
        const V top = a[2 * i], bottom = a[2 * i + 1];
        const float given[4] = {step ? top.z : top.x, step ? bottom.z : bottom.x, step ? top.w : top.y,
                                step ? bottom.w : bottom.y};
        split(given, left[i], left_rest[i]);
      }
      SYMKERN_UNROLL
      for (int j = 0; j < N; ++j) {
        const float given[2] = {step ? b[j].z : b[j].x, step ? b[j].w : b[j].y};
        split(given, right[j], right_rest[j]);
      }
      multiply_fragments(c, left, left_rest, right, right_rest);
    }
  }

  template <int M, int N>
  static SYMKERN_DEVICE void multiply_fragments(float (&c)[M][N][4], const float (&left)[M][4],
                                                const float (&left_rest)[M][4], const float (&right)[N][2],
                                                const float (&right_rest)[N][2]) {
    SYMKERN_UNROLL
    for (int i = 0; i < M; ++i) {
      SYMKERN_UNROLL
      for (int j = 0; j < N; ++j) {
        if constexpr (math == TileMath::tf32x3) {
          gpu::mma_m16n8k8_tf32(c[i][j], left_rest[i], right[j]);
          gpu::mma_m16n8k8_tf32(c[i][j], left[i], right_rest[j]);
        }
        gpu::mma_m16n8k8_tf32(c[i][j], left[i], right[j]);
      }
    }
  }

  template <int count>
  static SYMKERN_DEVICE void split(const float (&x)[count], float (&high)[count], float (&rest)[count]) {
    SYMKERN_UNROLL
    for (int i = 0; i < count; ++i) {
      high[i] = gpu::to_tf32(x[i]);
      if constexpr (math == TileMath::tf32x3) rest[i] = gpu::to_tf32(x[i] - high[i]);
    }
  }

  // Rows r, r + 8 ... of half of the tile times the 16 columns whose pieces begin at `piece`.
  static SYMKERN_DEVICE void multiply(float (&c)[row_tiles][2][4], int n, int r, const S* a, int64_t lda,
                                      const TileWeight<S>& w, const S* piece) {
    const int t = gpu::lane() % 4;
    piece += gpu::lane() * 4;
    SYMKERN_NO_UNROLL
    for (int k = 4 * t; k < w.k + 4 * t; k += 16, piece += 256) {
      V left[2 * row_tiles], right[2] = {Lanes::load(piece), Lanes::load(piece + 128)};
      SYMKERN_UNROLL
      for (int i = 0; i < 2 * row_tiles; ++i) {
        left[i] = r + 8 * i < n ? load_some(a + (r + 8 * i) * lda, lda, k, w.k) : Lanes::splat(0);
      }
      multiply_quads(c, left, right);
    }
  }

  // A warp takes 16 M rows and 32 columns of out. Lane (g, t) reads 2 M columns of a and 4 of b, of rows t and t + 4.
  template <int M>
  SYMKERN_DEVICE void outer(int n, const S* a, int64_t lda, int m, const S* b, int64_t ldb, int width, S* out,
                            int across) {
    const int g = gpu::lane() / 4, t = gpu::lane() % 4, units = (m + 16 * M - 1) / (16 * M) * across;
    SYMKERN_NO_UNROLL
    for (int unit = gpu::warp(); unit < units; unit += warps) {
      const int down = unit / across, i0 = down * 16 * M + 2 * M * g, c0 = (unit - down * across) * 32;
      float c[M][4][4] = {};
      SYMKERN_NO_UNROLL
      for (int r = t; r < n + t; r += 8) {
        float given_left[M][4], given_right[4][2];
        const V zero = Lanes::splat(0);
        const V b0 = r < n ? load_some(b + r * ldb, ldb, c0 + 4 * g, width) : zero;
        const V b1 = r + 4 < n ? load_some(b + (r + 4) * ldb, ldb, c0 + 4 * g, width) : zero;
        given_right[0][0] = b0.x, given_right[1][0] = b0.y, given_right[2][0] = b0.z, given_right[3][0] = b0.w;
        given_right[0][1] = b1.x, given_right[1][1] = b1.y, given_right[2][1] = b1.z, given_right[3][1] = b1.w;
        SYMKERN_UNROLL
        for (int i = 0; i < M; ++i) {
          SYMKERN_UNROLL
          for (int j = 0; j < 4; ++j) {  // rows g and g + 8 of the fragment, then the same for rows t + 4 of a
            const int row = r + j / 2 * 4, column = i0 + 2 * i + j % 2;
            given_left[i][j] = row < n && column < m ? a[row * lda + column] : 0.0f;
          }
        }
        float left[M][4], left_rest[M][4], right[4][2], right_rest[4][2];
        SYMKERN_UNROLL
        for (int i = 0; i < M; ++i) split(given_left[i], left[i], left_rest[i]);
        SYMKERN_UNROLL
        for (int j = 0; j < 4; ++j) split(given_right[j], right[j], right_rest[j]);
        multiply_fragments(c, left, left_rest, right, right_rest);
      }
      // column 4 x + j of the strip is column x of fragment j: a lane has x = 2 t and 2 t + 1
      SYMKERN_UNROLL
      for (int i = 0; i < 2 * M; ++i) {
        const int row = i0 + i, j = i % 2 * 2;
        if (row >= m) continue;
        SYMKERN_UNROLL
        for (int x = 0; x < 2; ++x) {
          const float (&f)[M][4][4] = c;
          add_some(out + static_cast<int64_t>(row) * width, width, c0 + 8 * t + 4 * x,
                   {f[i / 2][0][j + x], f[i / 2][1][j + x], f[i / 2][2][j + x], f[i / 2][3][j + x]});
        }
      }
    }
  }

  static SYMKERN_DEVICE void add_some(S* row, int width, int c, V v) {
    if (c + 4 <= width && width % 4 == 0) {
      Lanes::store(row + c, Lanes::load(row + c) + v);
    } else {
      store_first_of_four(row + c, load_first_of_four(row + c, width - c) + v, width - c);
    }
  }

  // ---- fused multiply-adds

  static SYMKERN_DEVICE void multiply(V (&sums)[4], int n, int r, const S* a, int64_t lda, const TileWeight<S>& w,
                                      int c) {
    const S* row[4];
    SYMKERN_UNROLL
    for (int i = 0; i < 4; ++i) sums[i] = Lanes::splat(0), row[i] = a + (r + i < n ? r + i : n - 1) * lda;
    const S* right = w.data + c;
    SYMKERN_NO_UNROLL
    for (int k = 0; k < w.k; ++k, right += w.n) {
      const V b = Lanes::load(right);
      SYMKERN_UNROLL
      for (int i = 0; i < 4; ++i) sums[i] = multiply_add(Lanes::splat(row[i][k]), b, sums[i]);
    }
  }

  SYMKERN_DEVICE void outer(int n, const S* a, int64_t lda, int m, const S* b, int64_t ldb, int width, S* out) {
    const int quads = (width + 3) / 4, units = (m + 3) / 4 * quads;
    SYMKERN_NO_UNROLL
    for (int unit = thread(); unit < units; unit += threads) {
      const int i0 = unit / quads * 4, c = unit % quads * 4;
      V sums[4];
      SYMKERN_UNROLL
      for (int i = 0; i < 4; ++i) sums[i] = Lanes::splat(0);
      SYMKERN_NO_UNROLL
      for (int r = 0; r < n; ++r) {
        const V left = load_some(a + r * lda, lda, i0, m), right = load_some(b + r * ldb, ldb, c, width);
        sums[0] = multiply_add(Lanes::splat(left.x), right, sums[0]);
        sums[1] = multiply_add(Lanes::splat(left.y), right, sums[1]);
        sums[2] = multiply_add(Lanes::splat(left.z), right, sums[2]);
        sums[3] = multiply_add(Lanes::splat(left.w), right, sums[3]);
      }
      SYMKERN_UNROLL
      for (int i = 0; i < 4; ++i) {
        if (i0 + i < m) add_some(out + static_cast<int64_t>(i0 + i) * width, width, c, sums[i]);
      }
    }
  }
};

}  // namespace symkern
