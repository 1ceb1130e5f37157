// Angles between the edges j->i and j->k of triplets, and the first two derivatives as fused ops.
//
// With a = r_i - r_j, b = r_k - r_j and n = a x b / |a x b| the angle has the gradients a x n / |a|^2 and n x b /
// |b|^2. They are bounded however close to collinear the atoms are; where the cross product is only rounding, n is
// zero.
#include "torch/shim.h"  // before triplets.h, which uses its words

#include "core/vec3.h"
#include "torch/triplets.h"

#include <cmath>
#include <limits>

namespace symkern {
namespace {

template <class T>
struct Corner {
  Vec3 a, b;
  Vec3 normal;                    // n, or zero
  double sine;                    // |a x b|
  double inverse_a2, inverse_b2;  // 1 / |a|^2, 1 / |b|^2, or zero
  double inverse_sine;            // 1 / |a x b|, or zero

  SYMKERN_HD Corner(const TripletIndex& tri, const T* vec, int64_t t)
      : a(-1.0 * load_vec3(vec + 3 * tri.ji[t])), b(load_vec3(vec + 3 * tri.kj[t])) {
    const Vec3 c = cross(a, b);
    const double a2 = dot(a, a), b2 = dot(b, b);
    sine = sqrt(dot(c, c));
    constexpr double noise = sizeof(T) == 8 ? 2e-15 : 1e-6;  // 8 ulp
    const bool plain = a2 > 1e-280 && b2 > 1e-280 && sine > noise * sqrt(a2) * sqrt(b2);
    inverse_sine = plain ? 1 / sine : 0;
    inverse_a2 = plain ? 1 / a2 : 0;
    inverse_b2 = plain ? 1 / b2 : 0;
    normal = inverse_sine * c;
  }
};

template <class T>
struct Angle {
  TripletIndex tri;
  const T* vec;
  T* out;
  SYMKERN_HD void operator()(int64_t t) const {
    if (tri.padding(t)) {
      out[t] = 0;
      return;
    }
    const Corner<T> corner(tri, vec, t);
    out[t] = static_cast<T>(atan2(corner.sine, dot(corner.a, corner.b) + 0.0));  // -0 would be pi
  }
};

struct Pair {
  Vec3 a, b;
};

// grad times the gradients of the angle
template <class T>
struct First {
  const T* vec;
  const T* grad;  // (T)
  SYMKERN_HD Pair operator()(const TripletIndex& tri, int64_t t) const {
    const Corner<T> c(tri, vec, t);
    const double g = grad[t];
    return {(g * c.inverse_a2) * cross(c.a, c.normal), (g * c.inverse_b2) * cross(c.normal, c.b)};
  }
};

// For directions u of a and v of b: q = n . (u x a / |a|^2 + b x v / |b|^2) is the angle's change; and grad times the
// gradients of q.
template <class T>
struct Second {
  const T* vec;
  const T* grad;       // (T)
  const T* direction;  // (E, 3)

