// Points sorted so that neighbors in the order are neighbors in space: a Hilbert curve over grid cells, and within each
// cell that holds many points another one over its own bounding box. The order follows the points at any scale, so
// clusters, surfaces, lines and outliers need no special case; memory is linear.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <utility>
#include <vector>

#include "core/parallel.h"
#include "core/workspace.h"

namespace symkern {

// How a curve lies in its cell: axis k of space is axis[k] of the curve, backwards where bit k of `flip` is set.
struct CurveOrientation {
  uint8_t axis[3] = {0, 1, 2};
  uint8_t flip = 0;

  // Of the curve within a cell that `inner` describes along this curve.
  CurveOrientation then(const CurveOrientation& inner) const {
    CurveOrientation both;
    for (int k = 0; k < 3; ++k) both.axis[k] = inner.axis[axis[k]];
    both.flip = static_cast<uint8_t>(flip ^ inner.in_space(*this));
    return both;
  }

  // Bits per axis of the curve to bits per axis of the space that `outer` describes.
  uint8_t in_space(const CurveOrientation& outer) const {
    return static_cast<uint8_t>((flip >> outer.axis[0] & 1) | (flip >> outer.axis[1] & 1) << 1 |
                                (flip >> outer.axis[2] & 1) << 2);
  }
};

// A Hilbert curve through a grid of 2^bits cells per side: the place of each cell, and how the curve goes on within it.
class HilbertCurve {
 public:
  static constexpr int kMaxBits = 5;

  static const HilbertCurve& of(int bits) {
    static const std::vector<HilbertCurve> curves = [] {
      std::vector<HilbertCurve> made{HilbertCurve()};
      for (int b = 1; b <= kMaxBits; ++b) made.push_back(HilbertCurve(made.back(), 1u << b));
      return made;
    }();
    return curves[bits];
  }

  const uint16_t* places() const { return places_.data(); }  // by cell, axis 0 fastest
  const CurveOrientation& within(int64_t place) const { return within_[place]; }

 private:
  HilbertCurve() : places_{0}, within_(1) {}

  // Each cell of the coarser curve holds the curve through eight octants.
  HilbertCurve(const HilbertCurve& coarse, uint32_t side) : places_(side * side * side), within_(places_.size()) {
    // octants in order, and how the curve lies in each: entry and exit meet those of the neighbors
    constexpr uint32_t order[8] = {0, 1, 3, 2, 6, 7, 5, 4};
    constexpr CurveOrientation inner[8] = {{{2, 0, 1}, 0}, {{1, 2, 0}, 0}, {{1, 2, 0}, 0}, {{0, 1, 2}, 3},
                                           {{1, 2, 0}, 3}, {{0, 1, 2}, 0}, {{1, 2, 0}, 6}, {{2, 0, 1}, 5}};
    for (uint32_t cell = 0; cell < places_.size(); ++cell) {
      const uint32_t c[3] = {cell % side, cell / side % side, cell / side / side};
      const uint32_t parent = coarse.places_[((c[2] / 2) * (side / 2) + c[1] / 2) * (side / 2) + c[0] / 2];
      const CurveOrientation& outer = coarse.within_[parent];
      uint32_t octant = 0;
      for (int k = 0; k < 3; ++k) octant |= ((c[k] ^ outer.flip >> k) & 1u) << outer.axis[k];
      uint32_t at = 0;
      while (order[at] != octant) ++at;
      places_[cell] = static_cast<uint16_t>(8 * parent + at);
      within_[8 * parent + at] = outer.then(inner[at]);
    }
  }

  std::vector<uint16_t> places_;
  std::vector<CurveOrientation> within_;
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
    const Cells cells(boxes[0], n, {});
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
    parallel(cells.count, 64, [&](int64_t first, int64_t last) {
      Scratch scratch;
      for (int64_t k = first; k < last && cells.count > 1; ++k) {
        refine(starts[k], starts[k + 1] - starts[k], cells.curve->within(k), scratch);
      }
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
    Cells(const Box& box, int64_t n, const CurveOrientation& along) {
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
        curve = &HilbertCurve::of(bits);
      }
      for (int k = 0; k < 3; ++k) {
        shift[k] = bits * along.axis[k];
        mask[k] = along.flip >> k & 1 ? side - 1 : 0;
      }
    }

    // the cell of each point, by place along the curve; adds to `counts`
    void count_points(const T* p, int64_t n, uint16_t* cell, int32_t* counts) const {
      for (int64_t i = 0; i < n; ++i) {
        int32_t at = 0;
        for (int k = 0; k < 3 && count > 1; ++k) {
          const int32_t c = static_cast<int32_t>((static_cast<double>(p[3 * i + k]) - low[k]) * scale);
          at |= (std::min(c, side - 1) ^ mask[k]) << shift[k];
        }
        cell[i] = count > 1 ? curve->places()[at] : 0;
        ++counts[cell[i]];
      }
    }

    double low[3], scale;
    int bits = 1, side = 1, shift[3], mask[3];
    int64_t count = 1;
    const HilbertCurve* curve = nullptr;
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
  void refine(int64_t first, int64_t n, const CurveOrientation& along, Scratch& scratch) {
    if (n <= kFew) return;
    T* points = points_ + 3 * first;
    const Cells cells(Box(points, n), n, along);
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
      refine(first + begin, starts[k] - begin, along.then(cells.curve->within(k)), scratch);
    }
  }

  Arena arena_;
  T* points_;
  int32_t* id_;
};

}  // namespace symkern
