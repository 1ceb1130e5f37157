// Spherical basis of triplets, and its first two derivatives in distances and angles. Radial functions are evaluated
// once per edge and order of derivative; a triplet k->j->i then multiplies those of edge k->j by Legendre polynomials.
#include "torch/shim.h"  // before triplets.h, which uses its words

#include "ops/spherical_basis.h"
#include "torch/triplets.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <type_traits>

namespace symkern {
namespace {

template <class T>
struct Basis {
  TripletIndex tri;
  const T* angle;       // (T)
  const T* recurrence;  // (L, 2)
  const T* radial;      // (E, orders, L N)
  int64_t num_spherical, num_radial;

  SYMKERN_HD int64_t columns() const { return num_spherical * num_radial; }
};

// radial > 0: num_radial, when it is known at compile time, so that loops over it are unrolled
template <int radial, class T>
SYMKERN_HD int64_t radial_count(const Basis<T>& in) {
  return radial > 0 ? radial : in.num_radial;
}

// f(std::integral_constant<int, N>) for the N that models use (DimeNet 6, GemNet 7, ...), 0 for others.
template <class F>
void dispatch_radial(int64_t num_radial, const F& f) {
  switch (num_radial) {
    case 6:
      return f(std::integral_constant<int, 6>{});
    case 7:
      return f(std::integral_constant<int, 7>{});
    case 8:
      return f(std::integral_constant<int, 8>{});
    default:
      return f(std::integral_constant<int, 0>{});
  }
}

#if defined(__CUDACC__)

template <class T, int radial>
struct Forward {
  Basis<T> in;
  T* out;  // (T, L N)

  int64_t calls() const { return in.tri.count * in.columns(); }

  SYMKERN_HD void operator()(int64_t i) const {
    const int64_t t = i / in.columns(), c = i % in.columns(), n = radial_count<radial>(in);
    if (in.tri.padding(t)) {
      out[i] = 0;
      return;
    }
    auto y = legendre<1>(in.angle[t], in.recurrence);
    for (int64_t l = c / n; l > 0; --l) y.next();
    out[i] = in.radial[in.tri.kj[t] * in.columns() + c] * y.f;
  }
};

#else

// Vectors that every x86-64 and ARM processor has. Not a template alias: as an argument that would lose its attribute.
template <class T>
struct Short;
template <>
struct Short<float> {
  typedef float Vector __attribute__((vector_size(16)));
};
template <>
struct Short<double> {
  typedef double Vector __attribute__((vector_size(16)));
};

// A call fills as many triplets as a vector has lanes.
template <class T, int radial>
struct Forward {
  using Vector = typename Short<T>::Vector;
  static constexpr int64_t kBlock = 16 / sizeof(T);

  Basis<T> in;
  T* out;  // (T, L N)

  int64_t calls() const { return (in.tri.count + kBlock - 1) / kBlock; }

  void operator()(int64_t block) const {
    const int64_t begin = block * kBlock, columns = in.columns(), n = radial_count<radial>(in);
    const int64_t real = in.tri.ptr[in.tri.num_edges], end = std::min(begin + kBlock, in.tri.count);
    const int64_t filled = std::clamp(real - begin, int64_t{0}, end - begin);
    Vector cosine{};
    const T* from[kBlock];
    for (int64_t b = 0; b < filled; ++b) {
      cosine[b] = std::cos(in.angle[begin + b]);
      from[b] = in.radial + in.tri.kj[begin + b] * columns;
    }
    T* to = out + begin * columns;
    Legendre<Vector, T, 1> y(cosine, Vector{}, in.recurrence);
    for (int64_t first = 0; first < columns; first += n, y.next()) {
      for (int64_t b = 0; b < filled; ++b) {
        const T scale = y.f[b];
        for (int64_t c = first; c < first + n; ++c) to[b * columns + c] = from[b][c] * scale;
      }
    }
    std::fill(to + filled * columns, to + (end - begin) * columns, T(0));
  }
};

#endif

// Gradient of one triplet's angle, and its share of the gradient of its distance.
template <class T, int radial>
struct Backward {
  Basis<T> in;
  const T* grad;     // (T, L N)
  T* out_angle;      // (T)
  double* distance;  // (T)

