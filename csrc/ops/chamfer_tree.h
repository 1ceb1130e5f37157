// Builds the tree of boxes that ops/chamfer_simd.h searches: leaves of consecutive points in spatial order, then levels
// of groups up to a single one.
#pragma once

#include <cstdint>
#include <limits>

#include "core/parallel.h"
#include "core/spatial_order.h"
#include "core/workspace.h"
#include "ops/chamfer_simd.h"

namespace symkern {

template <class T>
class BuiltTree {
 public:
  // points: (n, 3), finite, 0 < n < 2^31
  BuiltTree(const T* points, int64_t n, const Parallel& parallel) : order_(points, n, parallel) {
    const int64_t leaves = groups_of(n);
    Leaf* leaf = arena_.allocate<Leaf>(leaves);
    tree_.leaf = leaf, tree_.id = order_.id(), tree_.n = n;
    const Group* below = nullptr;
    for (int64_t nodes = leaves, groups; below == nullptr || nodes > 1; nodes = groups) {
      groups = groups_of(nodes);
      Group* made = arena_.allocate<Group>(groups);
      parallel(groups, 64, [&](int64_t begin, int64_t end) {
        for (int64_t node = kFan * begin; node < kFan * end; ++node) {
          Group& group = made[node / kFan];
          const int c = static_cast<int>(node % kFan);
          if (node >= nodes) {
            absent(group, c);
          } else if (below == nullptr) {
            fill(leaf[node], node, n);
            bound(group, c, leaf[node], node, n);
          } else {
            inner(group, c, below[node]);
          }
        }
      });
      tree_.level[tree_.levels++] = below = made;
    }
  }

  const PointTree<T>& tree() const { return tree_; }

 private:
  using Leaf = typename PointTree<T>::Leaf;
  using Group = typename PointTree<T>::Group;
  static constexpr int kFan = PointTree<T>::kFan;
  static constexpr T kFar = std::numeric_limits<T>::infinity();

  static int64_t groups_of(int64_t n) { return (n + kFan - 1) / kFan; }

  static void absent(Group& group, int c) {
    for (int k = 0; k < 3; ++k) group.low[k][c] = kFar, group.high[k][c] = -kFar;
    group.first_id[c] = std::numeric_limits<int32_t>::max();
  }

  void fill(Leaf& leaf, int64_t node, int64_t n) const {
    const T* points = order_.points() + 3 * kFan * node;
    const int64_t count = std::min<int64_t>(kFan, n - kFan * node);
    for (int c = 0; c < kFan; ++c) {
      for (int k = 0; k < 3; ++k) leaf.r[k][c] = c < count ? points[3 * c + k] : kFar;
    }
  }

  void bound(Group& group, int c, const Leaf& leaf, int64_t node, int64_t n) const {
    const int64_t count = std::min<int64_t>(kFan, n - kFan * node);
    for (int k = 0; k < 3; ++k) {
      group.low[k][c] = *std::min_element(leaf.r[k], leaf.r[k] + count);
      group.high[k][c] = *std::max_element(leaf.r[k], leaf.r[k] + count);
    }
    group.first_id[c] = *std::min_element(tree_.id + kFan * node, tree_.id + kFan * node + count);
  }

  static void inner(Group& group, int c, const Group& below) {
    for (int k = 0; k < 3; ++k) {
      group.low[k][c] = *std::min_element(below.low[k], below.low[k] + kFan);
      group.high[k][c] = *std::max_element(below.high[k], below.high[k] + kFan);
    }
    group.first_id[c] = *std::min_element(below.first_id, below.first_id + kFan);
  }

  SpatialOrder<T> order_;
  Arena arena_;
  PointTree<T> tree_{};
};

}  // namespace symkern
