// Spherical basis of triplets, and its first two derivatives in distances and angles. Radial functions are evaluated
// once per edge and order of derivative; a triplet k->j->i then multiplies those of edge k->j by Legendre polynomials.
// Formulas are in spherical_basis.h; here are checks, memory, and the choice of a schedule.
#include "torch/shim.h"  // before triplets.h, which uses its words

#include "ops/spherical_basis_simd.h"
#include "torch/triplets.h"

#include <limits>

namespace symkern {
namespace {

#if defined(__CUDACC__)

// One column of an edge.
template <class S, int orders>
struct Radial {
  SphericalRadial<S> in;
  SYMKERN_HD void operator()(int64_t i) const {
    const int64_t e = i / in.columns;
    const Jet<double> u = envelope_over_x(in.shape, static_cast<double>(in.d[e]));
    radial_columns<OneLane<S>, orders>(in, RadialPlace<S>(in, e, u.f, u.d1, u.d2), e, i % in.columns);
  }
};

// One column of a triplet.
template <class S, int radial>
struct Forward {
  SphericalInput<S> in;
  S* out;
  SYMKERN_HD void operator()(int64_t i) const {
    const int64_t t = i / in.columns(), c = i % in.columns();
    if (t >= *in.real) {
      out[i] = 0;
      return;
    }
    Legendre<S, S, 1> y(in.angle[t], in.recurrence);
    for (int64_t l = c / (radial > 0 ? radial : in.num_radial); l > 0; --l) y.next();
    out[i] = in.radial[in.kj[t] * in.stride + c] * y.f;
  }
};

// One triplet; with one order of the radial functions the angle's gradient alone, with three the double backward.
template <class S, int radial, int orders>
struct Derivative {
  SphericalInput<S> in;
  SphericalDerivative<S> io;
  SYMKERN_HD void operator()(int64_t t) const {
    const SphericalBlock<OneLane<S>, radial> block(in, t);
    if constexpr (orders == 3) {
      block.double_backward(io);
    } else {
      block.template backward<orders == 2, true>(io);
    }
  }
};

// f(std::integral_constant<int, N>) for the variants of radial_variant.
template <class F>
void dispatch_radial(int64_t num_radial, const F& f) {
  switch (radial_variant(num_radial)) {
    case 1:
      return f(std::integral_constant<int, 6>{});
    case 2:
      return f(std::integral_constant<int, 7>{});
    case 3:
      return f(std::integral_constant<int, 8>{});
    default:
      return f(std::integral_constant<int, 0>{});
  }
}

template <int orders, class S>
void run_radial(const Launch& launch, const SphericalRadial<S>& in) {
  launch.for_each(in.edges * in.columns, 0, Radial<S, orders>{in});
}

template <class S>
void run_forward(const Launch& launch, const SphericalInput<S>& in, S* out) {
  dispatch_radial(in.num_radial, [&](auto radial) {
    launch.for_each(in.count * in.columns(), 0, Forward<S, decltype(radial)::value>{in, out});
  });
}

template <int orders, class S>
void run_derivative(const Launch& launch, const SphericalInput<S>& in, const SphericalDerivative<S>& io) {
  dispatch_radial(in.num_radial, [&](auto radial) {
    launch.for_each(in.count, 0, Derivative<S, decltype(radial)::value, orders>{in, io});
  });
}

#else

const SphericalLevel& level() {
#if defined(SYMKERN_ISA_DISPATCH)
  switch (active_isa()) {
    case Isa::avx512:
      return *symkern_spherical_kernels_avx512();
    case Isa::avx2:
      return *symkern_spherical_kernels_avx2();
    case Isa::baseline:
      break;
  }
#endif
  return *symkern_spherical_kernels_baseline();
}

const SphericalKernels<float>& kernels(float) { return level().fp32; }
const SphericalKernels<double>& kernels(double) { return level().fp64; }

template <class S>
const auto& triplet_kernels(const SphericalInput<S>& in) {
  return kernels(S{}).triplets[radial_variant(in.num_radial)];
}

template <int orders, class S>
void run_radial(const Launch& launch, const SphericalRadial<S>& in) {
  const auto kernel = kernels(S{}).radial[orders - 1];
  launch.for_each(spherical_tiles(in.edges), 4, [&](int64_t tile) { kernel(in, tile); });
}

template <class S>
void run_forward(const Launch& launch, const SphericalInput<S>& in, S* out) {
  const auto kernel = triplet_kernels(in).forward;
  launch.for_each(spherical_tiles(in.count), 8, [&](int64_t tile) { kernel(in, tile, out); });
}

template <int orders, class S>
void run_derivative(const Launch& launch, const SphericalInput<S>& in, const SphericalDerivative<S>& io) {
  const auto& found = triplet_kernels(in);
  const auto kernel = orders == 3               ? found.double_backward
                      : orders == 1             ? found.backward_angle
                      : io.out_angle == nullptr ? found.backward_d
                                                : found.backward;
  launch.for_each(spherical_tiles(in.count), 8, [&](int64_t tile) { kernel(in, io, tile); });
}

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

// Sums over the triplets of each edge k->j, in stored order.
template <class T>
struct SumByEdge {
  TripletIndex tri;
  const T* values;  // (T)
  T* out;           // (E)
  SYMKERN_HD void operator()(int64_t e) const {
    double sum = 0;
    for (int64_t k = tri.kj_ptr[e]; k < tri.kj_ptr[e + 1]; ++k) sum += values[tri.kj_order[k]];
    out[e] = static_cast<T>(sum);
  }
};

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
    if (table.dim() != 3 || table.size(0) < 1 || table.size(2) % 16 != 0 || table.size(2) < columns()) {
      bad_argument("table must have shape (intervals, degree + 1, columns) with a multiple of 16 of at least ",
                   columns(), " columns, got ", shape_of(table));
    }
  }

