// Periodic cells of any shape: left-handed, skewed, smaller than the cutoff, periodic in some directions only.
#pragma once

#include "core/vec3.h"

namespace symkern {

// A basis for binning and images: the reduced periodic vectors, completed by orthonormal vectors along the
// non-periodic directions. Reduction changes only the basis, not the lattice; it keeps the number of images small for
// skewed cells. `transform` leads back: basis_k = sum_l transform[k][l] * cell_l.
struct Lattice {
  Mat3 cell;  // as given; rows of non-periodic directions are zero, so that their shifts cannot matter
  Vec3 basis[3];
  Vec3 reciprocal[3];  // fractional coordinate k of r is dot(r, reciprocal[k])
  double height[3];    // distance between lattice planes in Å; 1 in non-periodic directions
  int64_t transform[3][3];
  bool periodic[3];
  bool valid;       // false: the periodic vectors are not finite or not linearly independent
  bool too_skewed;  // shifts in units of the given cell would not fit into 32 bits

  SYMKERN_HD Vec3 fractional(Vec3 r) const {
    return {dot(r, reciprocal[0]), dot(r, reciprocal[1]), dot(r, reciprocal[2])};
  }
  SYMKERN_HD Vec3 image(double n0, double n1, double n2, Vec3 r) const {
    return lattice_point(n0, n1, n2, Mat3{basis[0], basis[1], basis[2]}, r);
  }
  // Shift in units of the given cell for n basis vectors; false if it is beyond +-2^29.
  SYMKERN_HD bool shift(int64_t n0, int64_t n1, int64_t n2, Int3& out) const {
    int64_t s[3];
    bool fits = true;
    for (int c = 0; c < 3; ++c) {
      s[c] = n0 * transform[0][c] + n1 * transform[1][c] + n2 * transform[2][c];
      fits = fits && s[c] >= -kShiftMax && s[c] <= kShiftMax;
    }
    out =
        fits ? Int3{static_cast<int32_t>(s[0]), static_cast<int32_t>(s[1]), static_cast<int32_t>(s[2])} : Int3{0, 0, 0};
    return fits;
  }
  // Two such shifts and one of an image add up within 32 bits.
  static constexpr int64_t kShiftMax = int64_t{1} << 29;
  static constexpr int64_t kTransformMax = int64_t{1} << 30;
};

namespace lattice_detail {

SYMKERN_HD void subtract(Lattice& m, int k, int l, double times) {
  m.basis[k] = m.basis[k] - times * m.basis[l];
  for (int c = 0; c < 3; ++c) m.transform[k][c] -= static_cast<int64_t>(times) * m.transform[l][c];
  for (int c = 0; c < 3; ++c) {
    const int64_t t = m.transform[k][c];
    if (t > Lattice::kTransformMax || t < -Lattice::kTransformMax) m.too_skewed = true;
  }
}

// Pairwise (Gauss) reduction, plus the sums of three vectors, until nothing gets shorter.
SYMKERN_HD void reduce(Lattice& m) {
  for (int round = 0; round < 100; ++round) {
    bool changed = false;
    for (int k = 0; k < 3; ++k) {
      if (!m.periodic[k]) continue;
      for (int l = 0; l < 3; ++l) {
        if (l == k || !m.periodic[l]) continue;
        const double length = dot(m.basis[l], m.basis[l]);
        const double times = length > 0 ? rint(dot(m.basis[k], m.basis[l]) / length) : 0;
        if (times == 0) continue;
        if (!(fabs(times) < 1e9)) {
          m.too_skewed = true;
          return;
        }
        const Vec3 shorter = m.basis[k] - times * m.basis[l];
        if (dot(shorter, shorter) < (1 - 1e-9) * dot(m.basis[k], m.basis[k])) {
          subtract(m, k, l, times);
          changed = true;
        }
      }
      const int l = (k + 1) % 3, n = (k + 2) % 3;
      if (!m.periodic[l] || !m.periodic[n]) continue;
      for (int sign = 0; sign < 4; ++sign) {
        const double sl = sign & 1 ? 1 : -1, sn = sign & 2 ? 1 : -1;
        const Vec3 shorter = m.basis[k] - sl * m.basis[l] - sn * m.basis[n];
        if (dot(shorter, shorter) < (1 - 1e-9) * dot(m.basis[k], m.basis[k])) {
          subtract(m, k, l, sl);
          subtract(m, k, n, sn);
          changed = true;
        }
      }
    }
    if (!changed || m.too_skewed) return;
  }
}

// Any unit vector at right angles to the ones already there.
SYMKERN_HD Vec3 orthogonal_to(const Vec3* others, int count) {
  if (count == 2) {
    const Vec3 n = cross(others[0], others[1]);
    return (1 / sqrt(dot(n, n))) * n;
  }
  Vec3 best{1, 0, 0};
  double best_length = -1;
  for (int axis = 0; axis < 3; ++axis) {
    Vec3 e{axis == 0 ? 1.0 : 0.0, axis == 1 ? 1.0 : 0.0, axis == 2 ? 1.0 : 0.0};
    if (count == 1) e = e - (dot(e, others[0]) / dot(others[0], others[0])) * others[0];
    const double length = dot(e, e);
    if (length > best_length + 1e-12) best_length = length, best = (1 / sqrt(length)) * e;
  }
  return best;
}

}  // namespace lattice_detail

// `pbc` holds one bit per lattice vector.
SYMKERN_HD Lattice make_lattice(const Mat3& cell, int pbc) {
  Lattice m;
  m.too_skewed = false;
  const Vec3 rows[3] = {cell.a, cell.b, cell.c};
  double longest = 0;
  for (int k = 0; k < 3; ++k) {
    m.periodic[k] = (pbc >> k) & 1;
    m.basis[k] = m.periodic[k] ? rows[k] : Vec3{0, 0, 0};
    m.height[k] = 1;
    for (int l = 0; l < 3; ++l) m.transform[k][l] = k == l;
    longest = fmax(longest, dot(m.basis[k], m.basis[k]));
  }
  m.cell = Mat3{m.basis[0], m.basis[1], m.basis[2]};
  m.valid = pbc == 0 || (longest > 0 && longest < 1e300);  // false for NaN and infinity too
  for (int k = 0; k < 3; ++k) {
    // fmax skips NaN, so each row is asked for itself
    if (m.periodic[k] && !(dot(m.basis[k], m.basis[k]) <= longest)) m.valid = false;
  }
  if (!m.valid) return m;
  lattice_detail::reduce(m);
  if (m.too_skewed) {
    m.valid = false;
    return m;
  }

  Vec3 found[3];
  int count = 0;
  for (int k = 0; k < 3; ++k) {
    if (m.periodic[k]) found[count++] = m.basis[k];
  }
  for (int k = 0; k < 3; ++k) {
    if (m.periodic[k]) {
      if (!(dot(m.basis[k], m.basis[k]) > 1e-18 * longest)) m.valid = false;
      continue;
    }
    m.basis[k] = lattice_detail::orthogonal_to(found, count);
    found[count++] = m.basis[k];
  }
  const double volume = dot(m.basis[0], cross(m.basis[1], m.basis[2]));
  double product = 1;
  for (int k = 0; k < 3; ++k) product *= sqrt(dot(m.basis[k], m.basis[k]));
  // A reduced basis is nearly orthogonal (product <= 2 |volume|): a smaller volume means dependent vectors.
  if (!(fabs(volume) > 1e-3 * product)) m.valid = false;
  for (int k = 0; k < 3; ++k) {
    m.reciprocal[k] = (1 / volume) * cross(m.basis[(k + 1) % 3], m.basis[(k + 2) % 3]);
    if (m.periodic[k]) m.height[k] = 1 / sqrt(dot(m.reciprocal[k], m.reciprocal[k]));
  }
  return m;
}

}  // namespace symkern
