// Spherical features of edges from their vectors in local frames and their dihedral angles, and the first two
// derivatives as fused ops. Formulas are in spherical_features.h.
#include "ops/spherical_features.h"

#include "core/macros.h"
#include "core/vec3.h"
#include "torch/shim.h"

namespace symkern {
namespace {

template <class T>
struct Input {
  SphericalShape shape;
  const T* local;  // (E, 3)
  const T* tau;    // (E)

  SYMKERN_HD int64_t first_columns() const { return int64_t{shape.spherical} * shape.spherical * shape.radial; }
  SYMKERN_HD int64_t second_columns() const { return int64_t{shape.spherical} * shape.radial; }
};

template <class T>
struct Forward {
  Input<T> in;
  T* first;   // (E, L^2 R)
  T* second;  // (E, L R)

  SYMKERN_HD void operator()(int64_t e) const {
    const Vec3 x = load_vec3(in.local + 3 * e);
    const SphericalFeatures<double> features(in.shape, {x.x, x.y, x.z}, static_cast<double>(in.tau[e]));
    T *to = first + e * in.first_columns(), *other = second + e * in.second_columns();
    features.values([&](int c, double v) { to[c] = static_cast<T>(v); },
                    [&](int c, double v) { other[c] = static_cast<T>(v); });
  }
};

template <class T>
struct Backward {
  Input<T> in;
  const T* grad_first;
  const T* grad_second;
  T* out_local;
  T* out_tau;

  SYMKERN_HD void operator()(int64_t e) const {
    const Vec3 x = load_vec3(in.local + 3 * e);
    const SphericalFeatures<double> features(in.shape, {x.x, x.y, x.z}, static_cast<double>(in.tau[e]));
    VecOf<double> by_x;
    double by_tau;
    features.gradient(grad_first + e * in.first_columns(), grad_second + e * in.second_columns(), by_x, by_tau);
    T* to = out_local + 3 * e;
    to[0] = static_cast<T>(by_x.x), to[1] = static_cast<T>(by_x.y), to[2] = static_cast<T>(by_x.z);
    out_tau[e] = static_cast<T>(by_tau);
  }
};

// Along a direction of local and tau: the change of the features, and that of the gradient.
template <class T>
struct DoubleBackward {
  Input<T> in;
  const T* towards_local;
  const T* towards_tau;
  const T* grad_first;
  const T* grad_second;
  T* change_first;
  T* change_second;
  T* out_local;
  T* out_tau;

  SYMKERN_HD void operator()(int64_t e) const {
    const Vec3 x = load_vec3(in.local + 3 * e), h = load_vec3(towards_local + 3 * e);
    const Dual tau(in.tau[e], towards_tau[e]);
    const SphericalFeatures<Dual> features(in.shape, {{x.x, h.x}, {x.y, h.y}, {x.z, h.z}}, tau);
    const int64_t first = e * in.first_columns(), second = e * in.second_columns();
    T *to = change_first + first, *other = change_second + second;
    features.values([&](int c, Dual v) { to[c] = static_cast<T>(v.d); },
                    [&](int c, Dual v) { other[c] = static_cast<T>(v.d); });
    VecOf<Dual> by_x;
    Dual by_tau;
    features.gradient(grad_first + first, grad_second + second, by_x, by_tau);
    T* out = out_local + 3 * e;
    out[0] = static_cast<T>(by_x.x.d), out[1] = static_cast<T>(by_x.y.d), out[2] = static_cast<T>(by_x.z.d);
    out_tau[e] = static_cast<T>(by_tau.d);
  }
};

void check_rows(const Tensor& t, const char* name, const Tensor& like, int64_t edges, int64_t width) {
  check_dtype(t, name, like.scalar_type());
  check_same_device(t, name, like, "local");
  const bool same =
      width == 0 ? t.dim() == 1 && t.size(0) == edges : t.dim() == 2 && t.size(0) == edges && t.size(1) == width;
  if (same) return;
  if (width == 0) bad_argument(name, " must have shape (E,) with E = ", edges, ", got ", shape_of(t));
  bad_argument(name, " must have shape (E, ", width, ") with E = ", edges, ", got ", shape_of(t));
}

void check_constants(const Tensor& t, const char* name, const Tensor& like) {
  check_dtype(t, name, ScalarType::Double);
  check_same_device(t, name, like, "local");
}

// The arguments that all orders share, checked.
struct Problem {
  Tensor local, tau, radial, table, harmonic, legendre;
  double cutoff;
  int64_t edges;

