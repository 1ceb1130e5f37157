// Points in the order of a Z-order curve within their structure and type, for the tree of ops/chamfer_tree_cuda.cuh.
// The curve has 42 bits per axis, in two stable sorts of 63 bits.
#pragma once

#include "ops/chamfer_filter.cuh"

namespace symkern::nearest_cuda {

constexpr int kCurveBits = 21;  // per axis and sort; two sorts

// Unsigned integers in the order of the numbers.
SYMKERN_DEVICE unsigned long long ordered(double x) {
  unsigned long long bits;
  memcpy(&bits, &x, sizeof bits);
  return bits >> 63 ? ~bits : bits | 1ull << 63;
}

SYMKERN_DEVICE double from_ordered(unsigned long long bits) {
  bits = bits >> 63 ? bits & ~(1ull << 63) : ~bits;
  double x;
  memcpy(&x, &bits, sizeof x);
  return x;
}

// box: minima, then minima of the negative, of all finite targets, as ordered integers, from ~0. bad: structures with
// a target that is not finite.
template <class T>
SYMKERN_KERNEL bound_targets(NearestProblem<T> p, unsigned long long* box, int32_t* bad) {
  const int64_t stride = static_cast<int64_t>(gridDim.x) * blockDim.x;
  double low[6] = {kInfinity<double>, kInfinity<double>, kInfinity<double>,
                   kInfinity<double>, kInfinity<double>, kInfinity<double>};
  for (int64_t j = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; j < p.ys.rows; j += stride) {
    const Point<T> y = load_point(p.y, j);
    if (finite(y)) {
      low[0] = fmin(low[0], double{y.x}), low[3] = fmin(low[3], -double{y.x});
      low[1] = fmin(low[1], double{y.y}), low[4] = fmin(low[4], -double{y.y});
      low[2] = fmin(low[2], double{y.z}), low[5] = fmin(low[5], -double{y.z});
    } else {
      const int64_t s = p.ys.owner(j);
      if (s < p.ys.count) atomicOr(bad + s, 1);
    }
  }
  for (int k = 0; k < 6; ++k) {
    low[k] = gpu::warp_min(low[k]);
    if (gpu::lane() == 0) atomicMin(box + k, ordered(low[k]));
  }
}

SYMKERN_DEVICE uint64_t spread(uint64_t x) {  // 21 bits to every third
  x = (x | x << 32) & 0x001f00000000ffffull;
  x = (x | x << 16) & 0x001f0000ff0000ffull;
  x = (x | x << 8) & 0x100f00f00f00f00full;
  x = (x | x << 4) & 0x10c30c30c30c30c3ull;
  return (x | x << 2) & 0x1249249249249249ull;
}

enum class Key { curve_low, curve_high, type, structure };

// One side of the problem
template <class T>
struct Side {
  const T* points;
  Ragged rows;
  const int64_t* type;
};

// The keys of the points in the order found so far; `order` is written by the first sort.
template <class T>
SYMKERN_KERNEL write_keys(Side<T> side, Key key, const unsigned long long* box, int32_t* order, uint64_t* keys) {
  double low[3], extent = 0;
  for (int k = 0; k < 3; ++k) {
    low[k] = from_ordered(box[k]);
    extent = fmax(extent, -from_ordered(box[k + 3]) - low[k]);
  }
  const double cells = static_cast<double>(int64_t{1} << (2 * kCurveBits));
  const double scale = extent > 0 ? cells / extent : 0;
  const int64_t stride = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t k = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; k < side.rows.rows; k += stride) {
    const int64_t i = key == Key::curve_low ? k : order[k];
    if (key == Key::type) {
      keys[k] = static_cast<uint64_t>(side.type[i]);
    } else if (key == Key::structure) {
      keys[k] = static_cast<uint64_t>(side.rows.owner(i));
    } else {
      uint64_t code = 0;
      for (int axis = 0; axis < 3; ++axis) {
        const double place = (double{side.points[3 * i + axis]} - low[axis]) * scale;
        const uint64_t cell = !(place > 0)    ? 0
                              : place < cells ? static_cast<uint64_t>(place)
                                              : static_cast<uint64_t>(cells) - 1;
        code |= spread(key == Key::curve_low ? cell & ((1u << kCurveBits) - 1) : cell >> kCurveBits) << axis;
      }
      keys[k] = code;
      if (key == Key::curve_low) order[k] = static_cast<int32_t>(k);
    }
  }
}

template <class T, class Memory>
const int32_t* sort_points(const Side<T>& side, const unsigned long long* box, const Memory& memory,
                           gpu::Stream stream) {
  const int64_t n = side.rows.rows;
  auto* keys = static_cast<uint64_t*>(memory(2 * static_cast<size_t>(n) * sizeof(uint64_t)));
  auto* order = static_cast<int32_t*>(memory(2 * static_cast<size_t>(n) * sizeof(int32_t)));
  int32_t *now = order, *next = order + n;
  size_t bytes = 0;
  gpu::sort_pairs(nullptr, bytes, keys, keys + n, now, next, n, 0, 64, stream);
  void* temp = memory(bytes);
  const auto sort_by = [&](Key key, int bits) {
    gpu::launch(write_keys<T>, gpu::grid_for(n, kThreads), kThreads, 0, stream, side, key, box, now, keys);
    gpu::sort_pairs(temp, bytes, keys, keys + n, now, next, n, 0, bits, stream);
    std::swap(now, next);
  };
  // each sort is stable, the last one decides first
  sort_by(Key::curve_low, 3 * kCurveBits);
  sort_by(Key::curve_high, 3 * kCurveBits);
  if (side.type != nullptr) sort_by(Key::type, 64);
  if (side.rows.count > 1) {
    int bits = 1;
    while (side.rows.count >> bits != 0) ++bits;
    sort_by(Key::structure, bits);
  }
  return now;
}

}  // namespace symkern::nearest_cuda
