// Points sorted so that neighbors in the order are neighbors in space: a Hilbert curve over grid cells, and within each
// cell that holds many points another one over its own bounding box. The order follows the points at any scale, so
// clusters, surfaces, lines and outliers need no special case; memory is linear.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <limits>
#include <utility>
#include <vector>

#include "core/parallel.h"
#include "core/workspace.h"

namespace symkern {

// Place along the curve of each cell of a grid of 2^bits cells per side.
class HilbertCurve {
 public:
  static constexpr int kMaxBits = 5;

  static const uint16_t* places(int bits) {
    static const HilbertCurve curves[] = {HilbertCurve(1), HilbertCurve(2), HilbertCurve(3), HilbertCurve(4),
                                          HilbertCurve(5)};
    return curves[bits - 1].places_.data();
  }

 private:
  explicit HilbertCurve(int bits) : places_(size_t{1} << (3 * bits)) {
    const uint32_t side = 1u << bits;
    for (uint32_t cell = 0; cell < places_.size(); ++cell) {
      places_[cell] = static_cast<uint16_t>(place({cell % side, cell / side % side, cell / side / side}, bits));
    }
  }

  // J. Skilling, Programming the Hilbert curve, AIP Conf. Proc. 707, 381 (2004).
  static uint32_t place(std::array<uint32_t, 3> x, int bits) {
    const uint32_t top = 1u << (bits - 1);
    for (uint32_t q = top; q > 1; q >>= 1) {
      for (uint32_t& axis : x) {
        const uint32_t swapped = axis & q ? 0 : (x[0] ^ axis) & (q - 1);
        x[0] ^= axis & q ? q - 1 : swapped;
        axis ^= swapped;
      }
    }
    x[1] ^= x[0], x[2] ^= x[1];
    uint32_t flip = 0;
    for (uint32_t q = top; q > 1; q >>= 1) flip ^= x[2] & q ? q - 1 : 0;
    uint32_t result = 0;
    for (int bit = bits - 1; bit >= 0; --bit) {
      for (const uint32_t axis : x) result = result << 1 | (((axis ^ flip) >> bit) & 1u);
    }
    return result;
  }

  std::vector<uint16_t> places_;
};

template <class T>
class SpatialOrder {
 public:
  // points: (n, 3), finite, n < 2^31
  SpatialOrder(const T* points, int64_t n, const Parallel& parallel)
      : points_(arena_.allocate<T>(3 * n)), id_(arena_.allocate<int32_t>(n)) {
    const int64_t chunks = std::clamp<int64_t>(n / kChunk, 1, parallel.threads());
    const auto begin = [&](int64_t chunk) { return n * chunk / chunks; };
    std::vector<Box> boxes(chunks);
    parallel(chunks, 1, [&](int64_t first, int64_t last) {
      for (int64_t c = first; c < last; ++c) boxes[c] = Box(points + 3 * begin(c), begin(c + 1) - begin(c));
    });
    for (const Box& box : boxes) boxes[0].add(box);
    const Cells cells(boxes[0], n);
    uint16_t* cell = arena_.allocate<uint16_t>(n);
    std::vector<int32_t> next(chunks * cells.count);
    parallel(chunks, 1, [&](int64_t first, int64_t last) {
      for (int64_t c = first; c < last; ++c) {
        cells.count_points(points + 3 * begin(c), begin(c + 1) - begin(c), cell + begin(c), &next[c * cells.count]);
      }
    });
    std::vector<int32_t> starts(cells.count + 1);
    int32_t sum = 0;
    for (int64_t k = 0; k < cells.count; ++k) {
      starts[k] = sum;
      for (int64_t c = 0; c < chunks; ++c) sum += std::exchange(next[c * cells.count + k], sum);
    }
    starts[cells.count] = sum;
    parallel(chunks, 1, [&](int64_t first, int64_t last) {
      for (int64_t c = first; c < last; ++c) {
        for (int64_t i = begin(c); i < begin(c + 1); ++i) {
          put(points + 3 * i, static_cast<int32_t>(i), next[c * cells.count + cell[i]]++);
        }
      }
    });
    if (cells.count == 1) return;
    parallel(cells.count, 64, [&](int64_t first, int64_t last) {
      Scratch scratch;
      for (int64_t k = first; k < last; ++k) refine(starts[k], starts[k + 1] - starts[k], scratch);
    });
  }

