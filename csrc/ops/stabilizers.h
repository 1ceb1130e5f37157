// What decides about symmetry operations, for every schedule (host, CUDA) alike: filters, first guesses, acceptance,
// the group that operations form, its name. Raw pointers and fp64; core/kabsch.h says why every fma is explicit.
//
// An operation is a pair (permutation p that keeps species, det = +1 or -1) with max_i |R y_i - y_p(i)| <= tolerance, y
// relative to the centroid and R the Kabsch optimum with this determinant. Everything with a residual below twice the
// tolerance is looked at, so that `margin`, the distance of the tolerance from the nearest value compared with it, does
// not depend on how operations are found. Filters are consequences of that bound: none can lose an operation.
#pragma once

#include <cstdint>

#include "core/kabsch.h"

namespace symkern {
namespace {

enum class SymmetryPolicy : int { closed = 0, raw, generate };

// Group codes are family * 65536 + n; symkern/stabilizer.py has the names in this order.
enum class Family : int { c1, cs, ci, cn, cnv, cnh, dn, dnh, dnd, sn, t, td, th, o, oh, i, ih, cinfv, dinfh, kh };

SYMKERN_HD int64_t group_code(Family family, int64_t n = 0) { return static_cast<int64_t>(family) << 16 | n; }

// The next `count` items of a block of scratch memory; 16-byte aligned.
template <class T>
SYMKERN_HD T* carve(char*& next, int64_t count) {
  T* out = reinterpret_cast<T*>(next);
  next += (count * static_cast<int64_t>(sizeof(T)) + 15) / 16 * 16;
  return out;
}

// What a finite point group of n atoms can have at most, with room for near symmetries that form no group.
SYMKERN_HD int64_t max_operations(int64_t atoms) { return 8 * atoms > 1000 ? 8 * atoms : 1000; }
constexpr int64_t kMaxImages = 4'000'000;  // image pairs of the reference pair

// Work for one molecule, counted in distances between atoms on every schedule alike, so that all refuse the same input:
// at most about two seconds of one core.
constexpr int64_t kMaxSteps = 1'000'000'000;
constexpr int64_t kCandidateSteps = 64;                                   // frames and table
SYMKERN_HD int64_t fit_steps(int64_t atoms) { return 256 + 16 * atoms; }  // and to keep the operation
// Passes over all atoms alike before the search, which the search does not count.
SYMKERN_HD int64_t preparation_steps(int64_t alike) { return 4 * alike; }

// Beyond this, in units of positions, third powers of squares would overflow.
SYMKERN_HD bool in_reach(double largest) { return largest < 1e45; }

SYMKERN_HD void decide(double value, double tolerance, double& margin) {
  const double distance = fabs(value - tolerance);
  if (distance < margin) margin = distance;
}

// ---- rank ----------------------------------------------------------------------------------------------------------

// Moments m = sum_i y_i y_i^T (6: xx, yy, zz, xy, xz, yz) bound the distances from the best axis and plane from below.
// True if no axis has all atoms within twice the tolerance, so that the linear test can be left out.
SYMKERN_HD bool certainly_not_linear(const double* m, int64_t atoms, double tolerance) {
  const double trace = m[0] + m[1] + m[2];
  const double square = fma(m[0], m[0], fma(m[1], m[1], m[2] * m[2])) +
                        2 * fma(m[3], m[3], fma(m[4], m[4], m[5] * m[5]));  // >= largest eigenvalue squared
  return trace - sqrt(square) > 1.001 * 4 * tolerance * tolerance * static_cast<double>(atoms);
}

// True if no plane has all atoms within the tolerance.
SYMKERN_HD bool certainly_not_planar(const double* m, int64_t atoms, double tolerance) {
  const double trace = m[0] + m[1] + m[2];
  const double a = fma(m[1], m[2], -(m[5] * m[5])), b = fma(m[3], m[2], -(m[5] * m[4]));
  const double c = fma(m[3], m[5], -(m[1] * m[4])), det = fma(m[0], a, fma(-m[3], b, m[4] * c));
  return 4 * det > (1.001 * tolerance * tolerance * static_cast<double>(atoms) + 1e-12 * trace) * trace * trace;
}

// Axis through (largest moment) and normal of the plane (smallest moment) of the atoms. The largest component of the
// axis is positive.
SYMKERN_HD void principal_axes(const double* m, double* axis, double* normal) {
  double a[3][3] = {{m[0], m[3], m[4]}, {m[3], m[1], m[5]}, {m[4], m[5], m[2]}}, v[3][3];
  eigen3(a, v);
  int most = 0, least = 0;
  for (int k = 1; k < 3; ++k) {
    if (a[k][k] > a[most][most]) most = k;
    if (a[k][k] <= a[least][least]) least = k;
  }
  eigenvector3(v, most, axis);
  eigenvector3(v, least, normal);
  int large = 0;
  for (int k = 1; k < 3; ++k) {
    if (fabs(axis[k]) > fabs(axis[large])) large = k;
  }
  if (axis[large] < 0) {
    for (int k = 0; k < 3; ++k) axis[k] = -axis[k];
  }
}

// Squared distance from the axis.
SYMKERN_HD double off_axis_sq(const double* y, const double* axis) {
  double c[3];
  cross3(y, axis, c);
  return dot3(c, c);
}

// ---- candidates ----------------------------------------------------------------------------------------------------

// Whether an operation may send an atom to another of the same species: radii differ by at most the residual.
SYMKERN_HD bool similar_radii(double r, double other, double tolerance) { return fabs(r - other) <= 2 * tolerance; }

// Whether an operation may send a pair to another: distances differ by at most two residuals.
SYMKERN_HD bool similar_distances(double d, double other, double tolerance) { return fabs(d - other) <= 4 * tolerance; }

// Rows: the bisectors of the directions of a and b, and their normal. Of two pairs with different angles none is
// preferred, unlike in a frame that begins with a.
SYMKERN_HD void bisector_frame(const double* a, const double* b, double f[3][3]) {
  double ua[3] = {a[0], a[1], a[2]}, ub[3] = {b[0], b[1], b[2]};
  normalize3(ua);
  normalize3(ub);
  for (int k = 0; k < 3; ++k) f[0][k] = ua[k] + ub[k], f[1][k] = ua[k] - ub[k];
  const int first = dot3(f[0], f[0]) >= dot3(f[1], f[1]) ? 0 : 1;
  double *e = f[first], *g = f[1 - first];
  normalize3(e);
  const double along = dot3(e, g);
  for (int k = 0; k < 3; ++k) g[k] = fma(-along, e[k], g[k]);
  if (dot3(g, g) < 1e-16 || !normalize3(g)) perpendicular3(e, g);
  cross3(f[0], f[1], f[2]);
}

// First guess: the frame `from` onto `to`, with the determinant in the normal.
SYMKERN_HD void frame_rotation(const double from[3][3], const double to[3][3], int det, double* r) {
  for (int i = 0; i < 3; ++i) {
    for (int j = 0; j < 3; ++j) {
      r[3 * i + j] = fma(to[0][i], from[0][j], fma(to[1][i], from[1][j], det * to[2][i] * from[2][j]));
    }
  }
}

// By how much, per distance from the centroid, the first guess can be off for an operation with residual up to 2 tol.
// Directions of a and b are off by angles alpha, beta <= asin(2 tol / r); bisectors share the difference, so the guess
// is off by at most (3 max + min) / 2 at a and b; and a rotation that moves two directions at an angle theta this
// little has at least one of them at sin(theta / 2) from its axis.
SYMKERN_HD double guess_error(const double* a, const double* b, double tolerance) {
  const double aa = dot3(a, a), bb = dot3(b, b), t = 4 * tolerance * tolerance;
  if (!(aa > 2 * t) || !(bb > 2 * t)) return 1e300;
  const double alpha = sqrt(t / (aa - t)), beta = sqrt(t / (bb - t));
  const double off = alpha > beta ? 1.5 * alpha + 0.5 * beta : 1.5 * beta + 0.5 * alpha;
  const double cosine = fabs(dot3(a, b)) / sqrt(aa * bb), half = 0.5 * (1 - cosine);  // sin^2(theta / 2)
  return half > 1e-12 ? 1.0001 * off / sqrt(half) : 1e300;
}

// Farthest an atom at radius r may be from its partner under the first guess.
SYMKERN_HD double guess_reach(double error, double r, double tolerance) {
  return fma(error, r, 2 * tolerance) * 1.0001 + 1e-12;
}

// Nearest of the atoms [begin, end) to the point z; ties go to the first. -1 if there is none.
SYMKERN_HD int32_t nearest_atom(const double* z, const double* y, int32_t begin, int32_t end, double& least) {
  int32_t found = -1;
  least = 1e300;
  for (int32_t j = begin; j < end; ++j) {
    const double d = distance_sq3(z, y + 3 * j);
    found = d < least ? j : found;  // without branches, which nothing would predict
    least = d < least ? d : least;
  }
  return found;
}

// The same of the atoms begin, begin + step, ... < end that are not `used` (marked with `stamp`).
SYMKERN_HD int32_t nearest_free_atom(const double* z, const double* y, int32_t begin, int32_t end, int32_t step,
                                     const int32_t* used, int32_t stamp, double& least) {
  int32_t found = -1;
  least = 1e300;
  for (int32_t j = begin; j < end; j += step) {
    const double d = used[j] != stamp ? distance_sq3(z, y + 3 * j) : 1e300;
    found = d < least ? j : found;
    least = d < least ? d : least;
  }
  return found;
}

SYMKERN_HD void add_outer(const double* to, const double* from, double* h) {  // h += to from^T
  for (int i = 0; i < 3; ++i) {
    for (int j = 0; j < 3; ++j) h[3 * i + j] = fma(to[i], from[j], h[3 * i + j]);
  }
}

SYMKERN_HD double residual_sq(const double* r, const double* from, const double* to) {
  double z[3];
  multiply3(r, from, z);
  return distance_sq3(z, to);
}

// ---- the group -----------------------------------------------------------------------------------------------------

// Where the operation that sends the reference pair (a, b) to (pa, pb) with `det` is in a table over the images of a
// and b: places [a_begin, a_end) x [b_begin, b_end) in the order of species and radius.
struct OperationKeys {
  const int32_t* place;  // of an atom in that order
  int32_t a, b, a_begin, a_end, b_begin, b_end;

