// Nearest points: the problem, and the distance that decides it, for every schedule on host and device.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>

#include "core/number.h"

namespace symkern {

// Rows of `count` structures, inside the `rows` there are whatever ptr holds.
struct Ragged {
  const int64_t* ptr;  // (count + 1)
  int64_t count, rows;

  SYMKERN_HD int64_t bound(int64_t s) const { return ptr[s] < 0 ? 0 : ptr[s] < rows ? ptr[s] : rows; }

  int64_t largest() const {
    int64_t most = 0;
    for (int64_t s = 0; s < count; ++s) most = ptr[s + 1] - ptr[s] > most ? ptr[s + 1] - ptr[s] : most;
    return most;
  }

  // The first structure that ends beyond `row`; `count` if there is none.
  SYMKERN_HD int64_t owner(int64_t row) const {
    int64_t low = 0, high = count;
    while (low < high) {
      const int64_t middle = low + (high - low) / 2;
      if (bound(middle + 1) <= row) {
        low = middle + 1;
      } else {
        high = middle;
      }
    }
    return low;
  }
};

// For each row of x the nearest row of y in the same structure, of the same type where there are types.
template <class T>
struct NearestProblem {
  const T* x;  // (N, 3)
  const T* y;  // (M, 3)
  Ragged xs, ys;
  const int64_t* x_type;  // (N), or nullptr
  const int64_t* y_type;  // (M), or nullptr
  int64_t* index;         // (N): row of y; -1 where there is none (the host raises before that)
};

// The distance that decides, in fp64 for inputs of any precision. Every multiply-add is an explicit fma, so host,
// device and every instruction set get the same bits and therefore the same index.
SYMKERN_FORMULA double distance_sq(double dx, double dy, double dz) { return fma(dx, dx, fma(dy, dy, dz * dz)); }

template <class T>
SYMKERN_FORMULA double nearest_distance_sq(const T* x, const T* y) {
  return distance_sq(double{y[0]} - double{x[0]}, double{y[1]} - double{x[1]}, double{y[2]} - double{x[2]});
}

// The nearest so far; ties go to the lowest index.
struct Nearest {
  double distance_sq;
  int64_t index;  // -1: none

  SYMKERN_FORMULA bool loses_to(double other_sq, int64_t other) const {
    return index < 0 || other_sq < distance_sq || (other_sq == distance_sq && other < index);
  }
  SYMKERN_FORMULA void offer(double other_sq, int64_t other) {
    if (loses_to(other_sq, other)) distance_sq = other_sq, index = other;
  }
};

// One query after the other, all targets: the schedule that shows what the others must find. A distance that is not
// finite makes the index -1: without a word to the host, the result is NaN.
template <class T>
struct NearestQuery {
  NearestProblem<T> p;

  SYMKERN_HD void operator()(int64_t i) const {
    const int64_t s = p.xs.owner(i);
    Nearest best{0, -1};
    bool finite = true;
    for (int64_t j = s < p.xs.count ? p.ys.bound(s) : 0; s < p.xs.count && j < p.ys.bound(s + 1); ++j) {
      const double d = nearest_distance_sq(p.x + 3 * i, p.y + 3 * j);
      finite = finite && d < std::numeric_limits<double>::infinity();
      if (p.x_type == nullptr || p.x_type[i] == p.y_type[j]) best.offer(d, j);
    }
    p.index[i] = finite ? best.index : -1;
  }
};

}  // namespace symkern