  Problem(const Tensor& x, const Tensor& angle, const Tensor& waves, const Tensor& polynomials, const Tensor& factors,
          const Tensor& recurrence, double length)
      : local(as_contiguous(x)),
        tau(as_contiguous(angle)),
        radial(as_contiguous(waves)),
        table(as_contiguous(polynomials)),
        harmonic(as_contiguous(factors)),
        legendre(as_contiguous(recurrence)),
        cutoff(length) {
    check_float(local, "local");
    check_shape(local, "local", {-1, 3}, "(E, 3)");
    edges = local.size(0);
    check_rows(tau, "tau", local, edges, 0);
    check_constants(radial, "radial", local);
    check_constants(table, "table", local);
    check_constants(harmonic, "harmonic", local);
    check_constants(legendre, "legendre", local);
    check_shape(radial, "radial", {2, -1, -1}, "(2, L, R)");
    const int64_t l = radial.size(1), r = radial.size(2);
    if (l < 1 || l > kMaxSpherical || r < 1 || r > kMaxRadial) {
      bad_argument("num_spherical and num_radial must be in 1 .. 8, got ", l, " and ", r);
    }
    const int64_t columns = (l * r + SphericalShape::block - 1) / SphericalShape::block * SphericalShape::block;
    check_shape(table, "table", {-1, -1, columns}, "(intervals, degree + 1, L R filled up to a multiple of 8)");
    check_shape(harmonic, "harmonic", {l, l}, "(L, L)");
    check_shape(legendre, "legendre", {l, 2}, "(L, 2)");
    if (!(cutoff > 0 && cutoff < 1e300)) bad_argument("cutoff must be positive and finite, got ", cutoff);
  }

  ScalarType type() const { return local.scalar_type(); }
  int64_t first_columns() const { return radial.size(1) * second_columns(); }
  int64_t second_columns() const { return radial.size(1) * radial.size(2); }
  Tensor first() const { return empty({edges, first_columns()}, type(), local); }
  Tensor second() const { return empty({edges, second_columns()}, type(), local); }
  void check_grads(const Tensor& grad_first, const Tensor& grad_second) const {
    check_rows(grad_first, "grad_first", local, edges, first_columns());
    check_rows(grad_second, "grad_second", local, edges, second_columns());
  }