  const T* points() const { return points_; }  // (n, 3) in order
  const int32_t* id() const { return id_; }    // (n) where they were

 private:
  static constexpr int64_t kChunk = 16384;
  static constexpr int64_t kFew = 12;  // not worth another grid

  struct Box {
    Box() = default;
    Box(const T* p, int64_t n) {
      for (int64_t i = 0; i < n; ++i) {
        for (int k = 0; k < 3; ++k) low[k] = std::min(low[k], p[3 * i + k]), high[k] = std::max(high[k], p[3 * i + k]);
      }
    }
    void add(const Box& box) {
      for (int k = 0; k < 3; ++k) low[k] = std::min(low[k], box.low[k]), high[k] = std::max(high[k], box.high[k]);
    }
    T low[3] = {std::numeric_limits<T>::max(), std::numeric_limits<T>::max(), std::numeric_limits<T>::max()};
    T high[3] = {std::numeric_limits<T>::lowest(), std::numeric_limits<T>::lowest(), std::numeric_limits<T>::lowest()};
  };

  // A cubic grid of a few points per cell over a box; one cell where the box cannot be divided.
  struct Cells {
    Cells(const Box& box, int64_t n) {
      double extent = 0;
      for (int k = 0; k < 3; ++k) {
        low[k] = static_cast<double>(box.low[k]);
        extent = std::max(extent, static_cast<double>(box.high[k]) - low[k]);
      }
      while (bits < HilbertCurve::kMaxBits && n > int64_t{4} << (3 * bits)) ++bits;
      side = 1 << bits;
      scale = side / extent;
      if (n > 1 && scale > 0 && std::isfinite(scale)) {
        count = int64_t{1} << (3 * bits);
        places = HilbertCurve::places(bits);
      }
    }

    // the cell of each point, by place along the curve; adds to `counts`
    void count_points(const T* p, int64_t n, uint16_t* cell, int32_t* counts) const {
      for (int64_t i = 0; i < n; ++i) {
        int32_t at = 0;
        for (int k = 2; k >= 0 && count > 1; --k) {
          const int32_t c = static_cast<int32_t>((static_cast<double>(p[3 * i + k]) - low[k]) * scale);
          at = at * side + std::min(c, side - 1);
        }
        cell[i] = count > 1 ? places[at] : 0;
        ++counts[cell[i]];
      }
    }

    double low[3], scale;
    int bits = 1, side = 1;
    int64_t count = 1;
    const uint16_t* places = nullptr;
  };

  struct Scratch {
    std::vector<T> points;
    std::vector<int32_t> id;
    std::vector<uint16_t> cell;
  };

  void put(const T* p, int32_t id, int64_t to) {
    for (int k = 0; k < 3; ++k) points_[3 * to + k] = p[k];
    id_[to] = id;
  }

  // The points first .. first + n once more, over their own box. It is smaller than a cell was before, so this ends.
  void refine(int64_t first, int64_t n, Scratch& scratch) {
    if (n <= kFew) return;
    T* points = points_ + 3 * first;
    const Cells cells(Box(points, n), n);
    if (cells.count == 1) return;
    if (static_cast<int64_t>(scratch.id.size()) < n) {
      scratch.points.resize(3 * n), scratch.id.resize(n), scratch.cell.resize(n);
    }
    std::vector<int32_t> starts(cells.count + 1);
    cells.count_points(points, n, scratch.cell.data(), starts.data() + 1);
    for (int64_t k = 0; k < cells.count; ++k) starts[k + 1] += starts[k];
    std::copy_n(points, 3 * n, scratch.points.data());
    std::copy_n(id_ + first, n, scratch.id.data());
    for (int64_t i = 0; i < n; ++i) {
      put(&scratch.points[3 * i], scratch.id[i], first + starts[scratch.cell[i]]++);  // starts become ends
    }
    for (int64_t k = 0, begin = 0; k < cells.count; begin = starts[k++]) {
      refine(first + begin, starts[k] - begin, scratch);
    }
  }

  Arena arena_;
  T* points_;
  int32_t* id_;
};

}  // namespace symkern
