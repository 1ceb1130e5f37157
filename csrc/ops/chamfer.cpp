// Chamfer distances: the search for nearest points, and what is differentiated once they are known.
//
// Given the indices the distance is a quadratic form: with d_i(x, y) = x_i - y_index(i), linear in x and y,
//   search(x, y)_b         = sum over i in b of d_i(x, y) . d_i(x, y)
//   product(x, y, u, v)_b  = sum over i in b of d_i(x, y) . d_i(u, v)
//   backward(g, x, y)      = (g_b d_i(x, y) for each i, minus their sum over the i of each j)
// and each derivative is made of the last two, to any order.
#include "ops/chamfer.h"

#include "core/macros.h"
#include "core/segment_sum.h"
#include "core/vec3.h"
#include "torch/shim.h"

#if defined(__CUDACC__)
#include "ops/chamfer_cuda.cuh"
#else
#include "ops/chamfer_host.h"
#endif

namespace symkern {
namespace {

#if defined(__CUDACC__)
constexpr int64_t kRows = 1;
#else
constexpr int64_t kRows = 64;  // rows that share one search for their structure
#endif

// f(row, structure) for a block of rows
template <class F>
SYMKERN_HD void for_rows(const Ragged& ragged, int64_t block, const F& f) {
  const int64_t begin = block * kRows, end = begin + kRows < ragged.rows ? begin + kRows : ragged.rows;
  for (int64_t row = begin, s = ragged.owner(begin); row < end; ++row) {
    while (s < ragged.count && ragged.bound(s + 1) <= row) ++s;
    f(row, s);
  }
}

template <class T>
struct Pairs {
  const T* x;            // (N, 3)
  const T* y;            // (M, 3), or nullptr: zero
  const int64_t* index;  // (N)
  int64_t num_y;

  // NaN where there is no nearest point
  SYMKERN_HD Vec3 difference(int64_t i) const {
    const int64_t j = index[i];
    if (static_cast<uint64_t>(j) >= static_cast<uint64_t>(num_y)) {
      const double nan = std::numeric_limits<double>::quiet_NaN();
      return {nan, nan, nan};
    }
    return y == nullptr ? load_vec3(x + 3 * i) : load_vec3(x + 3 * i) - load_vec3(y + 3 * j);
  }
};

template <class T>
struct Products {
  Pairs<T> a, b;
  bool squares;  // b is a
  double* out;   // (N)
  SYMKERN_HD double at(int64_t i) const {
    const Vec3 d = a.difference(i);
    return dot(d, squares ? d : b.difference(i));
  }
  SYMKERN_HD void operator()(int64_t i) const { out[i] = at(i); }
};

template <class T>
SYMKERN_HD void store_vec3(T* p, Vec3 v) {
  p[0] = static_cast<T>(v.x), p[1] = static_cast<T>(v.y), p[2] = static_cast<T>(v.z);
}

template <class T>
struct QueryGradient {
  Pairs<T> pairs;
  Ragged xs;
  const T* grad;  // (B)
  T* out;         // (N, 3)

  SYMKERN_HD void operator()(int64_t block) const {
    for_rows(xs, block, [&](int64_t i, int64_t s) {
      store_vec3(out + 3 * i, s < xs.count ? double{grad[s]} * pairs.difference(i) : Vec3{0, 0, 0});
    });
  }
};

// Over the queries of each target, in their order.
template <class T>
struct TargetGradient {
  Pairs<T> pairs;
  Ragged xs, ys;
  const T* grad;         // (B)
  const int64_t* order;  // (N) queries by target
  const int64_t* start;  // (M + 1)
  T* out;                // (M, 3)

  SYMKERN_HD void operator()(int64_t block) const {
    for_rows(ys, block, [&](int64_t j, int64_t s) {
      Vec3 sum{0, 0, 0};
      const int64_t begin = start[j] < 0 ? 0 : start[j], end = start[j + 1] < xs.rows ? start[j + 1] : xs.rows;
      for (int64_t k = begin; k < end; ++k) {
        if (static_cast<uint64_t>(order[k]) < static_cast<uint64_t>(xs.rows)) sum = sum + pairs.difference(order[k]);
      }
      store_vec3(out + 3 * j, s < ys.count ? -double{grad[s]} * sum : Vec3{0, 0, 0});
    });
  }
};

#if !defined(__CUDACC__)
template <class T>
struct TileProducts {
  Products<T> products;
  TileSum<1> sum;
  int64_t n;

