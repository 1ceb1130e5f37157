// The host schedule of the search for nearest points: all pairs for small structures, a tree for large clouds, and
// where there are types one search for each.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "core/isa.h"
#include "core/parallel.h"
#include "ops/chamfer.h"
#include "ops/chamfer_simd.h"
#include "ops/chamfer_tree.h"

namespace symkern {

inline const NearestLevel& nearest_level() {
#if defined(SYMKERN_ISA_DISPATCH)
  switch (active_isa()) {
    case Isa::avx512:
      return *symkern_chamfer_kernels_avx512();
    case Isa::avx2:
      return *symkern_chamfer_kernels_avx2();
    case Isa::baseline:
      break;
  }
#endif
  return *symkern_chamfer_kernels_baseline();
}

inline const NearestKernels<float>& nearest_kernels(float) { return nearest_level().fp32; }
inline const NearestKernels<double>& nearest_kernels(double) { return nearest_level().fp64; }

// Throws for the first row that is not finite.
template <class T>
void check_finite(const T* points, int64_t n, const char* name, const Parallel& parallel) {
  parallel(n, int64_t{1} << 20, [&](int64_t begin, int64_t end) {
    // 0 times a number is 0, unless that is not finite; several sums, which the compiler takes side by side
    constexpr int64_t kSums = 16;
    T sums[kSums] = {}, zero = 0;
    int64_t k = 3 * begin;
    for (; k + kSums <= 3 * end; k += kSums) {
      for (int64_t c = 0; c < kSums; ++c) sums[c] += zero * points[k + c];
    }
    for (; k < 3 * end; ++k) sums[0] += zero * points[k];
    bool finite = true;
    for (const T sum : sums) finite = finite && sum == 0;
    for (int64_t i = begin; !finite && i < end; ++i) {
      for (int k = 0; k < 3; ++k) {
        if (!std::isfinite(points[3 * i + k])) {
          throw std::invalid_argument(std::string(name) + " must be finite, but point " + std::to_string(i) +
                                      " has coordinate " + std::to_string(points[3 * i + k]));
        }
      }
    }
  });
}

template <class T>
class NearestSearch {
 public:
  NearestSearch(const NearestProblem<T>& problem, const Parallel& parallel)
      : p_(problem), parallel_(parallel), kernels_(nearest_kernels(T{})) {}

  void run() const {
    check_finite(p_.x, p_.xs.rows, "x", parallel_);
    check_finite(p_.y, p_.ys.rows, "y", parallel_);
    int64_t small = 0;  // structures
    for (int64_t s = 0; s < p_.xs.count; ++s) {
      check_sizes(s);
      small += !large(s);
    }
    if (p_.x_type != nullptr) {
      // small structures side by side, each large one by all threads
      const int64_t grain = std::max<int64_t>(1, 512 * p_.xs.count / std::max<int64_t>(1, p_.xs.rows + p_.ys.rows));
      parallel_(p_.xs.count, grain, [&](int64_t begin, int64_t end) {
        TypeGroups groups;
        for (int64_t s = begin; s < end; ++s) {
          if (!large(s)) by_type(s, groups, [&](const Points& x, const Points& y) { all_pairs(x, 0, x.count, y); });
        }
      });
      TypeGroups groups;
      for (int64_t s = 0; s < p_.xs.count; ++s) {
        if (large(s)) by_type(s, groups, [&](const Points& x, const Points& y) { in_parallel(x, y); });
      }
      return;
    }
    const int64_t rows = small > 0 ? p_.xs.rows : 0, pairs = p_.ys.rows / std::max<int64_t>(1, p_.xs.count);
    parallel_(rows, std::max<int64_t>(64, kPairs / std::max<int64_t>(1, pairs)), [&](int64_t begin, int64_t end) {
      for (int64_t i = begin, s = p_.xs.owner(begin); i < end; i = p_.xs.ptr[s++ + 1]) {
        if (size(p_.xs, s) == 0 || large(s)) continue;
        const Points x = cloud(p_.x, p_.xs, s);
        all_pairs(x, i - x.first, std::min(end, x.first + x.count) - x.first, cloud(p_.y, p_.ys, s));
      }
    });
    for (int64_t s = 0; s < p_.xs.count; ++s) {
      if (large(s)) in_parallel(cloud(p_.x, p_.xs, s), cloud(p_.y, p_.ys, s));
    }
  }

 private:
  static constexpr int64_t kPairs = 65536;  // that are worth a thread
  static constexpr int64_t kBlock = 512;    // queries whose results wait on the stack

  // Some points of one structure: rows first .. first + count of all, or those in `row`.
  struct Points {
    const T* r;
    const int64_t* row;
    int64_t first, count, readable;  // points from r on, of which `count` are its own
    int64_t at(int64_t k) const { return row == nullptr ? first + k : row[k]; }
  };

  void check_sizes(int64_t s) const {
    const int64_t n = size(p_.xs, s), m = size(p_.ys, s);
    const auto here = [s] { return "structure " + std::to_string(s) + " has "; };
    if (n > 0 && m == 0) {
      throw std::invalid_argument("each structure with points to sum over needs points to compare with, but " + here() +
                                  std::to_string(n) + " and 0");
    }
    if (std::max(n, m) > std::numeric_limits<int32_t>::max()) {
      throw std::invalid_argument("a structure must have fewer than 2^31 points, but " + here() +
                                  std::to_string(std::max(n, m)));
    }
  }