  ScalarType type() const { return d.scalar_type(); }
  int64_t columns() const { return recurrence.size(0) * num_radial; }
  Tensor rows() const { return empty({tri.count(), columns()}, type(), d); }
  void check_grad(const Tensor& grad) const { tri.check_rows(grad, "grad", "T", tri.count(), columns(), type()); }

  // The radial functions and their first orders - 1 derivatives, into `radial`; and what their readers need.
  template <class S, int orders>
  SphericalInput<S> input(const Launch& launch, Tensor& radial) const {
    radial = empty({tri.num_edges(), orders, table.size(2)}, type(), d);
    run_radial<orders>(
        launch, SphericalRadial<S>{d.const_data_ptr<S>(), table.const_data_ptr<S>(), tri.num_edges(), table.size(0),
                                   table.size(1), columns(), table.size(2), shape, radial.mutable_data_ptr<S>()});
    const TripletIndex index = tri.get();
    return {index.kj,
            index.ptr + index.num_edges,
            angle.const_data_ptr<S>(),
            recurrence.const_data_ptr<S>(),
            radial.const_data_ptr<S>(),
            index.count,
            recurrence.size(0),
            num_radial,
            table.size(2)};
  }
};

Tensor spherical_basis(const Tensor& d, const Tensor& angle, const Tensor& index, const Tensor& ptr,
                       const OptionalTensor&, const OptionalTensor&, const Tensor& table, const Tensor& recurrence,
                       double cutoff, int64_t num_radial, int64_t exponent) {
  const Problem p(TripletArguments(index, ptr), d, angle, table, recurrence, cutoff, num_radial, exponent);
  Tensor out = p.rows(), radial = p.d;
  const Launch launch(p.d);
  dispatch_float(p.type(), [&](auto zero) {
    using S = decltype(zero);
#if !defined(__CUDACC__)
    constexpr S largest = std::numeric_limits<S>::max();
    check_values<S>(launch, p.d, "d", "finite and not negative", S(0), largest);
    check_values<S>(launch, p.angle, "angle", "finite", -largest, largest);
#endif
    run_forward(launch, p.input<S, 1>(launch, radial), out.mutable_data_ptr<S>());
  });
  return out;
}

std::tuple<Tensor, Tensor> spherical_basis_backward(const Tensor& grad, const Tensor& d, const Tensor& angle,
                                                    const Tensor& index, const Tensor& ptr, const Tensor& kj_order,
                                                    const Tensor& kj_ptr, const Tensor& table, const Tensor& recurrence,
                                                    double cutoff, int64_t num_radial, int64_t exponent, bool need_d,
                                                    bool need_angle) {
  const TripletArguments tri(index, ptr, kj_order, kj_ptr);
  const Problem p(tri, d, angle, table, recurrence, cutoff, num_radial, exponent);
  p.check_grad(grad);
  const Tensor g = as_contiguous(grad);
  Tensor out_d = empty({need_d ? tri.num_edges() : 0}, p.type(), d);
  Tensor out_angle = empty({need_angle ? tri.count() : 0}, p.type(), d);
  Tensor shares = empty({need_d ? tri.count() : 0}, p.type(), d), radial = p.d;
  const Launch launch(p.d);
  dispatch_float(p.type(), [&](auto zero) {
    using S = decltype(zero);
    const SphericalDerivative<S> io{g.const_data_ptr<S>(),
                                    nullptr,
                                    nullptr,
                                    nullptr,
                                    need_angle ? out_angle.mutable_data_ptr<S>() : nullptr,
                                    need_d ? shares.mutable_data_ptr<S>() : nullptr};
    if (need_d) {
      run_derivative<2>(launch, p.input<S, 2>(launch, radial), io);
      launch.for_each(tri.num_edges(), 512, SumByEdge<S>{tri.get(), io.shares, out_d.mutable_data_ptr<S>()});
    } else if (need_angle) {
      run_derivative<1>(launch, p.input<S, 1>(launch, radial), io);
    }
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
  Tensor shares = empty({tri.count()}, p.type(), d);
  const Launch launch(p.d);
  dispatch_float(p.type(), [&](auto zero) {
    using S = decltype(zero);
    const SphericalDerivative<S> io{
        g.const_data_ptr<S>(),           data_or_null<S>(hd),         data_or_null<S>(ha), out.mutable_data_ptr<S>(),
        out_angle.mutable_data_ptr<S>(), shares.mutable_data_ptr<S>()};
    run_derivative<3>(launch, p.input<S, 3>(launch, radial), io);
    launch.for_each(tri.num_edges(), 512, SumByEdge<S>{tri.get(), io.shares, out_d.mutable_data_ptr<S>()});
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
           "Tensor table, Tensor recurrence, float cutoff, int num_radial, int exponent, bool need_d, bool need_angle) "
           "-> (Tensor, Tensor)",
           spherical_basis_backward)
SYMKERN_OP(spherical_basis_double_backward,
           "(Tensor? towards_d, Tensor? towards_angle, Tensor grad, Tensor d, Tensor angle, Tensor index, Tensor ptr, "
           "Tensor kj_order, Tensor kj_ptr, Tensor table, Tensor recurrence, float cutoff, int num_radial, "
           "int exponent) -> (Tensor, Tensor, Tensor)",
           spherical_basis_double_backward)

}  // namespace symkern