  void operator()(int64_t tile) const {
    for (int64_t i = tile * kSumTile; i < std::min(n, (tile + 1) * kSumTile); ++i) products(i);
    sum(tile);
  }
};

// What SegmentSum finds for structures of less than a tile, in one pass.
template <class T>
struct StructureSum {
  Products<T> products;
  Ragged xs;
  T* out;  // (B)

  void operator()(int64_t s) const {
    double sum = 0;
    for (int64_t i = xs.ptr[s]; i < xs.ptr[s + 1]; ++i) sum += products.at(i);
    out[s] = static_cast<T>(sum);
  }
};
#endif

// ---- arguments ------------------------------------------------------------------------------------------------------

void check_points(const Tensor& t, const char* name, const Tensor& like, const char* like_name) {
  check_float(t, name);
  check_shape(t, name, {-1, 3}, "(points, 3)");
  check_same_device(t, name, like, like_name);
  if (t.scalar_type() != like.scalar_type()) {
    bad_argument(name, " must be ", dtype_name(like.scalar_type()), ", as ", like_name, " is, got ",
                 dtype_name(t.scalar_type()));
  }
}

void check_long(const Tensor& t, const char* name, int64_t size, const char* expected, const Tensor& like) {
  check_dtype(t, name, ScalarType::Long);
  check_same_device(t, name, like, "x");
  if (t.dim() != 1 || t.size(0) != size) {
    bad_argument(name, " must have shape ", expected, " = (", size, ",), got ", shape_of(t));
  }
}

Ragged check_ptr(const Tensor& ptr, const char* name, const char* points, int64_t rows, const Tensor& like) {
  check_dtype(ptr, name, ScalarType::Long);
  check_same_device(ptr, name, like, "x");
  if (ptr.dim() != 1 || ptr.size(0) < 1) bad_argument(name, " must have shape (B + 1,), got ", shape_of(ptr));
  const Ragged ragged{ptr.const_data_ptr<int64_t>(), ptr.size(0) - 1, rows};
#if !defined(__CUDACC__)
  for (int64_t s = 0, last = 0; s <= ragged.count; last = ragged.ptr[s++]) {
    if (ragged.ptr[s] < last || ragged.ptr[s] > rows || (s == 0 && last != ragged.ptr[0]) ||
        (s == ragged.count && ragged.ptr[s] != rows)) {
      bad_argument(name, " must rise from 0 to the number of points of ", points, ", ", rows, ", but ", name, "[", s,
                   "] = ", ragged.ptr[s]);
    }
  }
#else
  (void)points;
#endif
  return ragged;
}

// Points and structures of both sides, contiguous.
struct Clouds {
  Clouds(const Tensor& x_in, const Tensor& y_in, const Tensor& x_ptr_in, const Tensor& y_ptr_in)
      : x(as_contiguous(x_in)), y(as_contiguous(y_in)), x_ptr(as_contiguous(x_ptr_in)), y_ptr(as_contiguous(y_ptr_in)) {
    check_points(x, "x", x, "x");
    check_points(y, "y", x, "x");
    xs = check_ptr(x_ptr, "x_ptr", "x", x.size(0), x);
    ys = check_ptr(y_ptr, "y_ptr", "y", y.size(0), x);
    if (xs.count != ys.count) {
      bad_argument("y_ptr must have as many structures as x_ptr, ", xs.count, ", got ", ys.count);
    }
  }