  static int64_t size(const Ragged& ragged, int64_t s) { return ragged.ptr[s + 1] - ragged.ptr[s]; }
  static Points cloud(const T* r, const Ragged& ragged, int64_t s) {
    return {r + 3 * ragged.ptr[s], nullptr, ragged.ptr[s], size(ragged, s), ragged.rows - ragged.ptr[s]};
  }

  // Sorting both clouds costs as much as comparing each point with so many others.
  static bool worth_tree(int64_t n, int64_t m) {
    constexpr double kSorting = 400;
    return static_cast<double>(n) * static_cast<double>(m) > kSorting * static_cast<double>(n + m);
  }
  bool large(int64_t s) const { return worth_tree(size(p_.xs, s), size(p_.ys, s)); }

  void all_pairs(const Points& x, int64_t begin, int64_t end, const Points& y) const {
    int32_t nearest[kBlock];
    for (int64_t i = begin; i < end; i += kBlock) {
      const int64_t count = std::min(kBlock, end - i);
      kernels_.all_pairs(x.r + 3 * i, count, x.readable - i, y.r, y.count, nearest);
      if (x.row == nullptr) {
        for (int64_t k = 0; k < count; ++k) p_.index[x.first + i + k] = y.first + nearest[k];
      } else {
        for (int64_t k = 0; k < count; ++k) p_.index[x.row[i + k]] = y.row[nearest[k]];
      }
    }
  }

  void in_parallel(const Points& x, const Points& y) const {
    if (!worth_tree(x.count, y.count)) {
      parallel_(x.count, std::max<int64_t>(64, kPairs / y.count),
                [&](int64_t begin, int64_t end) { all_pairs(x, begin, end, y); });
      return;
    }
    std::optional<BuiltTree<T>> built;
    std::optional<SpatialOrder<T>> queries;
    if (parallel_.threads() == 2 && std::max(x.count, y.count) < 2 * std::min(x.count, y.count)) {
      // a thread for each: one meeting of the threads, not one for each step
      const Parallel alone(nullptr, 1);
      parallel_(2, 1, [&](int64_t begin, int64_t end) {
        for (int64_t side = begin; side < end; ++side) {
          side == 0 ? void(built.emplace(y.r, y.count, alone)) : void(queries.emplace(x.r, x.count, alone));
        }
      });
    } else {
      built.emplace(y.r, y.count, parallel_);
      queries.emplace(x.r, x.count, parallel_);
    }
    // blocks differ in cost, and threads in how much of a core they get
    std::atomic<int64_t> next{0};
    parallel_(std::min<int64_t>(parallel_.threads(), (x.count + kBlock - 1) / kBlock), 1, [&](int64_t, int64_t) {
      int32_t nearest[kBlock];
      for (int64_t i; (i = next.fetch_add(kBlock, std::memory_order_relaxed)) < x.count;) {
        const int64_t count = std::min(kBlock, x.count - i);
        kernels_.in_tree(built->tree(), queries->points() + 3 * i, count, nearest);
        for (int64_t k = 0; k < count; ++k) p_.index[x.at(queries->id()[i + k])] = y.at(nearest[k]);
      }
    });
  }

  // ---- types: the points of each, in their order

  struct TypeGroups {
    std::vector<std::pair<int64_t, int64_t>> x, y;  // type, row
    std::vector<T> points[2];
    std::vector<int64_t> rows[2];
  };

  static void sort_by_type(const int64_t* type, const Ragged& ragged, int64_t s,
                           std::vector<std::pair<int64_t, int64_t>>& sorted) {
    sorted.clear();
    for (int64_t i = ragged.ptr[s]; i < ragged.ptr[s + 1]; ++i) sorted.emplace_back(type[i], i);
    std::sort(sorted.begin(), sorted.end());
  }

  template <class F>
  void by_type(int64_t s, TypeGroups& groups, const F& f) const {
    sort_by_type(p_.x_type, p_.xs, s, groups.x);
    sort_by_type(p_.y_type, p_.ys, s, groups.y);
    const auto gather = [&](int side, const T* r, const auto& sorted, size_t& at, int64_t type) {
      auto& points = groups.points[side];
      auto& rows = groups.rows[side];
      points.clear(), rows.clear();
      for (; at < sorted.size() && sorted[at].first == type; ++at) {
        rows.push_back(sorted[at].second);
        points.insert(points.end(), r + 3 * sorted[at].second, r + 3 * sorted[at].second + 3);
      }
      const int64_t count = static_cast<int64_t>(rows.size());
      return Points{points.data(), rows.data(), 0, count, count};
    };
    for (size_t i = 0, j = 0; i < groups.x.size();) {
      const int64_t type = groups.x[i].first;
      while (j < groups.y.size() && groups.y[j].first < type) ++j;
      const Points x = gather(0, p_.x, groups.x, i, type), y = gather(1, p_.y, groups.y, j, type);
      if (y.count == 0) {
        throw std::invalid_argument("each type of the points to sum over needs points to compare with, but structure " +
                                    std::to_string(s) + " has none of type " + std::to_string(type));
      }
      f(x, y);
    }
  }

  const NearestProblem<T> p_;
  const Parallel& parallel_;
  const NearestKernels<T>& kernels_;
};

}  // namespace symkern