  SYMKERN_HD int64_t size() const {
    return 2 * static_cast<int64_t>(a_end - a_begin) * static_cast<int64_t>(b_end - b_begin);
  }
  // -1 where the pair is no possible image
  SYMKERN_HD int64_t operator()(int32_t pa, int32_t pb, int det) const {
    const int32_t i = place[pa], j = place[pb];
    if (i < a_begin || i >= a_end || j < b_begin || j >= b_end) return -1;
    return 2 * ((i - a_begin) * static_cast<int64_t>(b_end - b_begin) + (j - b_begin)) + (det < 0);
  }
};

// Operations of one molecule, number 0 the identity: an integer group, without tolerances.
struct OperationSet {
  OperationKeys keys;
  const int32_t* table;  // keys.size(): number of the operation + 1; 0 or less if there is none
  const int32_t* permutations;
  const int8_t* dets;
  int64_t atoms;

  SYMKERN_HD const int32_t* permutation(int32_t g) const { return permutations + g * atoms; }
  SYMKERN_HD int64_t product_key(int32_t g, int32_t h) const {  // first h, then g
    const int32_t *p = permutation(g), *q = permutation(h);
    return keys(p[q[keys.a]], p[q[keys.b]], dets[g] * dets[h]);
  }
  SYMKERN_HD int32_t product(int32_t g, int32_t h) const {  // -1: not among them
    const int64_t k = product_key(g, h);
    return k < 0 || table[k] <= 0 ? -1 : table[k] - 1;
  }
  // The order of the result: proper before improper, then lexicographic in the permutation.
  SYMKERN_HD bool before(int32_t g, int32_t h) const {
    if (dets[g] != dets[h]) return dets[g] > dets[h];
    const int32_t *p = permutation(g), *q = permutation(h);
    for (int64_t i = 0; i < atoms; ++i) {
      if (p[i] != q[i]) return p[i] < q[i];
    }
    return g < h;
  }
};

constexpr int kMaxGenerators = 32;  // each at least doubles a group

struct Subgroup {
  int32_t* members;
  uint8_t* is_member;  // of all operations
  int32_t count, num_generators;
  int32_t generators[kMaxGenerators];
};

SYMKERN_HD void start_subgroup(Subgroup& s) {
  s.members[0] = 0;
  s.is_member[0] = 1;
  s.count = 1;
  s.num_generators = 0;
}

// Adds operation g and all that follows from it; false, and unchanged, if that leaves the set.
SYMKERN_HD bool extend_subgroup(const OperationSet& set, Subgroup& s, int32_t g) {
  const int32_t old = s.count;
  if (s.num_generators == kMaxGenerators) return false;
  s.generators[s.num_generators++] = g;
  bool inside = true;
  for (int32_t k = 0; inside && k < s.count; ++k) {
    for (int32_t j = k < old ? s.num_generators - 1 : 0; j < s.num_generators; ++j) {
      const int32_t m = set.product(s.members[k], s.generators[j]);
      if (m < 0) {
        inside = false;
        break;
      }
      if (!s.is_member[m]) s.is_member[m] = 1, s.members[s.count++] = m;
    }
  }
  if (inside) return true;
  for (int32_t k = old; k < s.count; ++k) s.is_member[s.members[k]] = 0;
  s.count = old;
  --s.num_generators;
  return false;
}

// Residuals closer than this are equal: equivalent operations differ by rounding, which must not choose between them.
SYMKERN_HD double residual_rank(double residual, double tolerance) { return rint(residual / tolerance * 1e8); }

// Whether the first `count` operations, in this order, form a group; then s holds it.
SYMKERN_HD bool forms_group(const OperationSet& set, Subgroup& s, const int32_t* order, int32_t count) {
  start_subgroup(s);
  for (int32_t k = 0; k < count; ++k) {
    if (!s.is_member[order[k]] && !extend_subgroup(set, s, order[k])) return false;
  }
  return true;
}

// Grows a group inside the set, operation by operation in this order, leaving out those that would leave the set.
SYMKERN_HD void grow_group(const OperationSet& set, Subgroup& s, const int32_t* order, int32_t count) {
  for (int32_t k = 0; k < count; ++k) {
    if (!s.is_member[order[k]]) extend_subgroup(set, s, order[k]);
  }
}

struct GroupCounts {
  int64_t order, proper, top, mirrors, inversions;  // top: highest order of a proper rotation
};

// Only counts decide the name: S4, S8, S12, ... have no improper involution, by which they differ from C2, C4, C6, ...
SYMKERN_HD int64_t group_of_counts(const GroupCounts& c) {
  const int64_t n = c.top;
  const bool pure = c.order == c.proper;
  if (c.proper == 12 && n == 3) {
    return group_code(pure ? Family::t : c.inversions > 0 ? Family::th : Family::td);
  }
  if (c.proper == 24 && n == 4) return group_code(pure ? Family::o : Family::oh);
  if (c.proper == 60 && n == 5) return group_code(pure ? Family::i : Family::ih);
  if (c.proper == 1) return group_code(pure ? Family::c1 : c.mirrors > 0 ? Family::cs : Family::ci);
  if (n == c.proper) {
    if (pure) return group_code(Family::cn, n);
    if (c.mirrors == 0) return group_code(Family::sn, 2 * n);
    return group_code(c.mirrors == n ? Family::cnv : Family::cnh, n);
  }
  if (pure) return group_code(Family::dn, n);
  return group_code(c.mirrors == n ? Family::dnd : Family::dnh, n);
}

// `matrices` tell mirrors from inversion by their trace. `seen` (of all operations) is scratch.
SYMKERN_HD GroupCounts count_group(const OperationSet& set, const int32_t* members, int32_t count,
                                   const double* matrices, uint8_t* seen) {
  GroupCounts c{count, 0, 1, 0, 0};
  for (int32_t k = 0; k < count; ++k) seen[members[k]] = 0;
  for (int32_t k = 0; k < count; ++k) {
    const int32_t g = members[k];
    if (set.dets[g] < 0) {
      if (set.product(g, g) != 0) continue;
      const double* r = matrices + 9 * static_cast<int64_t>(g);
      ++(r[0] + r[4] + r[8] > -1 ? c.mirrors : c.inversions);
      continue;
    }
    ++c.proper;
    if (seen[g]) continue;  // a power of another rotation, hence of no higher order
    int64_t n = 1;
    for (int32_t power = g; power > 0 && n <= count; power = set.product(power, g)) {
      seen[power] = 1;
      ++n;
    }
    if (n > c.top) c.top = n;
  }
  return c;
}

// ---- linear molecules ----------------------------------------------------------------------------------------------

// Whether r turns the line around. (With the atoms left in place Kabsch finds a mirror plane through the axis.)
SYMKERN_HD bool turns_around(const double* r, const double* axis) {
  double image[3];
  multiply3(r, axis, image);
  return dot3(image, axis) < 0;
}

// Operation k of `samples` rotations about the axis and then as many mirror planes through it, times the inversion.
SYMKERN_HD void linear_operation(const double* axis, int64_t k, int64_t samples, bool inverted, double* r) {
  double u[3], v[3];
  perpendicular3(axis, u);
  cross3(axis, u, v);
  const int sign = k < samples ? 1 : -1;
  const double angle = 6.283185307179586 * static_cast<double>(k % samples) / static_cast<double>(samples);
  const double c = cos(angle), s = sin(angle), scale = inverted ? -1 : 1;
  for (int i = 0; i < 3; ++i) {
    const double x = fma(c, u[i], s * v[i]), y = sign * fma(c, v[i], -(s * u[i]));  // images of u and v
    for (int j = 0; j < 3; ++j) r[3 * i + j] = scale * fma(axis[i], axis[j], fma(x, u[j], y * v[j]));
  }
}

}  // namespace
}  // namespace symkern
