// Radial bases times a cutoff function, and the first two derivatives in distances and parameters as fused ops.
// Formulas are in radial_basis.h; here are checks, memory, and the choice of a schedule.
#include "ops/radial_basis_simd.h"
#include "torch/shim.h"

#include <algorithm>
#include <limits>

#if defined(__CUDACC__)
#include "ops/radial_basis_cuda.cuh"
#endif

namespace symkern {
namespace {

#if defined(__CUDACC__)

template <class S>
void run_forward(const Launch& launch, BasisKind kind, const RadialInput<S>& in, S* out) {
  radial_cuda::launch_forward(kind, in, out, launch.stream());
}

template <class S>
void run_derivative(const Launch& launch, BasisKind kind, int order, bool params, const RadialInput<S>& in,
                    const RadialDerivative<S>& io) {
  radial_cuda::launch_derivative(kind, order, params, in, io, launch.stream());
}

#else

const RadialKernels<float>& kernels(float) {
#if defined(SYMKERN_ISA_DISPATCH)
  switch (active_isa()) {
    case Isa::avx512:
      return *symkern_radial_kernels_avx512();
    case Isa::avx2:
      return *symkern_radial_kernels_avx2();
    case Isa::baseline:
      break;
  }
#endif
  return *symkern_radial_kernels_baseline();
}

const RadialKernels<double>& kernels(double) {
  static constexpr RadialKernels<double> table = RadialTile<OneLane<double> >::table();
  return table;
}

template <class S>
void check_distances(const RadialInput<S>& in, int64_t tile) {
  const int64_t begin = tile * kRadialTile, end = std::min(begin + kRadialTile, in.rows);
  constexpr S largest = std::numeric_limits<S>::max();
  int good = 1;
  for (int64_t e = begin; e < end; ++e) good &= (in.d[e] >= 0) & (in.d[e] <= largest);
  if (SYMKERN_LIKELY(good)) return;
  for (int64_t e = begin; e < end; ++e) {
    if (!(in.d[e] >= 0 && in.d[e] <= largest)) {
      bad_argument("d must be finite and not negative, but d[", e, "] = ", in.d[e]);
    }
  }
}

template <class S>
void run_forward(const Launch& launch, BasisKind kind, const RadialInput<S>& in, S* out) {
  const auto kernel = kernels(S{}).forward[static_cast<int>(kind)];
  launch.for_each(radial_tiles(in.rows), 4, [&](int64_t tile) {
    check_distances(in, tile);
    kernel(in, tile, out);
  });
}

template <class S>
void run_derivative(const Launch& launch, BasisKind kind, int order, bool params, const RadialInput<S>& in,
                    const RadialDerivative<S>& io) {
  const auto kernel = kernels(S{}).derivative[static_cast<int>(kind)][order - 1][params];
  launch.for_each(radial_tiles(in.rows), 4, [&](int64_t tile) { kernel(in, io, tile); });
}

#endif

struct Problem {
  Tensor d, p;
  OptionalTensor q;
  BasisKind kind;
  EnvelopeKind envelope;
  int exponent;
  double cutoff;

  Problem(const Tensor& distances, const Tensor& first, const OptionalTensor& second, double rc, int64_t basis,
          int64_t form, int64_t order)
      : d(as_contiguous(distances)),
        p(as_contiguous(first)),
        kind(static_cast<BasisKind>(basis)),
        envelope(static_cast<EnvelopeKind>(form)),
        exponent(static_cast<int>(order)),
        cutoff(rc) {
    check_float(d, "d");
    if (d.dim() != 1) bad_argument("d must have shape (E,), got ", shape_of(d));
    if (basis < 0 || basis > 2) bad_argument("kind must be 0, 1 or 2, got ", basis);
    if (form < 0 || form > 2) bad_argument("envelope must be 0, 1 or 2, got ", form);
    if (order < 1 || order > 1000) bad_argument("exponent must be in 1 .. 1000, got ", order);
    if (!(rc > 0 && rc < 1e300)) bad_argument("cutoff must be positive and finite, got ", rc);
    const bool bessel = kind == BasisKind::bessel;
    if (p.dim() != 1 || p.size(0) < 1) {
      bad_argument(bessel ? "frequencies" : "centers", " must have shape (K,) with K > 0, got ", shape_of(p));
    }
    check_parameter(p, bessel ? "frequencies" : "centers");
    if (second.has_value() == bessel) bad_argument("gamma must be given for every kind but bessel");
    if (bessel) return;
    q = as_contiguous(*second);
    check_parameter(*q, "gamma");
  }

