// Graphs and numbers for tests of fused messages.
#pragma once

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>

#include "testing/check.h"
#include "testing/tests/tile_host.h"

namespace symkern::testing {

struct RandomNumbers {
  std::mt19937 random;
  explicit RandomNumbers(unsigned seed) : random(seed) {}
  std::vector<double> operator()(int64_t count, double largest = 1) {
    std::vector<double> values(static_cast<size_t>(count));
    for (double& x : values) x = static_cast<float>(std::uniform_real_distribution<>(-largest, largest)(random));
    return values;
  }
};

// As symkern.Neighbors has it: edges sorted by receiver, padding after the last.
struct TestGraph {
  int64_t atoms;
  std::vector<int64_t> senders, receivers, row_ptr, sender_order, sender_ptr;

  int64_t edges() const { return static_cast<int64_t>(senders.size()); }
  int64_t real() const { return row_ptr.back(); }
};

inline TestGraph graph_of(int64_t atoms, std::vector<std::pair<int64_t, int64_t>> receiver_sender, int64_t padding) {
  TestGraph g;
  g.atoms = atoms;
  std::sort(receiver_sender.begin(), receiver_sender.end());
  g.row_ptr.assign(static_cast<size_t>(atoms + 1), 0), g.sender_ptr = g.row_ptr;
  for (const auto& [i, j] : receiver_sender) {
    g.receivers.push_back(i), g.senders.push_back(j);
    ++g.row_ptr[i + 1], ++g.sender_ptr[j + 1];
  }
  std::partial_sum(g.row_ptr.begin(), g.row_ptr.end(), g.row_ptr.begin());
  std::partial_sum(g.sender_ptr.begin(), g.sender_ptr.end(), g.sender_ptr.begin());
  g.sender_order.resize(receiver_sender.size());
  std::iota(g.sender_order.begin(), g.sender_order.end(), 0);
  std::stable_sort(g.sender_order.begin(), g.sender_order.end(),
                   [&](int64_t a, int64_t b) { return g.senders[a] < g.senders[b]; });
  for (int64_t k = 0; k < padding; ++k) {
    g.receivers.push_back(0), g.senders.push_back(0), g.sender_order.push_back(g.edges() - 1);
  }
  return g;
}

// Some atoms are without edges.
inline TestGraph random_graph(int64_t atoms, int64_t edges, int64_t padding) {
  std::mt19937 random(static_cast<unsigned>(atoms * 1000 + edges));
  std::vector<std::pair<int64_t, int64_t>> pairs;
  for (int64_t e = 0; e < edges; ++e) {
    const int64_t i = static_cast<int64_t>(random() % static_cast<unsigned>(atoms)),
                  j = static_cast<int64_t>(random() % static_cast<unsigned>(atoms));
    pairs.push_back({i == 1 ? 0 : i, j == 2 ? 0 : j});
  }
  return graph_of(atoms, pairs, padding);
}

// No atoms, no edges, one atom with all edges, tiles that cut a receiver, and sizes around those of tiles.
inline std::vector<TestGraph> test_graphs_around(std::initializer_list<int> tiles) {
  std::vector<TestGraph> graphs{graph_of(0, {}, 0), graph_of(3, {}, 0), graph_of(2, {}, 2)};
  graphs.push_back(graph_of(2, std::vector<std::pair<int64_t, int64_t>>(70, {1, 0}), 0));
  for (const int size : sizes_around(tiles)) {
    if (size > 0) graphs.push_back(random_graph(5, size, size % 3));
  }
  return graphs;
}

template <class S>
void check_close(const std::vector<S>& got, const std::vector<double>& expected, double allowed) {
  CHECK_EQUAL(got.size(), expected.size());
  double largest = 1;
  for (double x : expected) largest = std::max(largest, std::fabs(x));
  for (size_t i = 0; i < got.size(); ++i) CHECK(std::fabs(got[i] - expected[i]) <= allowed * largest);
}

}  // namespace symkern::testing
