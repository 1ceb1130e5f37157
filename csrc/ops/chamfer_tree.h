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
    tree_.points = order_.points(), tree_.id = order_.id(), tree_.n = n;
    int64_t nodes = groups_of(n);  // of the level that comes next
    const Group* below = nullptr;
    do {
      const int64_t groups = groups_of(nodes);
      Group* made = arena_.allocate<Group>(groups);
      parallel(groups, 64, [&](int64_t begin, int64_t end) {
        for (int64_t g = begin; g < end; ++g) {
          for (int c = 0; c < kFan; ++c) {
            const int64_t node = kFan * g + c;
            node >= nodes      ? absent(made[g], c)
            : below == nullptr ? leaf(made[g], c, node)
                               : inner(made[g], c, below[node]);
          }
        }
      });
      tree_.level[tree_.levels++] = below = made;
      nodes = groups;
    } while (nodes > 1);
  }

  const PointTree<T>& tree() const { return tree_; }

 private:
  using Group = typename PointTree<T>::Group;
  static constexpr int kFan = PointTree<T>::kFan;

  static int64_t groups_of(int64_t n) { return (n + kFan - 1) / kFan; }

  static void absent(Group& group, int c) {
    for (int k = 0; k < 3; ++k) {
      group.low[k][c] = std::numeric_limits<T>::infinity(), group.high[k][c] = -std::numeric_limits<T>::infinity();
    }
    group.first_id[c] = std::numeric_limits<int32_t>::max();
  }

  void leaf(Group& group, int c, int64_t node) const {
    absent(group, c);
    for (int64_t j = kFan * node; j < std::min(kFan * (node + 1), tree_.n); ++j) {
      for (int k = 0; k < 3; ++k) {
        group.low[k][c] = std::min(group.low[k][c], tree_.points[3 * j + k]);
        group.high[k][c] = std::max(group.high[k][c], tree_.points[3 * j + k]);
      }
      group.first_id[c] = std::min(group.first_id[c], tree_.id[j]);
    }
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
