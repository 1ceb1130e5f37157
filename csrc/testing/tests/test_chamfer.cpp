// The CUDA schedules of the nearest-point search against the definition in plain loops: the same integers.
#include "ops/chamfer_cuda.cuh"

#include <cmath>
#include <deque>
#include <numeric>
#include <random>

#include "testing/check.h"

using namespace symkern;
using namespace symkern::nearest_cuda;
using symkern::testing::Buffer;
using symkern::testing::for_orders;
using symkern::testing::sizes_around;

namespace {

constexpr Schedule kSchedules[] = {Schedule::batch, Schedule::brute, Schedule::tree};

template <class T>
struct Clouds {
  std::vector<T> x, y;
  std::vector<int64_t> x_ptr{0}, y_ptr{0}, x_type, y_type;
};

template <class T>
std::vector<int64_t> expected(const Clouds<T>& c) {
  const auto finite_row = [](const std::vector<T>& r, int64_t i) {
    return std::isfinite(r[3 * i]) && std::isfinite(r[3 * i + 1]) && std::isfinite(r[3 * i + 2]);
  };
  std::vector<int64_t> index(c.x.size() / 3, -1);
  for (size_t s = 0; s + 1 < c.x_ptr.size(); ++s) {
    bool good = true;
    for (int64_t j = c.y_ptr[s]; j < c.y_ptr[s + 1]; ++j) good = good && finite_row(c.y, j);
    for (int64_t i = c.x_ptr[s]; i < c.x_ptr[s + 1] && good; ++i) {
      double best = 0;
      for (int64_t j = c.y_ptr[s]; j < c.y_ptr[s + 1] && finite_row(c.x, i); ++j) {
        if (!c.x_type.empty() && c.x_type[i] != c.y_type[j]) continue;
        double d[3];
        for (int k = 0; k < 3; ++k) d[k] = double{c.y[3 * j + k]} - double{c.x[3 * i + k]};
        const double square = std::fma(d[0], d[0], std::fma(d[1], d[1], d[2] * d[2]));
        if (index[i] < 0 || square < best) best = square, index[i] = j;
      }
    }
  }
  return index;
}

template <class T>
std::vector<int64_t> run(const Clouds<T>& c, Schedule schedule, bool unsplit = false) {
  const Buffer<T> x(c.x), y(c.y);
  const Buffer<int64_t> x_ptr(c.x_ptr), y_ptr(c.y_ptr), x_type(c.x_type), y_type(c.y_type);
  Buffer<int64_t> index(static_cast<int64_t>(c.x.size() / 3));
  std::deque<Buffer<char>> scratch;
  const NearestProblem<T> problem{
      x.data(),
      y.data(),
      {x_ptr.data(), static_cast<int64_t>(c.x_ptr.size()) - 1, index.size()},
      {y_ptr.data(), static_cast<int64_t>(c.y_ptr.size()) - 1, static_cast<int64_t>(c.y.size() / 3)},
      c.x_type.empty() ? nullptr : x_type.data(),
      c.x_type.empty() ? nullptr : y_type.data(),
      index.data()};
  const auto memory = [&](size_t bytes) -> void* { return scratch.emplace_back(static_cast<int64_t>(bytes)).data(); };
  if (unsplit) {
    if (index.size() > 0) brute_search(problem, memory, gpu::Stream{}, 1);
  } else {
    find_nearest(problem, schedule, memory, gpu::Stream{});
  }
  return index.to_host();
}

template <class T>
void check(const Clouds<T>& c) {
  const std::vector<int64_t> reference = expected(c);
  const auto compare = [&](const std::vector<int64_t>& got, const std::string& name) {
    for (size_t i = 0; i < got.size(); ++i) {
      if (got[i] == reference[i]) continue;
      throw std::runtime_error(name + ", query " + std::to_string(i) + " of " + std::to_string(got.size()) +
                               ", targets " + std::to_string(c.y.size() / 3) + ": " + std::to_string(got[i]) +
                               " instead of " + std::to_string(reference[i]));
    }
  };
  compare(run(c, Schedule::batch), "batch");
  compare(run(c, Schedule::brute), "brute");
  compare(run(c, Schedule::brute, true), "brute, all tiles by one block");
  compare(run(c, Schedule::tree), "tree");
}

enum class Shape { uniform, lattice, clustered, outlier, plane, one_place, far };

template <class T>
std::vector<T> points(std::mt19937& random, Shape shape, int64_t n) {
  std::normal_distribution<double> normal;
  std::vector<T> r;
  for (int64_t i = 0; i < n; ++i) {
    const int64_t cluster = shape == Shape::clustered ? static_cast<int64_t>(random() % 3) : 0;
    for (int k = 0; k < 3; ++k) {
      double value = normal(random);
      if (shape == Shape::lattice) value = std::round(value);  // ties and duplicates
      if (shape == Shape::clustered) value = 1e-5 * value + 7 * static_cast<double>((cluster + k) % 3);
      if (shape == Shape::outlier && i == 0) value = 1e8;
      if (shape == Shape::plane && k == 2) value = 0.25;
      if (shape == Shape::one_place) value = 1.5;
      if (shape == Shape::far) value += 3e5;
      r.push_back(static_cast<T>(value));
    }
  }
  return r;
}

template <class T>
Clouds<T> one_cloud(std::mt19937& random, Shape shape, int64_t n, int64_t m) {
  Clouds<T> c;
  c.x = points<T>(random, shape, n), c.y = points<T>(random, shape, m);
  c.x_ptr.push_back(n), c.y_ptr.push_back(m);
  return c;
}

template <class T>
Clouds<T> batch(std::mt19937& random, const std::vector<std::pair<int, int>>& sizes, int types) {
  Clouds<T> c;
  for (const auto& [n, m] : sizes) c.x_ptr.push_back(c.x_ptr.back() + n), c.y_ptr.push_back(c.y_ptr.back() + m);
  c.x = points<T>(random, Shape::lattice, c.x_ptr.back()), c.y = points<T>(random, Shape::uniform, c.y_ptr.back());
  for (int64_t i = 0; i < c.x_ptr.back() && types > 0; ++i)
    c.x_type.push_back(static_cast<int64_t>(random() % types) - 1);
  for (int64_t i = 0; i < c.y_ptr.back() && types > 0; ++i)
    c.y_type.push_back(static_cast<int64_t>(random() % types) - 1);
  return c;
}

template <class T>
void test_targets() {
  std::mt19937 random(1);
  for (const int m : sizes_around({32, kTile, kBatchTile, kFan * kFan}))
    check(one_cloud<T>(random, Shape::uniform, 37, m));
}

template <class T>
void test_queries() {
  std::mt19937 random(2);
  for (const int n : sizes_around({32, kThreads, kThreads * kFewQueries})) {
    check(one_cloud<T>(random, Shape::uniform, n, 45));
  }
  check(one_cloud<T>(random, Shape::uniform, kThreads * kQueries<T, false> + 1, 150));
}

template <class T>
void test_shapes() {
  std::mt19937 random(3);
  for (const Shape shape :
       {Shape::uniform, Shape::lattice, Shape::clustered, Shape::outlier, Shape::plane, Shape::one_place, Shape::far}) {
    check(one_cloud<T>(random, shape, 150, 400));
  }
  Clouds<T> mixed = one_cloud<T>(random, Shape::far, 70, 0);  // queries far away from the targets
  mixed.y = points<T>(random, Shape::clustered, 300), mixed.y_ptr[1] = 300;
  check(mixed);
}

// Targets that differ by less than fp32 can tell: only the definition decides.
template <class T>
void test_near_ties() {
  std::mt19937 random(4);
  Clouds<T> c = one_cloud<T>(random, Shape::uniform, 64, 0);
  for (int j = 0; j < 500; ++j) {  // on a sphere
    const double z = 2 * static_cast<double>(j) / 499 - 1, angle = 2.4 * j, r = std::sqrt(1 - z * z);
    for (const double value : {r * std::cos(angle), r * std::sin(angle), z}) c.y.push_back(static_cast<T>(value));
  }
  for (size_t k = 0; k < c.x.size(); ++k) c.x[k] *= static_cast<T>(k % 2 == 0 ? 1e-9 : 1e-7);  // seen from its centre
  c.y_ptr[1] = 500;
  check(c);
  for (T& value : c.x) value *= T(1e-21);  // fp32: squares are denormal, no digit of a ratio is right
  for (T& value : c.y) value *= T(1e-21);
  check(c);
}

// Two targets in different tiles, which the filter puts in the wrong order; all others are far away.
void test_wrong_order() {
  std::mt19937 random(10);
  std::normal_distribution<float> normal;
  Clouds<float> c;
  c.y = points<float>(random, Shape::one_place, 3 * kTile);
  c.y_ptr.push_back(3 * kTile);
  const auto square = [](const float* x, const float* y) {
    const float d[3] = {y[0] - x[0], y[1] - x[1], y[2] - x[2]};
    return std::fma(d[0], d[0], std::fma(d[1], d[1], d[2] * d[2]));
  };
  for (int q = 0; q < 10; ++q) {
    float x[3], *a = &c.y[3 * q], *b = &c.y[3 * (kTile + q)];
    do {
      float u[3], v[3], uu = 0, vv = 0;
      for (int k = 0; k < 3; ++k) u[k] = normal(random), v[k] = normal(random), uu += u[k] * u[k], vv += v[k] * v[k];
      for (int k = 0; k < 3; ++k) {
        x[k] = static_cast<float>(40 * (q + 1)) + normal(random);
        a[k] = x[k] + u[k] / std::sqrt(uu), b[k] = x[k] + v[k] / std::sqrt(vv);
      }
    } while (!((square(x, a) > square(x, b) && nearest_distance_sq(x, a) < nearest_distance_sq(x, b))));
    if (q % 2 == 1) std::swap_ranges(a, a + 3, b);
    c.x.insert(c.x.end(), x, x + 3);
  }
  c.x_ptr.push_back(10);
  check(c);
}

// Squares that overflow or vanish in the filter
template <class T>
void test_scales() {
  std::mt19937 random(5);
  for (const double scale : {3e-22, 1e-22, 1e-25, 1e18, 1e25}) {
    Clouds<T> c = one_cloud<T>(random, Shape::uniform, 40, 200);
    const double square = sizeof(T) == 8 ? scale * std::fabs(std::log10(scale)) : scale;
    for (T& value : c.x) value = static_cast<T>(value * square);
    for (T& value : c.y) value = static_cast<T>(value * square);
    check(c);
  }
}

template <class T>
void test_batches() {
  std::mt19937 random(6);
  const std::vector<std::vector<std::pair<int, int>>> sizes{
      {},
      {{0, 0}},
      {{0, 5}, {5, 0}, {3, 4}},
      {{18, 18}, {18, 18}, {0, 7}, {200, 150}, {1, 1}, {33, 31}, {7, 0}},
      {{10, 600}, {300, 20}, {129, 130}}};
  for (const auto& one : sizes) {
    for (const int types : {0, 1, 5}) check(batch<T>(random, one, types));
  }
}

// Points that are not finite, in some structures
template <class T>
void test_not_finite() {
  std::mt19937 random(7);
  for (const int types : {0, 2}) {
    Clouds<T> c = batch<T>(random, {{9, 12}, {40, 35}, {20, 140}, {8, 8}}, types);
    c.x[3 * 3] = std::numeric_limits<T>::quiet_NaN(), c.x[3 * 75 + 1] = std::numeric_limits<T>::infinity();
    c.y[3 * 20 + 2] = -std::numeric_limits<T>::infinity();   // of the second
    c.y[3 * 190 + 1] = std::numeric_limits<T>::quiet_NaN();  // of the last
    check(c);
  }
}

// A ptr that does not fit may give any index, but nothing out of bounds.
void test_bad_ptr() {
  std::mt19937 random(8);
  const Clouds<float> good = batch<float>(random, {{40, 50}, {90, 140}}, 2);
  const std::vector<std::vector<int64_t>> wrong{{5, 20, 60}, {0, 900, 130}, {0, -3, 130}, {0, 100, 20}, {0, 1}, {0}};
  for (const auto& ptr : wrong) {
    for (const Schedule schedule : kSchedules) {
      Clouds<float> c = good;
      c.x_ptr = ptr, c.y_ptr = ptr;
      for (const int64_t j : run(c, schedule)) CHECK(j >= -1 && j < 190);
      c.x_ptr = good.x_ptr;
      if (ptr.size() == good.x_ptr.size()) {
        for (const int64_t j : run(c, schedule)) CHECK(j >= -1 && j < 190);
      }
    }
  }
}

void test_orders() {
  std::mt19937 random(9);
  const Clouds<float> grouped = batch<float>(random, {{18, 18}, {0, 3}, {30, 90}}, 2);
  const Clouds<float> cloud = one_cloud<float>(random, Shape::lattice, 140, 300);
  for_orders([&] { check(grouped), check(cloud); });
}

void test_choice() {
  CHECK(schedule_for(4096 * 18, 4096 * 18, 4096, false) == Schedule::batch);
  CHECK(schedule_for(10, 0, 1, false) == Schedule::batch);
  CHECK(schedule_for(10, 10, 0, false) == Schedule::batch);
  CHECK(schedule_for(32 * 2048, 32 * 2048, 32, false) == Schedule::brute);
  CHECK(schedule_for(100000, 100000, 1, false) == Schedule::brute);
  CHECK(schedule_for(1, 1000000, 1, false) == Schedule::brute);
  CHECK(schedule_for(100000, 100000, 1, true) == Schedule::tree);
  CHECK(schedule_for(1000000, 1000000, 1, false) == Schedule::tree);
}

}  // namespace

int main() {
  return symkern::testing::run_tests({{"targets fp32", test_targets<float>},
                                      {"targets fp64", test_targets<double>},
                                      {"queries fp32", test_queries<float>},
                                      {"queries fp64", test_queries<double>},
                                      {"shapes fp32", test_shapes<float>},
                                      {"shapes fp64", test_shapes<double>},
                                      {"near ties fp32", test_near_ties<float>},
                                      {"near ties fp64", test_near_ties<double>},
                                      {"wrong order", test_wrong_order},
                                      {"scales fp32", test_scales<float>},
                                      {"scales fp64", test_scales<double>},
                                      {"batches fp32", test_batches<float>},
                                      {"batches fp64", test_batches<double>},
                                      {"not finite fp32", test_not_finite<float>},
                                      {"not finite fp64", test_not_finite<double>},
                                      {"bad ptr", test_bad_ptr},
                                      {"orders", test_orders},
                                      {"choice", test_choice}});
}
