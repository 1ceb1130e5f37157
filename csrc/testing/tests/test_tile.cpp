// The device Block of core/tile.h: each of its functions against plain loops in double.
#include "core/tile_call.cuh"

#include <cmath>
#include <random>

#include "testing/check.h"

using namespace symkern;
using symkern::testing::Buffer;
using symkern::testing::for_orders;

namespace {

template <class S>
using Exact = GpuBlock<S, TileMath::fma>;
using Three = GpuBlock<float, TileMath::tf32x3>;
using One = GpuBlock<float, TileMath::tf32>;
template <class S, TileMath math>
using Short = GpuBlock<S, math, 32>;

std::vector<double> random_numbers(int64_t count, unsigned seed) {
  std::mt19937 random(seed);
  std::vector<double> values(static_cast<size_t>(count));
  for (double& x : values) x = std::uniform_real_distribution<>(-1, 1)(random);
  return values;
}

template <class S>
std::vector<S> rounded(const std::vector<double>& values) {
  return std::vector<S>(values.begin(), values.end());
}

// Everything a Block does, on its own: which of it, `what`, is chosen by the test.
enum What { kEach, kDot, kProduct, kAddProduct, kColumns, kAddTo };

template <class S>
struct OneCall {
  What what;
  int width, inner;
  const S *a, *b;  // (rows, inner), (rows, width)
  TileWeight<S> w;
  const int64_t* index;
  S* out;

