// Sums (or means) of rows over contiguous segments, and the adjoint, which gives every row its segment's value. Both
// are linear, so they are each other's derivative, to any order.
#include "core/segment_sum.h"

#include "core/macros.h"
#include "torch/shim.h"

#include <algorithm>

namespace symkern {
namespace {

// Columns that one call adds up: neighbors in memory for a host thread, one for a device thread.
#if defined(__CUDACC__)
constexpr int kColumns = 1;
constexpr int64_t kRows = 1;
#else
constexpr int kColumns = 8;
constexpr int64_t kRows = 64;
#endif

// Rows of segment s, inside the values whatever row_ptr holds.
struct Segments {
  const int64_t* row_ptr;
  int64_t count, num_rows;

  SYMKERN_HD int64_t bound(int64_t s) const {
    const int64_t row = row_ptr[s];
    return row < 0 ? 0 : row < num_rows ? row : num_rows;
  }
  SYMKERN_HD double scale(int64_t s, bool mean) const {
    const int64_t rows = bound(s + 1) - bound(s);
    return mean && rows > 1 ? 1 / static_cast<double>(rows) : 1;
  }
};

template <class T>
SYMKERN_HD void add_columns(const T* row, int64_t columns, double* sum) {
  if (columns == kColumns) {
    for (int c = 0; c < kColumns; ++c) sum[c] += row[c];
  } else {
    for (int64_t c = 0; c < columns; ++c) sum[c] += row[c];
  }
}

// Whole tiles of kSumTile rows, where segments are long: see core/segment_sum.h
template <class T>
struct SumTiles {
  const T* values;  // (E, F)
  int64_t width;
  double* tiles;  // (E / kSumTile, F)

  SYMKERN_HD void operator()(int64_t i) const {
    const int64_t blocks = blocks_of(width, kColumns), tile = i / blocks, first = i % blocks * kColumns;
    const int64_t columns = width - first < kColumns ? width - first : kColumns;
    double sum[kColumns] = {};
    for (int64_t e = tile * kSumTile; e < (tile + 1) * kSumTile; ++e) {
      add_columns(values + e * width + first, columns, sum);
    }
    for (int64_t c = 0; c < columns; ++c) tiles[tile * width + first + c] = sum[c];
  }
};

template <class T>
struct SumSegments {
  Segments segments;
  const T* values;      // (E, F)
  const double* tiles;  // or nullptr
  int64_t width;
  bool mean;
  T* out;  // (N, F)

  SYMKERN_HD void operator()(int64_t i) const {
    const int64_t blocks = blocks_of(width, kColumns), s = i / blocks, first = i % blocks * kColumns;
    const int64_t columns = width - first < kColumns ? width - first : kColumns, end = segments.bound(s + 1);
    double sum[kColumns] = {};
    for (int64_t e = segments.bound(s); e < end;) {
      if (tiles != nullptr && e % kSumTile == 0 && e + kSumTile <= end) {
        add_columns(tiles + e / kSumTile * width + first, columns, sum);
        e += kSumTile;
      } else {
        add_columns(values + e * width + first, columns, sum);
        ++e;
      }
    }
    const double scale = segments.scale(s, mean);
    for (int64_t c = 0; c < columns; ++c) out[s * width + first + c] = static_cast<T>(sum[c] * scale);
  }
};

// Row e gets the value of its segment, padding zero. A call fills kRows rows of a block of columns.
template <class T>
struct Expand {
  Segments segments;
  const T* values;  // (N, F)
  int64_t width, block;
  bool mean;
  T* out;  // (E, F)

