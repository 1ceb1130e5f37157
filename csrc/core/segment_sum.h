// Sums over contiguous segments in a fixed order: the result does not depend on threads, blocks or devices.
#pragma once

#include <cstdint>

#include "core/macros.h"

namespace symkern {

// Two levels: items are first summed in tiles of kSumTile, wherever segments begin and end; a segment is then its head,
// its whole tiles and its tail. A thread adds at most 2 * kSumTile items and one number per tile.
constexpr int64_t kSumTile = 256;

// How many blocks of `size` items hold n.
SYMKERN_HD int64_t blocks_of(int64_t n, int64_t size) { return (n + size - 1) / size; }

template <int width>
struct TileSum {
  const double* items;  // (n, width)
  double* tiles;        // (ceil(n / kSumTile), width)
  int64_t n;

  SYMKERN_HD void operator()(int64_t t) const {
    double sum[width] = {};
    const int64_t end = (t + 1) * kSumTile < n ? (t + 1) * kSumTile : n;
    for (int64_t i = t * kSumTile; i < end; ++i) {
      for (int c = 0; c < width; ++c) sum[c] += items[i * width + c];
    }
    for (int c = 0; c < width; ++c) tiles[t * width + c] = sum[c];
  }
};

template <int width, class T>
SYMKERN_HD void sum_items(const double* items, const double* tiles, int64_t begin, int64_t end, T* out) {
  double sum[width] = {};
  for (int64_t i = begin; i < end;) {
    const bool whole = i % kSumTile == 0 && i + kSumTile <= end;
    const double* from = whole ? tiles + i / kSumTile * width : items + i * width;
    for (int c = 0; c < width; ++c) sum[c] += from[c];
    i += whole ? kSumTile : 1;
  }
  for (int c = 0; c < width; ++c) out[c] = static_cast<T>(sum[c]);
}

template <int width, class T>
struct SegmentSum {
  const double* items;
  const double* tiles;
  const int64_t* ptr;  // segment s: items ptr[s] .. ptr[s + 1], as far as there are items
  int64_t n;
  T* out;  // (segments, width)

  SYMKERN_HD void operator()(int64_t s) const {
    const int64_t begin = ptr[s] < 0 ? 0 : ptr[s], end = ptr[s + 1] > n ? n : ptr[s + 1];
    sum_items<width>(items, tiles, begin, end, out + s * width);
  }
};

template <int width, class T>
struct WholeSum {
  const double* items;
  const double* tiles;
  int64_t n;
  T* out;  // (width)

  SYMKERN_HD void operator()(int64_t) const { sum_items<width>(items, tiles, 0, n, out); }
};

}  // namespace symkern