  template <class B>
  SYMKERN_FORMULA void operator()(B& block, TileRange range) const {
    using L = typename B::Lanes;
    using V = typename L::Vector;
    const int ld = B::ld(width), ldi = B::ld(inner);
    S *left = block.tile(inner), *right = block.tile(width), *number = block.column();
    const auto weight = block.weight(w);
    for (int64_t begin = range.begin; begin < range.end; begin += B::rows) {
      const int n = static_cast<int>(range.end - begin < B::rows ? range.end - begin : B::rows);
      block.each_row(n, [&](int r) {
        for (int k = 0; k < inner; ++k) left[r * ldi + k] = a[(begin + r) * inner + k];
        number[r] = S(r + 1);
      });
      block.each(n, width, [&](int r, int c) {
        const V x = L::load(b + (begin + r) * width + c);
        L::store(right + r * ld + c, what == kEach ? x * L::splat(number[r]) : x);
      });
      const auto row = [&](int r, int c) { return L::load(right + r * ld + c); };
      if (what == kEach) {
        block.each(n, width, [&](int r, int c) { L::store(out + (begin + r) * width + c, row(r, c)); });
      } else if (what == kDot) {
        block.dot(n, width, row, [&](int r, S sum) { right[r * ld] = sum; });
        block.each_row(n, [&](int r) { out[begin + r] = right[r * ld]; });
      } else if (what == kProduct) {
        block.product(n, left, ldi, weight, [&](int r, int c, V x) { L::store(right + r * ld + c, x); });
        block.each(n, width, [&](int r, int c) { L::store(out + (begin + r) * width + c, row(r, c)); });
      } else if (what == kAddProduct) {
        block.add_product(n, left, ldi, inner, right, ld, width, out);
      } else if (what == kColumns) {
        block.add_columns(n, width, row, out);
      } else {
        block.add_to(n, width, [&](int r) { return index[begin + r]; }, row, out);
      }
    }
  }
};

struct Sizes {
  int64_t rows;
  int width, inner;
};

// Equal for all blocks of a launch: one block, and the rows as its one segment.
template <class B>
std::vector<typename B::Scalar> run(What what, const Sizes& size, const std::vector<double>& a,
                                    const std::vector<double>& b, const std::vector<double>& w,
                                    const std::vector<int64_t>& index, int64_t out_size) {
  using S = typename B::Scalar;
  const Buffer<S> left(rounded<S>(a)), right(rounded<S>(b)), given(rounded<S>(w)), zero(std::vector<S>(out_size, S(0)));
  std::vector<int64_t> segments(size.rows + 2, size.rows);  // as many as an index may name, the first has all rows
  segments[0] = 0;
  const Buffer<int64_t> at(index), ptr(segments);
  Buffer<S> packed(packed_size(size.inner, size.width));
  TilePrepare<S> prepare{};
  prepare.packs[prepare.pack_count++] = {given.data(), size.width, 1,     size.inner,
                                         size.width,   size.width, false, packed.data()};
  gpu::launch(prepare_tiles<B, S>, 2, 256, 0, nullptr, prepare);
  const OneCall<S> pass{what,        size.width,   size.inner,
                        left.data(), right.data(), {packed.data(), size.inner, size.width},
                        at.data(),   zero.data()};
  const TilePlan plan = plan_tiles<B>(pass, size.rows, 1);
  Buffer<S> scratch(plan.scratch());
  launch_tiles<B>(pass, {ptr.data(), size.rows + 1, size.rows}, plan, scratch.data(), 0, nullptr);
  return zero.to_host();
}

template <class B>
void check(What what, const Sizes& size) {
  const auto [rows, width, inner] = size;
  const auto a = random_numbers(rows * inner, 1), b = random_numbers(rows * width, 2),
             w = random_numbers(inner * width, 3);
  std::vector<int64_t> index;
  for (int64_t r = 0; r < rows; ++r) index.push_back(r % 7 == 0 ? r / 2 : r == 0 ? 0 : index.back());
  std::vector<double> expected(what == kDot          ? rows
                               : what == kAddProduct ? inner * width
                               : what == kColumns    ? width
                                                     : rows * width);
  for (int64_t r = 0; r < rows; ++r) {
    for (int c = 0; c < width; ++c) {
      const double x = b[r * width + c];
      if (what == kEach) expected[r * width + c] = x * (r % B::rows + 1);
      if (what == kDot) expected[r] += x;
      if (what == kColumns) expected[c] += x;
      if (what == kAddTo) expected[index[r] * width + c] += x;
      for (int k = 0; k < inner; ++k) {
        if (what == kProduct) expected[r * width + c] += a[r * inner + k] * w[k * width + c];
        if (what == kAddProduct) expected[k * width + c] += a[r * inner + k] * x;
      }
    }
  }
  const auto found = run<B>(what, size, a, b, w, index, static_cast<int64_t>(expected.size()));
  using S = typename B::Scalar;
  const double terms = what == kEach      ? 64
                       : what == kProduct ? std::sqrt(inner) + 2
                                          : std::sqrt(rows) + std::sqrt(width) + 2;
  const double unit = B::math == TileMath::tf32 ? 1e-3 : 4 * std::numeric_limits<S>::epsilon();
  for (size_t i = 0; i < expected.size(); ++i) CHECK(std::fabs(found[i] - expected[i]) <= terms * unit);
}

template <class B>
void check_all() {
  for (const What what : {kEach, kDot, kProduct, kAddProduct, kColumns, kAddTo}) {
    for (const int64_t rows : {0, 1, 31, 32, 33, 63, 64, 65, 129}) check<B>(what, {rows, 16, 5});
    for (const int width : {32, 48}) check<B>(what, {34, width, 17});
  }
  check<B>(kColumns, {9, 144, 1});  // more than one strip
  for (const int inner : {1, 15, 16, 32, 33}) {
    check<B>(kProduct, {17, 16, inner});
    check<B>(kAddProduct, {17, 32, inner});
  }
}

void test_fma_double() { for_orders(check_all<Exact<double>>, 1); }
void test_fma_float() { check_all<Exact<float>>(); }
void test_tf32x3() { for_orders(check_all<Three>, 1); }
void test_tf32() { check_all<One>(); }
void test_short_tiles() {
  check_all<Short<float, TileMath::tf32x3>>();
  check_all<Short<double, TileMath::fma>>();
}

// Tiles and weights in shared memory, in part, and not at all.
void test_small_shared() {
#ifndef __CUDACC__
  for (const std::size_t limit : {9, 12, 20, 40, 64}) {
    simt::Config config = simt::config();
    config.shared_limit = limit * 1024 + 512;
    simt::with(config, [] {
      check<Three>(kProduct, {70, 48, 20});
      check<Exact<double>>(kProduct, {70, 48, 20});
    });
  }
#endif
}

// A missing barrier is found; only the race checker sees each of them.
template <TileBug bug>
bool caught(What what, const Sizes& size) {
  using B = GpuBlock<float, TileMath::tf32x3, 64, 2, bug>;
  return testing::in_child([&] { check<B>(what, size); }).caught;
}

void test_planted() {
#ifndef __CUDACC__
  if (std::string(testing::mode) != "race") return;
  CHECK(caught<TileBug::product_barrier>(kProduct, {20, 16, 8}));
  CHECK(caught<TileBug::each_barrier>(kColumns, {20, 16, 8}));
  CHECK(caught<TileBug::dot_barrier>(kDot, {20, 16, 8}));
  CHECK(caught<TileBug::run_barrier>(kAddTo, {40, 16, 8}));
  CHECK(caught<TileBug::column_barrier>(kColumns, {20, 16, 8}));
  CHECK(caught<TileBug::column_reuse>(kColumns, {20, 144, 8}));
  for (const What what : {kProduct, kDot, kAddTo, kColumns}) CHECK(!caught<TileBug::none>(what, {20, 144, 8}));
#endif
}

// Three products of TF32 halves are as good as fp32.
void test_accuracy() {
  const Sizes size{64, 16, 64};
  const auto a = random_numbers(64 * 64, 4), w = random_numbers(64 * 16, 5);
  const std::vector<double> none(64 * 16, 0);
  const std::vector<int64_t> index(64, 0);
  const auto error = [&](const std::vector<float>& found) {
    double square = 0;
    for (int r = 0; r < 64; ++r) {
      for (int c = 0; c < 16; ++c) {
        double sum = 0;
        for (int k = 0; k < 64; ++k) sum += double(float(a[r * 64 + k])) * double(float(w[k * 16 + c]));
        square += (found[r * 16 + c] - sum) * (found[r * 16 + c] - sum);
      }
    }
    return std::sqrt(square / (64 * 16));
  };
  const double exact = error(run<Exact<float>>(kProduct, size, a, none, w, index, 64 * 16));
  const double three = error(run<Three>(kProduct, size, a, none, w, index, 64 * 16));
  const double one = error(run<One>(kProduct, size, a, none, w, index, 64 * 16));
  CHECK(three < 2 * exact);
  CHECK(one > 100 * exact && one < 1e-2);
}

// Segments to blocks: all rows once, in order, none cut.
void test_ranges() {
  for (const int64_t blocks : {1, 2, 3, 7, 64}) {
    for (const std::vector<int64_t>& ptr : {std::vector<int64_t>{0},
                                            {0, 0},
                                            {0, 5},
                                            {0, 0, 3, 3, 3, 9, 9, 100, 101, 101},
                                            {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10}}) {
      const TileSegments s{ptr.data(), static_cast<int64_t>(ptr.size()) - 1, ptr.back()};
      int64_t next = 0;
      for (int64_t b = 0; b < blocks; ++b) {
        CHECK_EQUAL(s.first(b, blocks), next);
        next = s.first(b + 1, blocks);
        CHECK(s.range(s.first(b, blocks), next).end == ptr[next]);
      }
      CHECK_EQUAL(next, s.segments);
      CHECK_EQUAL(s.first(0, blocks), 0);
    }
  }
  const std::vector<int64_t> wrong{-3, 900, -2, 7};
  const TileSegments s{wrong.data(), 3, 5};
  for (int64_t b = 0; b < 4; ++b) {
    const TileRange range = s.range(s.first(b, 4), s.first(b + 1, 4));
    CHECK(range.begin >= 0 && range.end <= 5 && range.begin <= range.end);
  }
}

}  // namespace

int main() {
  return symkern::testing::run_tests({{"fma in double", test_fma_double},
                                      {"fma in float", test_fma_float},
                                      {"three tf32 products", test_tf32x3},
                                      {"one tf32 product", test_tf32},
                                      {"tiles of 32 rows", test_short_tiles},
                                      {"little shared memory", test_small_shared},
                                      {"accuracy", test_accuracy},
                                      {"planted", test_planted},
                                      {"ranges of blocks", test_ranges}});
}