  Tensor x, y, x_ptr, y_ptr;
  Ragged xs{}, ys{};
};

// ---- ops ------------------------------------------------------------------------------------------------------------

// Products of the differences of x - y and of u - v, summed over each structure; without u those of x - y.
Tensor sum_products(const Clouds& clouds, const OptionalTensor& u, const OptionalTensor& v, const Tensor& index,
                    const Launch& launch) {
  const int64_t n = clouds.xs.rows, m = clouds.ys.rows, structures = clouds.xs.count, tiles = blocks_of(n, kSumTile);
  Tensor out = empty({structures}, clouds.x.scalar_type(), clouds.x);
  dispatch_float(clouds.x.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    const int64_t* j = index.const_data_ptr<int64_t>();
    const Pairs<T> a{clouds.x.const_data_ptr<T>(), clouds.y.const_data_ptr<T>(), j, m};
    const Pairs<T> b = u.has_value() ? Pairs<T>{u->const_data_ptr<T>(), data_or_null<T>(v), j, m} : a;
#if !defined(__CUDACC__)
    if (clouds.xs.largest() < kSumTile) {
      launch.for_each(structures, std::max<int64_t>(1, 4096 * structures / std::max<int64_t>(1, n)),
                      StructureSum<T>{{a, b, !u.has_value(), nullptr}, clouds.xs, out.mutable_data_ptr<T>()});
      return;
    }
#endif
    Tensor sums = empty({n + tiles}, ScalarType::Double, clouds.x);
    double* items = sums.mutable_data_ptr<double>();
    const Products<T> products{a, b, !u.has_value(), items};
    const TileSum<1> tile_sum{items, items + n, n};
#if defined(__CUDACC__)
    launch.for_each(n, 4096, products);
    launch.for_each(tiles, 64, tile_sum);
#else
    launch.for_each(tiles, 64, TileProducts<T>{products, tile_sum, n});  // both at once
#endif
    launch.for_each(structures, 1024, SegmentSum<1, T>{items, items + n, clouds.xs.ptr, n, out.mutable_data_ptr<T>()});
  });
  return out;
}

// Distance of each structure, index of each query.
std::tuple<Tensor, Tensor> chamfer_search(const Tensor& x, const Tensor& y, const Tensor& x_ptr, const Tensor& y_ptr,
                                          const OptionalTensor& x_type, const OptionalTensor& y_type) {
  const Clouds clouds(x, y, x_ptr, y_ptr);
  if (x_type.has_value() != y_type.has_value()) bad_argument("x_type and y_type must be given together");
  OptionalTensor x_types, y_types;
  if (x_type.has_value()) {
    check_long(*x_type, "x_type", clouds.xs.rows, "(N,)", clouds.x);
    check_long(*y_type, "y_type", clouds.ys.rows, "(M,)", clouds.x);
    x_types = as_contiguous(*x_type), y_types = as_contiguous(*y_type);
  }
  Tensor index = empty({clouds.xs.rows}, ScalarType::Long, clouds.x);
  const Launch launch(clouds.x);
  dispatch_float(clouds.x.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    const NearestProblem<T> problem{clouds.x.const_data_ptr<T>(),
                                    clouds.y.const_data_ptr<T>(),
                                    clouds.xs,
                                    clouds.ys,
                                    data_or_null<int64_t>(x_types),
                                    data_or_null<int64_t>(y_types),
                                    index.mutable_data_ptr<int64_t>()};
#if defined(__CUDACC__)
    std::vector<Tensor> scratch;
    const auto memory = [&](size_t bytes) {
      scratch.push_back(empty({static_cast<int64_t>(bytes)}, ScalarType::Byte, clouds.x));
      return scratch.back().mutable_data_ptr();
    };
    nearest_cuda::find_nearest(problem, memory, launch.stream());
#else
    NearestSearch<T>(problem, launch.parallel()).run();
#endif
  });
  return {sum_products(clouds, std::nullopt, std::nullopt, index, launch), index};
}

// Without v it is zero.
Tensor chamfer_product(const Tensor& x, const Tensor& y, const Tensor& u, const OptionalTensor& v, const Tensor& index,
                       const Tensor& x_ptr, const Tensor& y_ptr) {
  const Clouds clouds(x, y, x_ptr, y_ptr);
  const int64_t n = clouds.xs.rows, m = clouds.ys.rows;
  check_long(index, "index", n, "(N,)", clouds.x);
  check_points(u, "u", clouds.x, "x");
  if (u.size(0) != n) bad_argument("u must have the shape of x, got ", shape_of(u));
  OptionalTensor vs;
  if (v.has_value()) {
    check_points(*v, "v", clouds.x, "x");
    if (v->size(0) != m) bad_argument("v must have the shape of y, got ", shape_of(*v));
    vs = as_contiguous(*v);
  }
  return sum_products(clouds, as_contiguous(u), vs, as_contiguous(index), Launch(clouds.x));
}