  SYMKERN_HD void operator()(int64_t i) const {
    const int64_t blocks = blocks_of(width, block), first = i % blocks * block, begin = i / blocks * kRows;
    const int64_t columns = width - first < block ? width - first : block;
    const int64_t end = begin + kRows < segments.num_rows ? begin + kRows : segments.num_rows;
    int64_t low = 0, high = segments.count;  // the first segment that ends beyond `begin`
    while (low < high) {
      const int64_t middle = low + (high - low) / 2;
      if (segments.bound(middle + 1) <= begin) {
        low = middle + 1;
      } else {
        high = middle;
      }
    }
    for (int64_t e = begin, s = low; e < end; ++e) {
      while (s < segments.count && segments.bound(s + 1) <= e) ++s;
      const double scale = s < segments.count ? segments.scale(s, mean) : 0;
      for (int64_t c = first; c < first + columns; ++c) {
        out[e * width + c] = s < segments.count ? static_cast<T>(values[s * width + c] * scale) : T(0);
      }
    }
  }
};

Segments check(const Tensor& values, const char* name, const Tensor& row_ptr, int64_t num_rows) {
  check_float(values, name);
  if (values.dim() != 2) bad_argument(name, " must have shape (rows, F), got ", shape_of(values));
  check_shape(row_ptr, "row_ptr", {-1}, "(N + 1,)");
  check_dtype(row_ptr, "row_ptr", ScalarType::Long);
  check_same_device(row_ptr, "row_ptr", values, name);
  if (row_ptr.size(0) < 1) bad_argument("row_ptr must have shape (N + 1,) with at least one element, got (0,)");
  const Segments segments{row_ptr.const_data_ptr<int64_t>(), row_ptr.size(0) - 1, num_rows};
#if !defined(__CUDACC__)
  for (int64_t s = 0, last = 0; s <= segments.count; last = segments.row_ptr[s++]) {
    if (segments.row_ptr[s] < last || segments.row_ptr[s] > num_rows || (s == 0 && segments.row_ptr[0] != 0)) {
      bad_argument("row_ptr must rise from 0 to at most the number of rows, ", num_rows, ", but row_ptr[", s,
                   "] = ", segments.row_ptr[s]);
    }
  }
#endif
  return segments;
}

Tensor segment_sum(const Tensor& values, const Tensor& row_ptr, bool mean) {
  const Tensor starts = as_contiguous(row_ptr);
  check_shape(values, "values", {-1, -1}, "(E, F)");
  const Segments segments = check(values, "values", starts, values.size(0));
  const int64_t rows = values.size(0), width = values.size(1), blocks = blocks_of(width, kColumns);
  const Tensor v = as_contiguous(values);
  // by shape alone, so that the order of summation is the same everywhere
  const int64_t tiles = rows / kSumTile > segments.count ? rows / kSumTile : 0;
  Tensor out = empty({segments.count, width}, v.scalar_type(), v);
  Tensor partial = empty({tiles, width}, ScalarType::Double, v);
  const Launch launch(v);
  dispatch_float(v.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    const T* in = v.const_data_ptr<T>();
    double* sums = tiles > 0 ? partial.mutable_data_ptr<double>() : nullptr;
    launch.for_each(tiles * blocks, 16, SumTiles<T>{in, width, sums});
    launch.for_each(segments.count * blocks, 256,
                    SumSegments<T>{segments, in, sums, width, mean, out.mutable_data_ptr<T>()});
  });
  return out;
}

Tensor segment_expand(const Tensor& values, const Tensor& row_ptr, int64_t num_rows, bool mean) {
  const Tensor starts = as_contiguous(row_ptr);
  if (num_rows < 0) bad_argument("num_rows must not be negative, got ", num_rows);
  const Segments segments = check(values, "values", starts, num_rows);
  if (values.size(0) != segments.count) {
    bad_argument("values must have shape (N, F) with N = ", segments.count, ", got ", shape_of(values));
  }
  const Tensor v = as_contiguous(values);
  const int64_t width = v.size(1), block = kRows == 1 ? 1 : std::max<int64_t>(width, 1);
  Tensor out = empty({num_rows, width}, v.scalar_type(), v);
  const Launch launch(v);
  dispatch_float(v.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    launch.for_each(blocks_of(num_rows, kRows) * blocks_of(width, block), 32,
                    Expand<T>{segments, v.const_data_ptr<T>(), width, block, mean, out.mutable_data_ptr<T>()});
  });
  return out;
}

}  // namespace

SYMKERN_OP(segment_sum, "(Tensor values, Tensor row_ptr, bool mean) -> Tensor", segment_sum)
SYMKERN_OP(segment_expand, "(Tensor values, Tensor row_ptr, SymInt num_rows, bool mean) -> Tensor", segment_expand)

}  // namespace symkern
