// What the CUDA schedules of the search for nearest points share: a filter in the precision of the points, and what is
// left to the definition in ops/chamfer.h.
//
// Every schedule first finds the smallest filtered distance, without an index, and then offers to the definition the
// targets that rounding could have put behind it. So the index is that of the definition, whatever the schedule.
#pragma once

#include <limits>

#include "core/gpu.h"
#include "ops/chamfer.h"

namespace symkern::nearest_cuda {

constexpr int kThreads = 128;

template <class T>
constexpr T kInfinity = std::numeric_limits<T>::infinity();
template <class T>
constexpr T kNaN = std::numeric_limits<T>::quiet_NaN();
template <class T>
constexpr T kLargest = std::numeric_limits<T>::max();

// One load of 16 bytes (fp64: two) from shared memory
template <class T>
struct alignas(16) Point {
  T x, y, z;
  std::conditional_t<sizeof(T) == 4, int32_t, int64_t> id;
};

// For fp64 this is the definition.
template <class T>
SYMKERN_DEVICE T filter_sq(T dx, T dy, T dz) {
  return multiply_add(dx, dx, multiply_add(dy, dy, dz * dz));
}

template <class T, class Target>
SYMKERN_DEVICE T filter_sq(const Point<T>& x, const Target& y) {
  return filter_sq<T>(y.x - x.x, y.y - x.y, y.z - x.z);
}

// A target can win only if its filtered distance is not greater than this. fp32: rounding of the differences and of
// what follows is below 5 x 2^-24 on either side, relative, and an underflow adds less than 2^-124.
SYMKERN_DEVICE float cut(float smallest) { return multiply_add(smallest, 1 + 0x1p-20f, 0x1p-119f); }
SYMKERN_DEVICE double cut(double smallest) { return smallest; }

template <class T>
SYMKERN_DEVICE bool finite(T x) {
  return fabs(x) <= kLargest<T>;
}

template <class T>
SYMKERN_DEVICE bool finite(const Point<T>& p) {
  return finite(p.x) && finite(p.y) && finite(p.z);
}

// NaN coordinates: never nearer than anything
template <class T>
SYMKERN_DEVICE Point<T> no_point() {
  return {kNaN<T>, kNaN<T>, kNaN<T>, 0};
}

template <class T>
SYMKERN_DEVICE Point<T> load_point(const T* points, int64_t row) {
  return {points[3 * row], points[3 * row + 1], points[3 * row + 2], 0};
}

template <class T>
SYMKERN_DEVICE double exact_sq(const Point<T>& x, const Point<T>& y) {
  return distance_sq(double{y.x} - double{x.x}, double{y.y} - double{x.y}, double{y.z} - double{x.z});
}

template <class T>
SYMKERN_DEVICE bool same_type(const NearestProblem<T>& p, int64_t i, int64_t j) {
  return p.x_type == nullptr || p.x_type[i] == p.y_type[j];
}

}  // namespace symkern::nearest_cuda