  struct Terms {
    Vec3 u, v, along_a, along_b;
  };
  SYMKERN_HD Terms terms(const Corner<T>& c, const TripletIndex& tri, int64_t t) const {
    const Vec3 u = -1.0 * load_vec3(direction + 3 * tri.ji[t]), v = load_vec3(direction + 3 * tri.kj[t]);
    return {u, v, c.inverse_a2 * cross(u, c.a), c.inverse_b2 * cross(c.b, v)};
  }
  SYMKERN_HD double change(const TripletIndex& tri, int64_t t) const {
    const Corner<T> c(tri, vec, t);
    const Terms s = terms(c, tri, t);
    return dot(c.normal, s.along_a + s.along_b);
  }
  SYMKERN_HD Pair operator()(const TripletIndex& tri, int64_t t) const {
    const Corner<T> c(tri, vec, t);
    const Terms s = terms(c, tri, t);
    const double g = grad[t], in_a = dot(c.normal, s.along_a), in_b = dot(c.normal, s.along_b);
    // how n turns: the part of a x b's change that is across n
    const Vec3 turn = c.inverse_sine * (s.along_a + s.along_b - (in_a + in_b) * c.normal);
    return {g * (cross(c.b, turn) + c.inverse_a2 * (cross(c.normal, s.u) - (2 * in_a) * c.a)),
            g * (cross(turn, c.a) + c.inverse_b2 * (cross(s.v, c.normal) - (2 * in_b) * c.b))};
  }
};

// Gradient of edge e: as a = -vec[ji] of its own triplets, then as b = vec[kj] of others, each in stored order.
template <class T, class Derivative>
struct OverEdges {
  TripletIndex tri;
  Derivative of;
  T* out;  // (E, 3)
  SYMKERN_HD void operator()(int64_t e) const {
    Vec3 sum{0, 0, 0};
    for (int64_t t = tri.ptr[e]; t < tri.ptr[e + 1]; ++t) sum = sum - of(tri, t).a;
    for (int64_t k = tri.kj_ptr[e]; k < tri.kj_ptr[e + 1]; ++k) sum = sum + of(tri, tri.kj_order[k]).b;
    out[3 * e] = static_cast<T>(sum.x), out[3 * e + 1] = static_cast<T>(sum.y), out[3 * e + 2] = static_cast<T>(sum.z);
  }
};

template <class T>
struct Change {
  TripletIndex tri;
  Second<T> of;
  T* out;  // (T)
  SYMKERN_HD void operator()(int64_t t) const { out[t] = tri.padding(t) ? T(0) : static_cast<T>(of.change(tri, t)); }
};

void check_vec(const TripletArguments& tri, const Tensor& vec) {
  check_float(vec, "vec");
  tri.check_rows(vec, "vec", "E", tri.num_edges(), 3, vec.scalar_type());
}

Tensor edge_angles(const Tensor& vec, const Tensor& index, const Tensor& ptr, const OptionalTensor&,
                   const OptionalTensor&) {
  const TripletArguments tri(index, ptr);
  check_vec(tri, vec);
  const Tensor v = as_contiguous(vec);
  Tensor out = empty({tri.count()}, v.scalar_type(), v);
  const Launch launch(v);
  dispatch_float(v.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    launch.for_each(tri.count(), 2048, Angle<T>{tri.get(), v.const_data_ptr<T>(), out.mutable_data_ptr<T>()});
  });
  return out;
}

Tensor edge_angles_backward(const Tensor& grad, const Tensor& vec, const Tensor& index, const Tensor& ptr,
                            const Tensor& kj_order, const Tensor& kj_ptr) {
  const TripletArguments tri(index, ptr, kj_order, kj_ptr);
  check_vec(tri, vec);
  tri.check_length(grad, "grad", "T", tri.count(), vec.scalar_type());
  const Tensor v = as_contiguous(vec), g = as_contiguous(grad);
  Tensor out = empty({tri.num_edges(), 3}, v.scalar_type(), v);
  const Launch launch(v);
  dispatch_float(v.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    const First<T> first{v.const_data_ptr<T>(), g.const_data_ptr<T>()};
    launch.for_each(tri.num_edges(), 128, OverEdges<T, First<T> >{tri.get(), first, out.mutable_data_ptr<T>()});
  });
  return out;
}

std::tuple<Tensor, Tensor> edge_angles_double_backward(const Tensor& direction, const Tensor& grad, const Tensor& vec,
                                                       const Tensor& index, const Tensor& ptr, const Tensor& kj_order,
                                                       const Tensor& kj_ptr) {
  const TripletArguments tri(index, ptr, kj_order, kj_ptr);
  check_vec(tri, vec);
  tri.check_length(grad, "grad", "T", tri.count(), vec.scalar_type());
  tri.check_rows(direction, "direction", "E", tri.num_edges(), 3, vec.scalar_type());
  const Tensor v = as_contiguous(vec), g = as_contiguous(grad), h = as_contiguous(direction);
  Tensor out_grad = empty({tri.count()}, v.scalar_type(), v), out = empty({tri.num_edges(), 3}, v.scalar_type(), v);
  const Launch launch(v);
  dispatch_float(v.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    const Second<T> second{v.const_data_ptr<T>(), g.const_data_ptr<T>(), h.const_data_ptr<T>()};
    launch.for_each(tri.count(), 2048, Change<T>{tri.get(), second, out_grad.mutable_data_ptr<T>()});
    launch.for_each(tri.num_edges(), 128, OverEdges<T, Second<T> >{tri.get(), second, out.mutable_data_ptr<T>()});
  });
  return {out_grad, out};
}

}  // namespace

SYMKERN_OP(edge_angles, "(Tensor vec, Tensor index, Tensor ptr, Tensor? kj_order, Tensor? kj_ptr) -> Tensor",
           edge_angles)
SYMKERN_OP(edge_angles_backward,
           "(Tensor grad, Tensor vec, Tensor index, Tensor ptr, Tensor kj_order, Tensor kj_ptr) -> Tensor",
           edge_angles_backward)
SYMKERN_OP(edge_angles_double_backward,
           "(Tensor direction, Tensor grad, Tensor vec, Tensor index, Tensor ptr, Tensor kj_order, Tensor kj_ptr) -> "
           "(Tensor, Tensor)",
           edge_angles_double_backward)

}  // namespace symkern