// The gradient of y is empty unless `order`, the queries by target, is given.
std::tuple<Tensor, Tensor> chamfer_product_backward(const Tensor& grad, const Tensor& x, const OptionalTensor& y,
                                                    const Tensor& index, const Tensor& x_ptr, const Tensor& y_ptr,
                                                    const OptionalTensor& order, const OptionalTensor& start,
                                                    int64_t num_y) {
  check_points(x, "x", x, "x");
  const Tensor xc = as_contiguous(x), px = as_contiguous(x_ptr), py = as_contiguous(y_ptr), g = as_contiguous(grad);
  OptionalTensor yc;
  if (y.has_value()) {
    check_points(*y, "y", xc, "x");
    if (y->size(0) != num_y) bad_argument("y must have shape (num_y, 3) with num_y = ", num_y, ", got ", shape_of(*y));
    yc = as_contiguous(*y);
  }
  if (num_y < 0) bad_argument("num_y must not be negative, got ", num_y);
  const Ragged xs = check_ptr(px, "x_ptr", "x", xc.size(0), xc), ys = check_ptr(py, "y_ptr", "y", num_y, xc);
  check_dtype(g, "grad", xc.scalar_type());
  check_same_device(g, "grad", xc, "x");
  if (g.dim() != 1 || g.size(0) != xs.count || xs.count != ys.count) {
    bad_argument("grad, x_ptr and y_ptr must have one element per structure, got ", g.size(0), ", ", xs.count, ", ",
                 ys.count);
  }
  check_long(index, "index", xs.rows, "(N,)", xc);
  const bool by_target = order.has_value();
  if (by_target != start.has_value()) bad_argument("order and start must be given together");
  OptionalTensor by, from;
  if (by_target) {
    check_long(*order, "order", xs.rows, "(N,)", xc);
    check_long(*start, "start", num_y + 1, "(M + 1,)", xc);
    by = as_contiguous(*order), from = as_contiguous(*start);
  }
  const Tensor nearest = as_contiguous(index);
  Tensor grad_x = empty({xs.rows, 3}, xc.scalar_type(), xc);
  Tensor grad_y = empty({by_target ? num_y : 0, 3}, xc.scalar_type(), xc);
  const Launch launch(xc);
  dispatch_float(xc.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    const Pairs<T> pairs{xc.const_data_ptr<T>(), data_or_null<T>(yc), nearest.const_data_ptr<int64_t>(), num_y};
    const T* weight = g.const_data_ptr<T>();
    launch.for_each(blocks_of(xs.rows, kRows), 64, QueryGradient<T>{pairs, xs, weight, grad_x.mutable_data_ptr<T>()});
    if (by_target) {
      launch.for_each(blocks_of(num_y, kRows), 64,
                      TargetGradient<T>{pairs, xs, ys, weight, by->const_data_ptr<int64_t>(),
                                        from->const_data_ptr<int64_t>(), grad_y.mutable_data_ptr<T>()});
    }
  });
  return {grad_x, grad_y};
}

}  // namespace

SYMKERN_OP(chamfer_search,
           "(Tensor x, Tensor y, Tensor x_ptr, Tensor y_ptr, Tensor? x_type, Tensor? y_type) -> "
           "(Tensor, Tensor)",
           chamfer_search)
SYMKERN_OP(chamfer_product,
           "(Tensor x, Tensor y, Tensor u, Tensor? v, Tensor index, Tensor x_ptr, Tensor y_ptr) -> Tensor",
           chamfer_product)
SYMKERN_OP(chamfer_product_backward,
           "(Tensor grad, Tensor x, Tensor? y, Tensor index, Tensor x_ptr, Tensor y_ptr, Tensor? order, Tensor? start, "
           "SymInt num_y) -> (Tensor, Tensor)",
           chamfer_product_backward)

}  // namespace symkern
