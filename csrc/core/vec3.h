// Vectors and 3x3 matrices in double precision, and the one predicate that decides whether a pair is within the cutoff.
#pragma once

#include <cmath>
#include <cstdint>

#include "core/macros.h"

namespace symkern {

struct Vec3 {
  double x, y, z;
};

struct Int3 {
  int32_t x, y, z;
};

SYMKERN_HD Vec3 operator+(Vec3 a, Vec3 b) { return {a.x + b.x, a.y + b.y, a.z + b.z}; }
SYMKERN_HD Vec3 operator-(Vec3 a, Vec3 b) { return {a.x - b.x, a.y - b.y, a.z - b.z}; }
SYMKERN_HD Vec3 operator*(double s, Vec3 a) { return {s * a.x, s * a.y, s * a.z}; }
SYMKERN_HD double dot(Vec3 a, Vec3 b) { return a.x * b.x + a.y * b.y + a.z * b.z; }
SYMKERN_HD Vec3 cross(Vec3 a, Vec3 b) { return {a.y * b.z - a.z * b.y, a.z * b.x - a.x * b.z, a.x * b.y - a.y * b.x}; }

template <class T>
SYMKERN_HD Vec3 load_vec3(const T* p) {
  return {static_cast<double>(p[0]), static_cast<double>(p[1]), static_cast<double>(p[2])};
}

// Rows are lattice vectors, as everywhere in symkern and ASE.
struct Mat3 {
  Vec3 a, b, c;
};

template <class T>
SYMKERN_HD Mat3 load_mat3(const T* p) {
  return {load_vec3(p), load_vec3(p + 3), load_vec3(p + 6)};
}

// n @ rows + origin
SYMKERN_HD Vec3 lattice_point(double na, double nb, double nc, const Mat3& m, Vec3 origin) {
  return origin + na * m.a + nb * m.b + nc * m.c;
}

// |r_j - r_i + shift @ cell|^2: the distance that decides membership, on every device and for every input precision.
// Every multiply-add is an explicit fma: the compiler has no freedom to contract differently on CPU and GPU, so both
// return the same bits and therefore the same neighbor lists. (Without FMA hardware fma() is exact but slow; on the
// host only the few pairs within fp32 rounding of the cutoff come here.)
SYMKERN_HD double pair_distance_sq(Vec3 ri, Vec3 rj, Int3 shift, const Mat3& cell) {
  const Vec3 d = rj - ri;
  const double x = fma(shift.x, cell.a.x, fma(shift.y, cell.b.x, fma(shift.z, cell.c.x, d.x)));
  const double y = fma(shift.x, cell.a.y, fma(shift.y, cell.b.y, fma(shift.z, cell.c.y, d.y)));
  const double z = fma(shift.x, cell.a.z, fma(shift.y, cell.b.z, fma(shift.z, cell.c.z, d.z)));
  return fma(x, x, fma(y, y, z * z));
}

}  // namespace symkern
