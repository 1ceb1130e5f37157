// Inputs, references and drivers for schedules.h; each driver runs one schedule and checks its result.
#pragma once

#include <algorithm>
#include <numeric>
#include <random>

#include "testing/check.h"
#include "testing/tests/schedules.h"

namespace symkern::schedules {

using testing::Buffer;

// Between 0 and scale, on a grid of 1/8: squared distances are exact, so that references agree to the bit, and ties
// occur.
inline std::vector<float> coordinates(int count, float scale, unsigned seed) {
  std::mt19937 generator(seed);
  std::vector<float> x(static_cast<std::size_t>(count));
  for (float& one : x) one = std::floor(static_cast<float>(generator() % 1024) / 1024.0f * scale * 8.0f) / 8.0f;
  return x;
}

// Runs a two-call operation with temporary storage of exactly the size it asked for.
template <class F>
void with_temp(F&& operation) {
  std::size_t bytes = 0;
  operation(nullptr, bytes);
  Buffer<char> temp(static_cast<std::int64_t>(bytes));
  operation(temp.data(), bytes);
}

template <int BUG = pair_ok>
void check_pairs(int n, float cutoff = 2.0f) {
  const std::vector<float> x = coordinates(3 * n, 6.0f, 1);
  std::vector<int> expected;
  for (int i = 0; i < n; ++i)
    for (int j = 0; j < n; ++j) {
      double r2 = 0;
      for (int k = 0; k < 3; ++k) r2 += std::pow(static_cast<double>(x[3 * j + k]) - x[3 * i + k], 2);
      if (i != j && r2 < cutoff * cutoff) expected.push_back(j);
    }
  Buffer<float> positions(x);
  Buffer<int> count(n);
  Buffer<std::int64_t> offset(n);
  const std::int64_t blocks = gpu::grid_for(std::int64_t{32} * n, pair_threads, 8);
  gpu::launch(pairs<BUG>, blocks, pair_threads, 0, nullptr, positions.data(), n, cutoff * cutoff, nullptr, count.data(),
              nullptr);
  with_temp([&](void* temp, std::size_t& bytes) {
    gpu::exclusive_sum(temp, bytes, count.data(), offset.data(), n, nullptr);
  });
  const auto counts = count.to_host();
  const auto total = std::accumulate(counts.begin(), counts.end(), std::int64_t{0});
  CHECK_EQUAL(total, static_cast<std::int64_t>(expected.size()));
  Buffer<int> sender(total);
  gpu::launch(pairs<BUG>, blocks, pair_threads, 0, nullptr, positions.data(), n, cutoff * cutoff, offset.data(),
              nullptr, sender.data());
  CHECK(sender.to_host() == expected);
}

template <int BUG = nearest_ok>
void check_nearest(int queries, int targets) {
  auto points = [](int n, unsigned seed) {
    const std::vector<float> x = coordinates(3 * n, 4.0f, seed);
    std::vector<float4> p(static_cast<std::size_t>(n));
    for (int i = 0; i < n; ++i) p[i] = make_float4(x[3 * i], x[3 * i + 1], x[3 * i + 2], 0.0f);
    return p;
  };
  const auto q = points(queries, 2), t = points(targets, 3);
  std::vector<int> expected(static_cast<std::size_t>(queries), -1);
  for (int i = 0; i < queries; ++i) {
    float best = FLT_MAX;
    for (int j = 0; j < targets; ++j) {
      const float dx = t[j].x - q[i].x, dy = t[j].y - q[i].y, dz = t[j].z - q[i].z;
      const float d2 = dx * dx + dy * dy + dz * dz;
      if (d2 < best) best = d2, expected[i] = j;
    }
  }
  Buffer<float4> query(q), target(t);
  Buffer<int> index(queries);
  gpu::launch(nearest<BUG>, gpu::grid_for(queries, nearest_threads), nearest_threads, 0, nullptr, query.data(), queries,
              target.data(), targets, index.data());
  CHECK(index.to_host() == expected);
}

template <int BUG = compact_ok>
void check_compact(int n) {
  std::vector<int> values(static_cast<std::size_t>(n)), expected;
  std::mt19937 generator(4);
  for (int& v : values) {
    v = static_cast<int>(generator() % 21) - 10;
    if (v > 0) expected.push_back(v);
  }
  Buffer<int> in(values), out(static_cast<std::int64_t>(expected.size())), count(1);
  gpu::launch(compact<BUG>, 1, compact_threads, 0, nullptr, in.data(), n, out.data(), count.data());
  CHECK_EQUAL(count.to_host()[0], static_cast<int>(expected.size()));
  CHECK(out.to_host() == expected);
}

inline void check_product(int rows, int columns, int depth) {
  std::mt19937 generator(5);
  auto numbers = [&](int n) {
    std::vector<float> x(static_cast<std::size_t>(n));
    for (float& one : x) one = static_cast<float>(generator() % 2000) / 997.0f - 1.0f;
    return x;
  };
  // Independent of gpu::to_tf32: the same rounding by arithmetic (Veltkamp's splitting, to 11 bits; no ties occur
  // here).
  auto rounded = [](float x) {
    const float c = x * 8193.0f;
    return c - (c - x);
  };
  const auto a = numbers(rows * depth), b = numbers(depth * columns);
  Buffer<float> left(a), right(b), result(static_cast<std::int64_t>(rows) * columns);
  const std::int64_t tiles = std::int64_t{(rows + 15) / 16} * ((columns + 7) / 8);
  gpu::launch(product, tiles, 32, 0, nullptr, left.data(), right.data(), result.data(), rows, columns, depth);
  const auto c = result.to_host();
  for (int i = 0; i < rows; ++i)
    for (int j = 0; j < columns; ++j) {
      double expected = 0;
      for (int k = 0; k < depth; ++k)
        expected += static_cast<double>(rounded(a[i * depth + k])) * rounded(b[k * columns + j]);
      CHECK(std::fabs(c[i * columns + j] - expected) < 2e-6 * (depth + 1));
    }
}

template <int BUG = sum_ok>
void check_sum(int n) {
  std::vector<int> values(static_cast<std::size_t>(n));
  std::iota(values.begin(), values.end(), 1);
  const int blocks = 5;
  Buffer<int> in(values), partial(blocks), done(1), result(1);
  gpu::memset_async(done.data(), 0, sizeof(int), nullptr);
  gpu::launch(sum<BUG>, blocks, sum_threads, sizeof(int) * sum_threads / 32, nullptr, in.data(), n, partial.data(),
              done.data(), result.data());
  CHECK_EQUAL(result.to_host()[0], n * (n + 1) / 2);
}

}  // namespace symkern::schedules