  SYMKERN_HD void operator()(int64_t t) const {
    double by_angle = 0, by_distance = 0;
    if (!in.tri.padding(t)) {
      const int64_t n = radial_count<radial>(in);
      const T* g = grad + t * in.columns();
      const T* r = in.radial + in.tri.kj[t] * 2 * in.columns();
      const T* r1 = r + in.columns();
      auto y = legendre<2>(in.angle[t], in.recurrence);
      for (int64_t l = 0; l < in.num_spherical; ++l, g += n, r += n, r1 += n, y.next()) {
        T s = 0, s1 = 0;
        for (int64_t c = 0; c < n; ++c) s += g[c] * r[c], s1 += g[c] * r1[c];
        by_angle += static_cast<double>(s) * y.d1;
        by_distance += static_cast<double>(s1) * y.f;
      }
    }
    out_angle[t] = static_cast<T>(by_angle);
    distance[t] = by_distance;
  }
};

// Adjoint of Backward for directions of distances and angles.
template <class T, int radial>
struct DoubleBackward {
  Basis<T> in;
  const T* grad;       // (T, L N)
  const T* towards_d;  // (E), or nullptr: zero
  const T* towards_a;  // (T), or nullptr: zero
  T* out_grad;         // (T, L N)
  T* out_angle;        // (T)
  double* distance;    // (T)

  SYMKERN_HD void operator()(int64_t t) const {
    double by_angle = 0, by_distance = 0;
    const int64_t n = radial_count<radial>(in), columns = in.columns();
    T* to = out_grad + t * columns;
    if (in.tri.padding(t)) {
      for (int64_t c = 0; c < columns; ++c) to[c] = 0;
    } else {
      const int64_t e = in.tri.kj[t];
      const T hd = towards_d != nullptr ? towards_d[e] : T(0), ha = towards_a != nullptr ? towards_a[t] : T(0);
      const T* g = grad + t * columns;
      const T* r = in.radial + e * 3 * columns;
      auto y = legendre<3>(in.angle[t], in.recurrence);
      for (int64_t l = 0; l < in.num_spherical; ++l, g += n, r += n, to += n, y.next()) {
        T s = 0, s1 = 0, s2 = 0;
        for (int64_t c = 0; c < n; ++c) {
          const T r0 = r[c], r1 = r[columns + c], r2 = r[2 * columns + c];
          s += g[c] * r0, s1 += g[c] * r1, s2 += g[c] * r2;
          to[c] = hd * r1 * y.f + ha * r0 * y.d1;
        }
        by_angle += static_cast<double>(hd) * s1 * y.d1 + static_cast<double>(ha) * s * y.d2;
        by_distance += static_cast<double>(hd) * s2 * y.f + static_cast<double>(ha) * s1 * y.d1;
      }
    }
    out_angle[t] = static_cast<T>(by_angle);
    distance[t] = by_distance;
  }
};

// Sums over the triplets of each edge k->j, in stored order.
template <class T>
struct SumByEdge {
  TripletIndex tri;
  const double* values;  // (T)
  T* out;                // (E)
  SYMKERN_HD void operator()(int64_t e) const {
    double sum = 0;
    for (int64_t k = tri.kj_ptr[e]; k < tri.kj_ptr[e + 1]; ++k) sum += values[tri.kj_order[k]];
    out[e] = static_cast<T>(sum);
  }
};

#if !defined(__CUDACC__)
// On the device an error would have to wait for it; NaN comes out as NaN there.
template <class T>
void check_values(const Launch& launch, const Tensor& t, const char* name, const char* expected, T least, T most) {
  const T* x = t.const_data_ptr<T>();
  launch.for_each((t.size(0) + 4095) / 4096, 4, [&](int64_t block) {
    const int64_t begin = block * 4096, end = begin + 4096 < t.size(0) ? begin + 4096 : t.size(0);
    int good = 1;
    for (int64_t i = begin; i < end; ++i) good &= (x[i] >= least) & (x[i] <= most);
    for (int64_t i = begin; !good && i < end; ++i) {
      if (!(x[i] >= least && x[i] <= most))
        bad_argument(name, " must be ", expected, ", but ", name, "[", i, "] = ", x[i]);
    }
  });
}
#endif

// Arguments that all orders share, checked; and the radial functions up to an order.
struct Problem {
  TripletArguments tri;
  Tensor d, angle, table, recurrence;
  RadialShape<double> shape;
  int64_t num_radial;