  template <class T>
  Input<T> input() const {
    const double* wave = radial.const_data_ptr<double>();
    const auto number = [](int64_t n) { return static_cast<int>(n); };
    return {{wave, wave + second_columns(), table.const_data_ptr<double>(), harmonic.const_data_ptr<double>(),
             legendre.const_data_ptr<double>(), number(radial.size(1)), number(radial.size(2)), number(table.size(0)),
             number(table.size(1)), 1 / cutoff},
            local.const_data_ptr<T>(),
            tau.const_data_ptr<T>()};
  }
};

std::tuple<Tensor, Tensor> spherical_features(const Tensor& local, const Tensor& tau, const Tensor& radial,
                                              const Tensor& table, const Tensor& harmonic, const Tensor& legendre,
                                              double cutoff) {
  const Problem p(local, tau, radial, table, harmonic, legendre, cutoff);
  Tensor first = p.first(), second = p.second();
  const Launch launch(p.local);
  dispatch_float(p.type(), [&](auto zero) {
    using T = decltype(zero);
    launch.for_each(p.edges, 64, Forward<T>{p.input<T>(), first.mutable_data_ptr<T>(), second.mutable_data_ptr<T>()});
  });
  return {first, second};
}

std::tuple<Tensor, Tensor> spherical_features_backward(const Tensor& grad_first, const Tensor& grad_second,
                                                       const Tensor& local, const Tensor& tau, const Tensor& radial,
                                                       const Tensor& table, const Tensor& harmonic,
                                                       const Tensor& legendre, double cutoff) {
  const Problem p(local, tau, radial, table, harmonic, legendre, cutoff);
  p.check_grads(grad_first, grad_second);
  const Tensor g1 = as_contiguous(grad_first), g2 = as_contiguous(grad_second);
  Tensor out_local = empty({p.edges, 3}, p.type(), p.local), out_tau = empty({p.edges}, p.type(), p.local);
  const Launch launch(p.local);
  dispatch_float(p.type(), [&](auto zero) {
    using T = decltype(zero);
    launch.for_each(p.edges, 64,
                    Backward<T>{p.input<T>(), g1.const_data_ptr<T>(), g2.const_data_ptr<T>(),
                                out_local.mutable_data_ptr<T>(), out_tau.mutable_data_ptr<T>()});
  });
  return {out_local, out_tau};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> spherical_features_double_backward(
    const Tensor& towards_local, const Tensor& towards_tau, const Tensor& grad_first, const Tensor& grad_second,
    const Tensor& local, const Tensor& tau, const Tensor& radial, const Tensor& table, const Tensor& harmonic,
    const Tensor& legendre, double cutoff) {
  const Problem p(local, tau, radial, table, harmonic, legendre, cutoff);
  p.check_grads(grad_first, grad_second);
  check_rows(towards_local, "towards_local", p.local, p.edges, 3);
  check_rows(towards_tau, "towards_tau", p.local, p.edges, 0);
  const Tensor h = as_contiguous(towards_local), ht = as_contiguous(towards_tau);
  const Tensor g1 = as_contiguous(grad_first), g2 = as_contiguous(grad_second);
  Tensor first = p.first(), second = p.second();
  Tensor out_local = empty({p.edges, 3}, p.type(), p.local), out_tau = empty({p.edges}, p.type(), p.local);
  const Launch launch(p.local);
  dispatch_float(p.type(), [&](auto zero) {
    using T = decltype(zero);
    launch.for_each(
        p.edges, 32,
        DoubleBackward<T>{p.input<T>(), h.const_data_ptr<T>(), ht.const_data_ptr<T>(), g1.const_data_ptr<T>(),
                          g2.const_data_ptr<T>(), first.mutable_data_ptr<T>(), second.mutable_data_ptr<T>(),
                          out_local.mutable_data_ptr<T>(), out_tau.mutable_data_ptr<T>()});
  });
  return {first, second, out_local, out_tau};
}

}  // namespace

SYMKERN_OP(spherical_features,
           "(Tensor local, Tensor tau, Tensor radial, Tensor table, Tensor harmonic, Tensor legendre, float cutoff) -> "
           "(Tensor, Tensor)",
           spherical_features)
SYMKERN_OP(spherical_features_backward,
           "(Tensor grad_first, Tensor grad_second, Tensor local, Tensor tau, Tensor radial, Tensor table, "
           "Tensor harmonic, Tensor legendre, float cutoff) -> (Tensor, Tensor)",
           spherical_features_backward)
SYMKERN_OP(spherical_features_double_backward,
           "(Tensor towards_local, Tensor towards_tau, Tensor grad_first, Tensor grad_second, Tensor local, "
           "Tensor tau, Tensor radial, Tensor table, Tensor harmonic, Tensor legendre, float cutoff) -> (Tensor, "
           "Tensor, Tensor, Tensor)",
           spherical_features_double_backward)

}  // namespace symkern