  void check_parameter(const Tensor& t, const char* name) const {
    check_dtype(t, name, d.scalar_type());
    check_same_device(t, name, d, "d");
    if (t.dim() != 1 || t.size(0) != count()) {
      bad_argument(name, " must have shape (K,) with K = ", count(), ", got ", shape_of(t));
    }
  }

  void check_rows(const Tensor& t, const char* name) const {
    check_dtype(t, name, d.scalar_type());
    check_same_device(t, name, d, "d");
    if (t.dim() != 2 || t.size(0) != rows() || t.size(1) != count()) {
      bad_argument(name, " must have shape (", rows(), ", ", count(), "), got ", shape_of(t));
    }
  }

  int64_t rows() const { return d.size(0); }
  int64_t count() const { return p.size(0); }

  template <class S>
  RadialInput<S> input() const {
    return {d.const_data_ptr<S>(),
            p.const_data_ptr<S>(),
            data_or_null<S>(q),
            rows(),
            count(),
            RadialShape<S>(cutoff, envelope, exponent)};
  }
};

// Sums over rows of all tiles; out has one number per parameter.
template <class S>
void sum_tiles(const Launch& launch, const Tensor& sums, Tensor& out) {
  constexpr int64_t group = 64;
  const int64_t tiles = sums.size(0), count = sums.size(1), groups = (tiles + group - 1) / group;
  Tensor partial = empty({groups, count}, ScalarType::Double, sums);
  double* middle = partial.mutable_data_ptr<double>();
  launch.for_each(groups * count, 256, ColumnSum<double>{sums.const_data_ptr<double>(), tiles, count, group, middle});
  launch.for_each(count, 256, ColumnSum<S>{middle, groups, count, groups, out.mutable_data_ptr<S>()});
}

struct Needs {
  bool value, d, p, q;
};

struct Gradients {
  Tensor value, d, p, q;
};

Gradients derivative(const Problem& in, int order, const Tensor& gradient, const OptionalTensor& along_d,
                     const OptionalTensor& along_p, const OptionalTensor& along_q, Needs need) {
  const Tensor grad = as_contiguous(gradient);
  in.check_rows(grad, "grad");
  const auto direction = [&](const OptionalTensor& t, const char* name, int64_t size) -> OptionalTensor {
    if (!t.has_value()) return std::nullopt;
    check_dtype(*t, name, in.d.scalar_type());
    check_same_device(*t, name, in.d, "d");
    if (t->dim() != 1 || t->size(0) != size) bad_argument(name, " must have shape (", size, ",), got ", shape_of(*t));
    return as_contiguous(*t);
  };
  const OptionalTensor hd = direction(along_d, "along_d", in.rows()), hp = direction(along_p, "along_p", in.count()),
                       hq = direction(along_q, "along_q", in.count());
  const ScalarType type = in.d.scalar_type();
  const int64_t rows = in.rows(), count = in.count(), tiles = radial_tiles(rows);
  Gradients out{empty({need.value ? rows : 0, count}, type, in.d), empty({need.d ? rows : 0}, type, in.d),
                empty({need.p ? count : 0}, type, in.d), empty({need.q ? count : 0}, type, in.d)};
  Tensor sums_p = empty({need.p ? tiles : 0, count}, ScalarType::Double, in.d);
  Tensor sums_q = empty({need.q ? tiles : 0, count}, ScalarType::Double, in.d);
  const bool params = need.p || need.q || hp.has_value() || hq.has_value();
  const Launch launch(in.d);
  dispatch_float(type, [&](auto zero) {
    using S = decltype(zero);
    const RadialDerivative<S> io{grad.const_data_ptr<S>(),
                                 data_or_null<S>(hd),
                                 data_or_null<S>(hp),
                                 data_or_null<S>(hq),
                                 need.value ? out.value.mutable_data_ptr<S>() : nullptr,
                                 need.d ? out.d.mutable_data_ptr<S>() : nullptr,
                                 need.p ? sums_p.mutable_data_ptr<double>() : nullptr,
                                 need.q ? sums_q.mutable_data_ptr<double>() : nullptr};
    run_derivative(launch, in.kind, order, params, in.input<S>(), io);
    if (need.p) sum_tiles<S>(launch, sums_p, out.p);
    if (need.q) sum_tiles<S>(launch, sums_q, out.q);
  });
  return out;
}

Tensor radial_basis(const Tensor& d, const Tensor& p, const OptionalTensor& q, double cutoff, int64_t kind,
                    int64_t envelope, int64_t exponent) {
  const Problem in(d, p, q, cutoff, kind, envelope, exponent);
  Tensor out = empty({in.rows(), in.count()}, in.d.scalar_type(), in.d);
  const Launch launch(in.d);
  dispatch_float(in.d.scalar_type(), [&](auto zero) {
    using S = decltype(zero);
    run_forward(launch, in.kind, in.input<S>(), out.mutable_data_ptr<S>());
  });
  return out;
}

std::tuple<Tensor, Tensor, Tensor> radial_basis_backward(const Tensor& grad, const Tensor& d, const Tensor& p,
                                                         const OptionalTensor& q, double cutoff, int64_t kind,
                                                         int64_t envelope, int64_t exponent, bool need_d, bool need_p,
                                                         bool need_q) {
  const Problem in(d, p, q, cutoff, kind, envelope, exponent);
  const Needs need{false, need_d, need_p, need_q && q.has_value()};
  const Gradients out = derivative(in, 1, grad, std::nullopt, std::nullopt, std::nullopt, need);
  return {out.d, out.p, out.q};
}

// Adjoint of the backward for directions of its three results: gradients of grad, d, p and q.
std::tuple<Tensor, Tensor, Tensor, Tensor> radial_basis_double_backward(
    const OptionalTensor& along_d, const OptionalTensor& along_p, const OptionalTensor& along_q, const Tensor& grad,
    const Tensor& d, const Tensor& p, const OptionalTensor& q, double cutoff, int64_t kind, int64_t envelope,
    int64_t exponent, bool need_grad, bool need_d, bool need_p, bool need_q) {
  const Problem in(d, p, q, cutoff, kind, envelope, exponent);
  const Needs need{need_grad, need_d, need_p, need_q && q.has_value()};
  const Gradients out = derivative(in, 2, grad, along_d, along_p, along_q, need);
  return {out.value, out.d, out.p, out.q};
}

}  // namespace

SYMKERN_OP(radial_basis,
           "(Tensor d, Tensor p, Tensor? q, float cutoff, int kind, int envelope, int exponent) -> Tensor",
           radial_basis)
SYMKERN_OP(radial_basis_backward,
           "(Tensor grad, Tensor d, Tensor p, Tensor? q, float cutoff, int kind, int envelope, int exponent, "
           "bool need_d, bool need_p, bool need_q) -> (Tensor, Tensor, Tensor)",
           radial_basis_backward)
SYMKERN_OP(radial_basis_double_backward,
           "(Tensor? along_d, Tensor? along_p, Tensor? along_q, Tensor grad, Tensor d, Tensor p, Tensor? q, "
           "float cutoff, int kind, int envelope, int exponent, bool need_grad, bool need_d, bool need_p, bool need_q) "
           "-> (Tensor, Tensor, Tensor, Tensor)",
           radial_basis_double_backward)

}  // namespace symkern
