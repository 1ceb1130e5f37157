// The CUDA schedules of radial bases against the scalar formula in plain loops.
#include "ops/radial_basis_cuda.cuh"

#include <cmath>
#include <random>

#include "testing/check.h"

using namespace symkern;
using symkern::testing::Buffer;
using symkern::testing::for_orders;
using symkern::testing::sizes_around;

namespace {

constexpr double kCutoff = 5;
constexpr BasisKind kKinds[] = {BasisKind::gaussian, BasisKind::bessel, BasisKind::expnorm};

template <class S>
struct Sample {
  BasisKind kind;
  int64_t rows, count;
  RadialShape<S> shape;
  std::vector<S> d, p, q, grad, along_d, along_p, along_q;

  Sample(BasisKind basis, EnvelopeKind envelope, int64_t rows_, int64_t count_)
      : kind(basis), rows(rows_), count(count_), shape(kCutoff, envelope, 6) {
    std::mt19937 random(static_cast<unsigned>(rows * 1000 + count));
    const auto fill = [&](int64_t size, double low, double high) {
      std::vector<S> values(static_cast<size_t>(size));
      for (S& x : values) x = static_cast<S>(std::uniform_real_distribution<>(low, high)(random));
      return values;
    };
    d = fill(rows, 0, 1.1 * kCutoff), p = fill(count, 0.1, 4), q = fill(kind == BasisKind::bessel ? 0 : count, 0.3, 3);
    grad = fill(rows * count, -1, 1), along_d = fill(rows, -1, 1);
    along_p = fill(count, -1, 1), along_q = fill(count, -1, 1);
    if (rows > 2) d[0] = 0, d[1] = static_cast<S>(kCutoff);
  }