  Problem(const TripletArguments& triplets, const Tensor& distances, const Tensor& angles, const Tensor& polynomials,
          const Tensor& legendre, double cutoff, int64_t radial, int64_t exponent)
      : tri(triplets),
        d(as_contiguous(distances)),
        angle(as_contiguous(angles)),
        table(as_contiguous(polynomials)),
        recurrence(as_contiguous(legendre)),
        shape(cutoff, EnvelopeKind::polynomial, static_cast<int>(exponent)),
        num_radial(radial) {
    check_float(d, "d");
    tri.check_length(d, "d", "E", tri.num_edges(), type());
    tri.check_length(angle, "angle", "T", tri.count(), type());
    check_dtype(table, "table", type());
    check_dtype(recurrence, "recurrence", type());
    check_same_device(table, "table", d, "d");
    check_same_device(recurrence, "recurrence", d, "d");
    check_shape(recurrence, "recurrence", {-1, 2}, "(L, 2)");
    if (!(cutoff > 0 && cutoff < 1e300)) bad_argument("cutoff must be positive and finite, got ", cutoff);
    if (exponent < 1 || exponent > 1000) bad_argument("exponent must be in 1 .. 1000, got ", exponent);
    if (num_radial < 1 || recurrence.size(0) < 1) bad_argument("num_radial and num_spherical must be at least 1");
    if (table.dim() != 3 || table.size(0) < 1 || table.size(2) % 8 != 0 || table.size(2) < columns()) {
      bad_argument("table must have shape (intervals, degree + 1, columns) with a multiple of 8 of at least ",
                   columns(), " columns, got ", shape_of(table));
    }
  }

  ScalarType type() const { return d.scalar_type(); }
  int64_t columns() const { return recurrence.size(0) * num_radial; }
  Tensor rows() const { return empty({tri.count(), columns()}, type(), d); }
  void check_grad(const Tensor& grad) const { tri.check_rows(grad, "grad", "T", tri.count(), columns(), type()); }

