// The vector of an edge j->i in the local frame of i, and the dihedral angle between the frames of i and j: formulas
// and their adjoints, over numbers N (core/dual.h).
//
// All that turns here turns rigidly, which gives the adjoints without a derivative of a normalised vector: where a
// frame turns by w, coordinates X in it change by -w x X.
#pragma once

#include "core/dual.h"

#include <cstdint>

namespace symkern {

// What the geometry of edge j->i is made of.
template <class N>
struct LocalVectors {
  VecOf<N> a;     // r_j - r_i
  VecOf<N> p, q;  // from i to its first and second reference
  VecOf<N> s, t;  // from i and from j to their references of the dihedral s - i - j - t
};

// The frame of p and q: z along p, x towards q, y such that atan2(y, x) has the sign of the dihedral a-i-p-q.
template <class N>
struct LocalFrame {
  VecOf<N> e1, e2, e3;
  N inverse_p, inverse_q;  // 1 / |p|, 1 / distance of q from p

  SYMKERN_HD LocalFrame(VecOf<N> p, VecOf<N> q) {
    const VecOf<N> c = cross(q, p);
    const N length = root(dot(p, p)), area = root(dot(c, c));
    inverse_p = N(1) / length, inverse_q = length / area;
    e3 = inverse_p * p, e2 = (N(1) / area) * c, e1 = cross(e3, e2);
  }
};

template <class N>
SYMKERN_HD VecOf<N> local_vector(const LocalVectors<N>& in) {
  const LocalFrame<N> f(in.p, in.q);
  return {dot(in.a, f.e1), dot(in.a, f.e2), dot(in.a, f.e3)};
}

// Adds the gradients of g . X; `fixed` frames have none.
template <class N>
SYMKERN_HD void add_local_gradient(const LocalVectors<N>& in, VecOf<N> g, bool fixed, LocalVectors<N>& out) {
  const LocalFrame<N> f(in.p, in.q);
  const VecOf<N> along = g.x * f.e1 + g.y * f.e2 + g.z * f.e3;
  out.a = out.a + along;
  if (fixed) return;
  const VecOf<N> torque = cross(along, in.a);  // what a turn w of the frame changes is w . torque
  const N twist = dot(f.e3, torque) * f.inverse_q;
  // q turns the frame about p; p tilts it, which also carries it past q
  out.q = out.q - twist * f.e2;
  out.p = out.p + f.inverse_p * cross(torque + twist * cross(in.q, f.e2), f.e3);
}

// tau, from s to t about a. Where one of them is along a it is undetermined: zero, with no gradient.
template <class N>
struct Dihedral {
  VecOf<N> m, n;  // a x s, a x t
  bool plain;

  SYMKERN_HD Dihedral(const LocalVectors<N>& in, double noise) : m(cross(in.a, in.s)), n(cross(in.a, in.t)) {
    const double a2 = value_of(dot(in.a, in.a)), least = noise * noise * a2;
    plain = a2 > 1e-280 && value_of(dot(m, m)) > least * value_of(dot(in.s, in.s)) &&
            value_of(dot(n, n)) > least * value_of(dot(in.t, in.t));
  }
  SYMKERN_HD N angle(const LocalVectors<N>& in) const {
    if (!plain) return N(0);
    const N sine = root(dot(in.a, in.a)) * dot(in.t, m);
    return arc_tangent(sine, dot(m, n) + N(0.0));
  }
  // adds g times the gradients
  SYMKERN_HD void add_gradient(const LocalVectors<N>& in, N g, LocalVectors<N>& out) const {
    if (!plain) return;
    const N a2 = dot(in.a, in.a), scale = g * root(a2);
    const VecOf<N> by_s = (N(-1) * scale / dot(m, m)) * m, by_t = (scale / dot(n, n)) * n;
    out.s = out.s + by_s, out.t = out.t + by_t;
    // turning a is turning s and t the other way
    out.a = out.a + (N(1) / a2) * cross(in.a, cross(in.s, by_s) + cross(in.t, by_t));
  }
};

}  // namespace symkern