  BasisJet<S> jet(int64_t r, int64_t k) const {
    const RadialRow<S> row = radial_row(shape, kind, d[r]);
    const S width = q.empty() ? S(0) : q[k];
    if (kind == BasisKind::gaussian) return radial<BasisKind::gaussian>(shape, row, p[k], width);
    if (kind == BasisKind::bessel) return radial<BasisKind::bessel>(shape, row, p[k], width);
    return radial<BasisKind::expnorm>(shape, row, p[k], width);
  }
};

template <class S>
void check_close(const std::vector<S>& got, const std::vector<double>& expected, double terms) {
  CHECK_EQUAL(got.size(), expected.size());
  double largest = 0;
  for (double x : expected) largest = std::max(largest, std::fabs(x));
  const double allowed = 4 * terms * std::numeric_limits<S>::epsilon() * std::max(largest, 1.0);
  for (size_t i = 0; i < got.size(); ++i) CHECK(std::fabs(got[i] - expected[i]) <= allowed);
}

template <class S>
void check_forward(const Sample<S>& s) {
  const Buffer<S> d(s.d), p(s.p), q(s.q);
  Buffer<S> out(s.rows * s.count);
  const RadialInput<S> in{d.data(), p.data(), s.q.empty() ? nullptr : q.data(), s.rows, s.count, s.shape};
  radial_cuda::launch_forward(s.kind, in, out.data(), nullptr);
  const std::vector<S> got = out.to_host();
  for (int64_t r = 0; r < s.rows; ++r) {
    for (int64_t k = 0; k < s.count; ++k) {
      CHECK(std::fabs(got[r * s.count + k] - s.jet(r, k).f) <= 8 * std::numeric_limits<S>::epsilon() * 20);
    }
  }
}

struct Needs {
  int order;
  bool value, d, p, q, along_d, along_p, along_q;
  bool params() const { return p || q || along_p || along_q; }
};

template <int BUG = radial_cuda::kNone, class S>
void check_derivative(const Sample<S>& s, const Needs& need) {
  const bool second = need.order == 2;
  const Buffer<S> d(s.d), p(s.p), q(s.q), grad(s.grad), hd(s.along_d), hp(s.along_p), hq(s.along_q);
  const int64_t tiles = radial_tiles(s.rows);
  Buffer<S> value(need.value ? s.rows * s.count : 0), out_d(need.d ? s.rows : 0);
  Buffer<double> sums_p(need.p ? tiles * s.count : 0), sums_q(need.q ? tiles * s.count : 0);
  const RadialInput<S> in{d.data(), p.data(), s.q.empty() ? nullptr : q.data(), s.rows, s.count, s.shape};
  const RadialDerivative<S> io{grad.data(),
                               need.along_d ? hd.data() : nullptr,
                               need.along_p ? hp.data() : nullptr,
                               need.along_q ? hq.data() : nullptr,
                               need.value ? value.data() : nullptr,
                               need.d ? out_d.data() : nullptr,
                               need.p ? sums_p.data() : nullptr,
                               need.q ? sums_q.data() : nullptr};
  radial_cuda::launch_derivative<BUG>(s.kind, need.order, need.params(), in, io, nullptr);

  std::vector<double> expect_value, expect_d(need.d ? s.rows : 0), expect_p(sums_p.size()), expect_q(sums_q.size());
  for (int64_t r = 0; r < s.rows; ++r) {
    for (int64_t k = 0; k < s.count; ++k) {
      const BasisJet<S> b = s.jet(r, k);
      const double g = s.grad[r * s.count + k], x = need.along_d ? s.along_d[r] : 0,
                   y = need.along_p ? s.along_p[k] : 0, z = need.along_q ? s.along_q[k] : 0;
      const int64_t sum = r / kRadialTile * s.count + k;
      if (need.value) expect_value.push_back(b.d * x + b.p * y + b.q * z);
      if (need.d) expect_d[r] += g * (second ? b.dd * x + b.dp * y + b.dq * z : b.d);
      if (need.p) expect_p[sum] += g * (second ? b.dp * x + b.pp * y + b.pq * z : b.p);
      if (need.q) expect_q[sum] += g * (second ? b.dq * x + b.pq * y + b.qq * z : b.q);
    }
  }
  check_close(value.to_host(), expect_value, 4);
  check_close(out_d.to_host(), expect_d, 4 + std::sqrt(s.count));
  // sums of tiles are double, what they add up is not
  std::vector<S> rounded;
  for (double x : sums_p.to_host()) rounded.push_back(static_cast<S>(x));
  check_close(rounded, expect_p, 16);
  rounded.clear();
  for (double x : sums_q.to_host()) rounded.push_back(static_cast<S>(x));
  check_close(rounded, expect_q, 16);
}

template <class S>
void check_all(BasisKind kind, EnvelopeKind envelope, int64_t rows, int64_t count) {
  const Sample<S> sample(kind, envelope, rows, count);
  check_forward(sample);
  const bool widths = kind != BasisKind::bessel;
  check_derivative(sample, {1, false, true, false, false, false, false, false});
  check_derivative(sample, {1, false, true, true, widths, false, false, false});
  check_derivative(sample, {2, true, true, false, false, true, false, false});
  check_derivative(sample, {2, true, true, true, widths, true, true, widths});
  check_derivative(sample, {2, true, false, true, false, false, true, false});
}

void test_columns() {
  for (const int count : {1, 31, 32, 33, 50, 64}) {
    for (const BasisKind kind : kKinds) check_all<float>(kind, EnvelopeKind::cosine, 37, count);
  }
}

void test_rows() {
  for (const int rows : sizes_around({32, static_cast<int>(kRadialTile)})) {
    check_all<float>(BasisKind::gaussian, EnvelopeKind::polynomial, rows, 33);
  }
  check_all<float>(BasisKind::expnorm, EnvelopeKind::none, 2 * kRadialTile + 5, 3);
}

void test_double() {
  for (const BasisKind kind : kKinds) check_all<double>(kind, EnvelopeKind::polynomial, kRadialTile + 3, 5);
}

void test_orders() {
  const Sample<float> sample(BasisKind::gaussian, EnvelopeKind::cosine, kRadialTile + 33, 33);
  for_orders([&] {
    check_forward(sample);
    check_derivative(sample, {1, false, true, true, true, false, false, false});
  });
}

void test_bad_distances() {
  for (const EnvelopeKind envelope : {EnvelopeKind::cosine, EnvelopeKind::polynomial, EnvelopeKind::none}) {
    for (const BasisKind kind : kKinds) {
      Sample<float> sample(kind, envelope, 5, 3);
      sample.d = {1, -1, NAN, INFINITY, 2};
      const Buffer<float> d(sample.d), p(sample.p), q(sample.q);
      Buffer<float> out(15);
      const RadialInput<float> in{d.data(), p.data(), sample.q.empty() ? nullptr : q.data(), 5, 3, sample.shape};
      radial_cuda::launch_forward(kind, in, out.data(), nullptr);
      const std::vector<float> got = out.to_host();
      for (int i = 0; i < 15; ++i) CHECK_EQUAL(std::isnan(got[i]), i / 3 >= 1 && i / 3 <= 3);
    }
  }
}

// A missing barrier is found; only the race checker sees each of them.
void test_planted() {
#ifndef __CUDACC__
  if (std::string(testing::mode) != "race") return;
  const Sample<float> sample(BasisKind::gaussian, EnvelopeKind::cosine, kRadialTile, 33);
  const Needs all{1, false, true, true, true, false, false, false};
  CHECK(testing::in_child([&] { check_derivative<radial_cuda::kNoBarrierAfterRows>(sample, all); }).caught);
  CHECK(testing::in_child([&] { check_derivative<radial_cuda::kNoBarrierBeforeSums>(sample, all); }).caught);
  CHECK(testing::in_child([&] { check_derivative<radial_cuda::kNoBarrierAfterSums>(sample, all); }).caught);
  CHECK(!testing::in_child([&] { check_derivative(sample, all); }).caught);
#endif
}

}  // namespace

int main() {
  return symkern::testing::run_tests({{"columns", test_columns},
                                      {"rows", test_rows},
                                      {"double", test_double},
                                      {"orders", test_orders},
                                      {"bad distances", test_bad_distances},
                                      {"planted", test_planted}});
}
