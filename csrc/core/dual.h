// Numbers that carry a derivative along one direction. A formula and its adjoint, written once over a number type N,
// give with N = double the values and the first derivatives, and with N = Dual the second.
#pragma once

#include <cmath>

#include "core/macros.h"

namespace symkern {

struct Dual {
  double v, d = 0;  // value, change along the direction
  Dual() = default;
  SYMKERN_HD Dual(double value, double change = 0) : v(value), d(change) {}
};

SYMKERN_HD Dual operator-(Dual a) { return {-a.v, -a.d}; }
SYMKERN_HD Dual operator+(Dual a, Dual b) { return {a.v + b.v, a.d + b.d}; }
SYMKERN_HD Dual operator-(Dual a, Dual b) { return {a.v - b.v, a.d - b.d}; }
SYMKERN_HD Dual operator*(Dual a, Dual b) { return {a.v * b.v, a.d * b.v + a.v * b.d}; }
SYMKERN_HD Dual operator/(Dual a, Dual b) {
  const double q = a.v / b.v;
  return {q, (a.d - q * b.d) / b.v};
}

SYMKERN_HD double value_of(double x) { return x; }
SYMKERN_HD double value_of(Dual x) { return x.v; }
SYMKERN_HD double root(double x) { return sqrt(x); }  // of positive numbers
SYMKERN_HD Dual root(Dual x) {
  const double r = sqrt(x.v);
  return {r, x.d / (2 * r)};
}
SYMKERN_HD double arc_tangent(double y, double x) { return atan2(y, x); }
SYMKERN_HD Dual arc_tangent(Dual y, Dual x) {
  return {atan2(y.v, x.v), (x.v * y.d - y.v * x.d) / (x.v * x.v + y.v * y.v)};
}

// As Vec3, over any number.
template <class N>
struct VecOf {
  N x, y, z;
};

template <class N>
SYMKERN_HD VecOf<N> operator+(VecOf<N> a, VecOf<N> b) {
  return {a.x + b.x, a.y + b.y, a.z + b.z};
}
template <class N>
SYMKERN_HD VecOf<N> operator-(VecOf<N> a, VecOf<N> b) {
  return {a.x - b.x, a.y - b.y, a.z - b.z};
}
template <class N>
SYMKERN_HD VecOf<N> operator*(N s, VecOf<N> a) {
  return {s * a.x, s * a.y, s * a.z};
}
template <class N>
SYMKERN_HD N dot(VecOf<N> a, VecOf<N> b) {
  return a.x * b.x + a.y * b.y + a.z * b.z;
}
template <class N>
SYMKERN_HD VecOf<N> cross(VecOf<N> a, VecOf<N> b) {
  return {a.y * b.z - a.z * b.y, a.z * b.x - a.x * b.z, a.x * b.y - a.y * b.x};
}

}  // namespace symkern