  template <class T, int orders>
  Basis<T> basis(const Launch& launch, Tensor& radial) const {
    radial = empty({tri.num_edges(), orders, columns()}, type(), d);
    const RadialFunctions<T, orders> functions{d.const_data_ptr<T>(),
                                               table.const_data_ptr<T>(),
                                               table.size(0),
                                               table.size(1),
                                               table.size(2),
                                               columns(),
                                               shape,
                                               radial.mutable_data_ptr<T>()};
    launch.for_each(tri.num_edges() * functions.parts(), 64, functions);
    return {tri.get(),
            angle.const_data_ptr<T>(),
            recurrence.const_data_ptr<T>(),
            radial.const_data_ptr<T>(),
            recurrence.size(0),
            num_radial};
  }
};

Tensor spherical_basis(const Tensor& d, const Tensor& angle, const Tensor& index, const Tensor& ptr,
                       const OptionalTensor&, const OptionalTensor&, const Tensor& table, const Tensor& recurrence,
                       double cutoff, int64_t num_radial, int64_t exponent) {
  const Problem p(TripletArguments(index, ptr), d, angle, table, recurrence, cutoff, num_radial, exponent);
  Tensor out = p.rows(), radial = p.d;
  const Launch launch(p.d);
  dispatch_float(p.type(), [&](auto zero) {
    using T = decltype(zero);
#if !defined(__CUDACC__)
    constexpr T largest = std::numeric_limits<T>::max();
    check_values<T>(launch, p.d, "d", "finite and not negative", T(0), largest);
    check_values<T>(launch, p.angle, "angle", "finite", -largest, largest);
#endif
    const Basis<T> basis = p.basis<T, 1>(launch, radial);
    dispatch_radial(num_radial, [&](auto radial_columns) {
      const Forward<T, decltype(radial_columns)::value> forward{basis, out.mutable_data_ptr<T>()};
      launch.for_each(forward.calls(), 256, forward);
    });
  });
  return out;
}

std::tuple<Tensor, Tensor> spherical_basis_backward(const Tensor& grad, const Tensor& d, const Tensor& angle,
                                                    const Tensor& index, const Tensor& ptr, const Tensor& kj_order,
                                                    const Tensor& kj_ptr, const Tensor& table, const Tensor& recurrence,
                                                    double cutoff, int64_t num_radial, int64_t exponent) {
  const TripletArguments tri(index, ptr, kj_order, kj_ptr);
  const Problem p(tri, d, angle, table, recurrence, cutoff, num_radial, exponent);
  p.check_grad(grad);
  const Tensor g = as_contiguous(grad);
  Tensor out_d = empty({tri.num_edges()}, p.type(), d), out_angle = empty({tri.count()}, p.type(), d);
  Tensor shares = empty({tri.count()}, ScalarType::Double, d), radial = p.d;
  double* share = shares.mutable_data_ptr<double>();
  const Launch launch(p.d);
  dispatch_float(p.type(), [&](auto zero) {
    using T = decltype(zero);
    const Basis<T> basis = p.basis<T, 2>(launch, radial);
    dispatch_radial(num_radial, [&](auto radial_columns) {
      launch.for_each(tri.count(), 512,
                      Backward<T, decltype(radial_columns)::value>{basis, g.const_data_ptr<T>(),
                                                                   out_angle.mutable_data_ptr<T>(), share});
    });
    launch.for_each(tri.num_edges(), 512, SumByEdge<T>{tri.get(), share, out_d.mutable_data_ptr<T>()});
  });
  return {out_d, out_angle};
}

std::tuple<Tensor, Tensor, Tensor> spherical_basis_double_backward(
    const OptionalTensor& towards_d, const OptionalTensor& towards_angle, const Tensor& grad, const Tensor& d,
    const Tensor& angle, const Tensor& index, const Tensor& ptr, const Tensor& kj_order, const Tensor& kj_ptr,
    const Tensor& table, const Tensor& recurrence, double cutoff, int64_t num_radial, int64_t exponent) {
  const TripletArguments tri(index, ptr, kj_order, kj_ptr);
  const Problem p(tri, d, angle, table, recurrence, cutoff, num_radial, exponent);
  p.check_grad(grad);
  if (towards_d.has_value()) tri.check_length(*towards_d, "towards_d", "E", tri.num_edges(), p.type());
  if (towards_angle.has_value()) tri.check_length(*towards_angle, "towards_angle", "T", tri.count(), p.type());
  const Tensor g = as_contiguous(grad);
  const OptionalTensor hd = towards_d.has_value() ? OptionalTensor(as_contiguous(*towards_d)) : std::nullopt;
  const OptionalTensor ha = towards_angle.has_value() ? OptionalTensor(as_contiguous(*towards_angle)) : std::nullopt;
  Tensor out = p.rows(), radial = p.d;
  Tensor out_d = empty({tri.num_edges()}, p.type(), d), out_angle = empty({tri.count()}, p.type(), d);
  Tensor shares = empty({tri.count()}, ScalarType::Double, d);
  double* share = shares.mutable_data_ptr<double>();
  const Launch launch(p.d);
  dispatch_float(p.type(), [&](auto zero) {
    using T = decltype(zero);
    const Basis<T> basis = p.basis<T, 3>(launch, radial);
    dispatch_radial(num_radial, [&](auto radial_columns) {
      launch.for_each(tri.count(), 256,
                      DoubleBackward<T, decltype(radial_columns)::value>{
                          basis, g.const_data_ptr<T>(), data_or_null<T>(hd), data_or_null<T>(ha),
                          out.mutable_data_ptr<T>(), out_angle.mutable_data_ptr<T>(), share});
    });
    launch.for_each(tri.num_edges(), 512, SumByEdge<T>{tri.get(), share, out_d.mutable_data_ptr<T>()});
  });
  return {out, out_d, out_angle};
}

}  // namespace

SYMKERN_OP(spherical_basis,
           "(Tensor d, Tensor angle, Tensor index, Tensor ptr, Tensor? kj_order, Tensor? kj_ptr, Tensor table, "
           "Tensor recurrence, float cutoff, int num_radial, int exponent) -> Tensor",
           spherical_basis)
SYMKERN_OP(spherical_basis_backward,
           "(Tensor grad, Tensor d, Tensor angle, Tensor index, Tensor ptr, Tensor kj_order, Tensor kj_ptr, "
           "Tensor table, Tensor recurrence, float cutoff, int num_radial, int exponent) -> (Tensor, Tensor)",
           spherical_basis_backward)
SYMKERN_OP(spherical_basis_double_backward,
           "(Tensor? towards_d, Tensor? towards_angle, Tensor grad, Tensor d, Tensor angle, Tensor index, Tensor ptr, "
           "Tensor kj_order, Tensor kj_ptr, Tensor table, Tensor recurrence, float cutoff, int num_radial, "
           "int exponent) -> (Tensor, Tensor, Tensor)",
           spherical_basis_double_backward)

}  // namespace symkern
