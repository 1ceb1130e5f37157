// The canonical frame of one molecule, torch-free: what is chosen, and how ties are decided.
//
// Every choice is a contest: candidates are compared by one key after another, and those within a window of the best
// stay. Keys do not depend on rotation, translation or atom order, and the window is far wider than rounding noise, so
// neither do the winners. What still ties is decided by smooth functions of the coordinates in the candidate frames.
#pragma once

#include "core/lattice.h"
#include "core/vec3.h"

#include <cmath>
#include <cstdint>

namespace symkern {
namespace frames {

SYMKERN_HD double infinity() { return HUGE_VAL; }
SYMKERN_HD double norm(Vec3 a) { return sqrt(dot(a, a)); }
SYMKERN_HD Vec3 unit(Vec3 a) { return (1 / norm(a)) * a; }
SYMKERN_HD double det(const Mat3& m) { return dot(m.a, cross(m.b, m.c)); }
SYMKERN_HD Vec3 apply(const Mat3& m, Vec3 v) { return {dot(m.a, v), dot(m.b, v), dot(m.c, v)}; }
SYMKERN_HD Vec3 apply_transposed(const Mat3& m, Vec3 v) { return v.x * m.a + v.y * m.b + v.z * m.c; }

// Vectors of fewer than this part of the longest have no part in a frame: their direction would be uncertain.
constexpr double kShort = 0.2937;

// A frame as its three unit vectors: coordinates of v are the dot products.
struct Frame {
  Vec3 x, y, z;
  SYMKERN_HD Vec3 coordinates(Vec3 v) const { return {dot(x, v), dot(y, v), dot(z, v)}; }
};

// `first` becomes z, `second` lies in the half-plane of z and x; `hand` is the determinant.
SYMKERN_HD Frame make_frame(Vec3 first, Vec3 second, double hand) {
  const Vec3 z = unit(first);
  Vec3 x = second - dot(second, z) * z;
  x = x - dot(x, z) * z;  // once more, for what cancels where both are nearly parallel
  x = unit(x);
  return {x, hand * cross(z, x), z};
}

SYMKERN_HD Frame undefined() {
  const double nan = infinity() - infinity();
  return {{nan, nan, nan}, {nan, nan, nan}, {nan, nan, nan}};
}

SYMKERN_HD Frame image(const Mat3& r, const Frame& f) { return {apply(r, f.x), apply(r, f.y), apply(r, f.z)}; }

// ---- contests
// --------------------------------------------------------------------------------------------------------

constexpr int kMaxLevels = 10;

struct Cuts {
  double cut[kMaxLevels];
  int levels;  // keys that were needed
  int64_t winners;
  double gap;  // smallest difference between winners and the best of the others
};

template <class Game>
SYMKERN_HD bool passes(const Game& game, const Cuts& cuts, const typename Game::Candidate& c, int levels) {
  for (int l = 0; l < levels; ++l) {
    if (!(game.key(l, c) >= cuts.cut[l])) return false;
  }
  return true;
}

// Game: count(), at(index) the candidates, levels(), key(level, candidate) with the larger the better, window(level),
// and length(level), what makes a difference of keys a length in Å (0: the key is a whole number).
template <class Game>
SYMKERN_HD Cuts contest(const Game& game) {
  Cuts cuts{{}, 0, 0, infinity()};
  for (int l = 0; l < game.levels(); ++l) {
    double best = -infinity(), other = -infinity();
    for (int64_t n = 0; n < game.count(); ++n) {
      const auto c = game.at(n);
      if (passes(game, cuts, c, l)) best = fmax(best, game.key(l, c));
    }
    cuts.cut[l] = best - game.window(l);
    cuts.levels = l + 1;
    cuts.winners = 0;
    for (int64_t n = 0; n < game.count(); ++n) {
      const auto c = game.at(n);
      if (!passes(game, cuts, c, l)) continue;
      const double key = game.key(l, c);
      if (key >= cuts.cut[l]) {
        ++cuts.winners;
      } else {
        other = fmax(other, key);
      }
    }
    if (game.length(l) > 0 && other > -infinity()) cuts.gap = fmin(cuts.gap, game.length(l) * (best - other));
    if (cuts.winners <= 1 && l >= 1) break;
  }
  return cuts;
}

template <class Game>
SYMKERN_HD int64_t first_winner(const Game& game, const Cuts& cuts) {
  for (int64_t n = 0; n < game.count(); ++n) {
    if (passes(game, cuts, game.at(n), cuts.levels)) return n;
  }
  return -1;
}

// Level 0 asks whether a candidate is long enough. A winner that nearly is not, or a candidate that nearly is and would
// have won, makes the choice uncertain too.
template <class Game>
SYMKERN_HD double gap_of_lengths(const Game& game, const Cuts& cuts) {
  double gap = infinity();
  for (int64_t n = 0; n < game.count(); ++n) {
    const auto c = game.at(n);
    const double excess = game.excess(c);
    bool wins = excess > -infinity();
    for (int l = 1; wins && l < cuts.levels; ++l) {
      const double key = game.key(l, c);
      if (key > cuts.cut[l] + 2 * game.window(l)) break;
      wins = key >= cuts.cut[l];
    }
    if (wins) gap = fmin(gap, fabs(excess));
  }
  return gap;
}

// ---- one molecule
// ----------------------------------------------------------------------------------------------------

struct Molecule {
  int64_t begin, n, ops;
  const int64_t* numbers;                                // (n)
  const int64_t* permutations;                           // (ops, n), indices count from `begin`
  const int64_t* orbits;                                 // (n), likewise
  Mat3* operations;                                      // (ops)
  Vec3 *raw, *y, *work;                                  // (n) centred positions; made symmetric; work space
  double *radius, *distance, *height, *size, *off_axis;  // (n)
  int64_t* list;                                         // (n)
  double r_max, weight;                                  // longest radius; sqrt of the sum of Z
  double window;                                         // relative difference that counts as none
  bool proper, chiral;                                   // right-handed frames only; no operation is improper

  SYMKERN_HD int64_t to(int64_t g, int64_t i) const { return permutations[g * n + i] - begin; }
  SYMKERN_HD bool represents(int64_t i) const { return orbits[i] - begin == i; }
  SYMKERN_HD double number(int64_t i) const { return static_cast<double>(numbers[i]); }
};

// Smooth functions that tell two arrangements of the same atoms apart; no operation of a point group keeps them all.
constexpr int kFunctions = 4;

SYMKERN_HD Vec3 wave(int m) {
  return m == 0   ? Vec3{0.612, 0.927, 1.283}
         : m == 1 ? Vec3{1.171, -0.533, 0.829}
         : m == 2 ? Vec3{-0.447, 1.309, 0.691}
                  : Vec3{0.953, 0.761, -1.127};
}

// sum_i sqrt(Z_i) cos(k_m . r_i + m), r in the frame, over sqrt(sum Z)
SYMKERN_HD double smooth(const Molecule& mol, const Vec3* r, const Frame& f, int m) {
  const Vec3 k = wave(m), back = k.x * f.x + k.y * f.y + k.z * f.z;
  double sum = 0;
  for (int64_t i = 0; i < mol.n; ++i) sum += sqrt(mol.number(i)) * cos(dot(back, r[i]) + m);
  return sum / mol.weight;
}

// A change of the functions as the smallest displacement of all atoms that can cause it.
SYMKERN_HD double smooth_length(const Molecule& mol, int m) {
  double sum = 0;
  for (int64_t i = 0; i < mol.n; ++i) sum += sqrt(mol.number(i));
  return mol.weight / (sum * norm(wave(m)));
}

// ---- the symmetric structure
// -----------------------------------------------------------------------------------------

// One Newton step towards the rotation (times the sign of r) that takes y_i nearest to y_p(i): exact to second order.
SYMKERN_HD Mat3 refine(const Mat3& r, const Molecule& mol, int64_t g) {
  double xx = 0, yy = 0, zz = 0, xy = 0, xz = 0, yz = 0;
  Vec3 torque{0, 0, 0};
  for (int64_t i = 0; i < mol.n; ++i) {
    const Vec3 a = mol.y[i], b = apply_transposed(r, mol.y[mol.to(g, i)]);
    torque = torque + cross(a, b);
    xx += a.x * b.x, yy += a.y * b.y, zz += a.z * b.z;
    xy += 0.5 * (a.x * b.y + a.y * b.x), xz += 0.5 * (a.x * b.z + a.z * b.x), yz += 0.5 * (a.y * b.z + a.z * b.y);
  }
  const Mat3 inertia{{yy + zz, -xy, -xz}, {-xy, xx + zz, -yz}, {-xz, -yz, xx + yy}};
  const Vec3 p = cross(inertia.b, inertia.c), q = cross(inertia.c, inertia.a), s = cross(inertia.a, inertia.b);
  const double d = dot(inertia.a, p);
  if (!(fabs(d) > 0)) return r;
  const Vec3 half = (0.5 / d) * (torque.x * p + torque.y * q + torque.z * s);
  // the rotation of the quaternion (1, half), to the right of r
  const double scale = 2 / (1 + dot(half, half));
  const Vec3 rows[3] = {r.a, r.b, r.c};
  Vec3 out[3];
  for (int k = 0; k < 3; ++k) {
    // row of r times Q = Q^T applied to the row
    const Vec3 v = rows[k];
    out[k] = v - scale * cross(half, v - cross(half, v));
  }
  return {out[0], out[1], out[2]};
}

SYMKERN_HD Mat3 orthonormal(const Mat3& m) {
  const double sign = det(m) < 0 ? -1 : 1;
  const Vec3 a = unit(m.a), b = unit(m.b - dot(m.b, a) * a);
  return {a, b, sign * cross(a, b)};
}

// y_i <- mean_g R_g^T y_p(i), R_g <- best rotation: until the matrices are an exact group and y has its symmetry.
SYMKERN_HD void symmetrize(Molecule& mol) {
  for (int64_t i = 0; i < mol.n; ++i) mol.y[i] = mol.raw[i];
  if (mol.ops <= 1) return;
  for (int64_t g = 0; g < mol.ops; ++g) mol.operations[g] = refine(orthonormal(mol.operations[g]), mol, g);
  for (int round = 0; round < 8; ++round) {
    for (int64_t i = 0; i < mol.n; ++i) {
      Vec3 sum{0, 0, 0};
      for (int64_t g = 0; g < mol.ops; ++g) sum = sum + apply_transposed(mol.operations[g], mol.y[mol.to(g, i)]);
      mol.work[i] = (1.0 / static_cast<double>(mol.ops)) * sum;
    }
    double change = 0;
    for (int64_t i = 0; i < mol.n; ++i) {
      change = fmax(change, norm(mol.work[i] - mol.y[i]));
      mol.y[i] = mol.work[i];
    }
    for (int64_t g = 0; g < mol.ops; ++g) mol.operations[g] = refine(mol.operations[g], mol, g);
    if (change <= 1e-13 * mol.r_max) break;
  }
}

// ---- what is chosen
// --------------------------------------------------------------------------------------------------

// The first vector: small orbits, heavy atoms, long radii, large mean distance to all atoms.
struct Orbits {
  using Candidate = int64_t;
  const Molecule& mol;

  SYMKERN_HD int64_t count() const { return mol.n; }
  SYMKERN_HD int64_t at(int64_t i) const { return i; }
  SYMKERN_HD int levels() const { return 5; }
  SYMKERN_HD double excess(int64_t i) const {
    return mol.represents(i) ? mol.radius[i] - kShort * mol.r_max : -infinity();
  }
  SYMKERN_HD double key(int level, int64_t i) const {
    switch (level) {
      case 0:
        return excess(i) >= 0 ? 1 : 0;
      case 1:
        return -mol.size[i];
      case 2:
        return mol.number(i);
      case 3:
        return mol.radius[i];
      default:
        return mol.distance[i];
    }
  }
  SYMKERN_HD double window(int level) const { return level < 3 ? 0.5 : mol.window * mol.r_max; }
  SYMKERN_HD double length(int level) const { return level < 3 ? 0 : level == 3 ? 1 : 0.5; }
  // 1 where a ranks before b, -1 after, 0 where they tie.
  SYMKERN_HD int compare(int64_t a, int64_t b) const {
    for (int l = 0; l < levels(); ++l) {
      const double difference = key(l, a) - key(l, b);
      if (fabs(difference) > window(l)) return difference > 0 ? 1 : -1;
    }
    return 0;
  }
};

// The second vector, for one atom i of each of the best orbits: pairs (i, j) that many operations keep, heavy atoms,
// far from the line of the first, long radii. Then one pair of those that operations carry into each other, in both
// hands, then the smooth functions.
struct Pairs {
  struct Candidate {
    int64_t i, j;
    double hand;
  };
  const Molecule& mol;
  int64_t firsts;

  // Where operations are improper, a left-handed frame stands for its right-handed images too.
  SYMKERN_HD int64_t count() const { return firsts * mol.n * hands(); }
  SYMKERN_HD int levels() const { return 6 + kFunctions; }
  SYMKERN_HD Candidate at(int64_t n) const {
    const int64_t pair = n / hands(), place = pair / mol.n;
    return {mol.list[place], pair - place * mol.n, n == pair * hands() ? 1.0 : -1.0};
  }
  SYMKERN_HD Frame frame(const Candidate& c) const { return make_frame(mol.y[c.i], mol.y[c.j], c.hand); }

  SYMKERN_HD double height(int64_t i, int64_t j) const { return norm(cross(mol.y[i], mol.y[j])) / mol.radius[i]; }
  // The same, from where general_frame has put it: mostly there is one first atom.
  SYMKERN_HD double known_height(int64_t i, int64_t j) const { return firsts == 1 ? mol.off_axis[j] : height(i, j); }
  SYMKERN_HD double excess(const Candidate& c) const { return known_height(c.i, c.j) - kShort * mol.height[c.i]; }
  SYMKERN_HD double key(int level, const Candidate& c) const {
    switch (level) {
      case 0:
        return excess(c) >= 0 ? 1 : 0;
      case 1:
        return kept(c.i, c.j);
      case 2:
        return mol.number(c.j);
      case 3:
        return known_height(c.i, c.j);
      case 4:
        return mol.radius[c.j];
      case 5:
        return leads(c.i, c.j, c.hand) ? 1 : 0;
      default:
        return smooth(mol, mol.y, frame(c), level - 6);
    }
  }
  SYMKERN_HD double window(int level) const {
    return level < 3 || level == 5 ? 0.5 : level < 5 ? mol.window * mol.r_max : mol.window;
  }
  SYMKERN_HD double length(int level) const {
    return level < 3 || level == 5 ? 0 : level < 5 ? 1 : smooth_length(mol, level - 6);
  }

 private:
  SYMKERN_HD int64_t hands() const { return mol.proper && mol.chiral ? 1 : 2; }
  // Operations that keep both atoms.
  SYMKERN_HD double kept(int64_t i, int64_t j) const {
    if (mol.ops <= 1) return 1;
    int64_t count = 0;
    for (int64_t g = 0; g < mol.ops; ++g) count += mol.to(g, i) == i && mol.to(g, j) == j;
    return static_cast<double>(count);
  }
  // Whether the frame is the first among its images that start from atom i too. They all show the symmetric structure
  // in the same coordinates, so it does not matter which one stands for them.
  SYMKERN_HD bool leads(int64_t i, int64_t j, double hand) const {
    for (int64_t g = 0; g < mol.ops; ++g) {
      if (mol.to(g, i) != i) continue;
      const double turned = det(mol.operations[g]) < 0 ? -hand : hand;
      const int64_t other = mol.to(g, j);
      if (other < j || (other == j && turned > hand)) return false;
    }
    return true;
  }
};

// Frames of equal rank, and their images under the operations: the raw positions decide.
constexpr int kMaxEqual = 16;

struct Images {
  using Candidate = Frame;
  const Molecule& mol;
  const Frame* equal;
  int64_t number;

  SYMKERN_HD int64_t count() const { return number * mol.ops; }
  SYMKERN_HD int levels() const { return 1 + kFunctions; }
  SYMKERN_HD Frame at(int64_t n) const { return image(mol.operations[n % mol.ops], equal[n / mol.ops]); }
  SYMKERN_HD double key(int level, const Frame& f) const {
    if (level == 0) return mol.proper && dot(cross(f.x, f.y), f.z) < 0 ? 0 : 1;
    return smooth(mol, mol.raw, f, level - 1);
  }
  SYMKERN_HD double window(int level) const { return level == 0 ? 0.5 : mol.window; }
  SYMKERN_HD double length(int) const { return 0; }
};

// ---- linear molecules
// ------------------------------------------------------------------------------------------------

// Which end of the axis is up, for the positions on it.
struct Ends {
  using Candidate = Frame;
  const Molecule& mol;
  Frame up;

  SYMKERN_HD int64_t count() const { return 2; }
  SYMKERN_HD int levels() const { return 1 + kFunctions; }
  SYMKERN_HD Frame at(int64_t n) const { return {up.x, up.y, (n == 0 ? 1.0 : -1.0) * up.z}; }
  SYMKERN_HD double key(int level, const Frame& f) const { return level == 0 ? 1 : smooth(mol, mol.y, f, level - 1); }
  SYMKERN_HD double window(int level) const { return level == 0 ? 0.5 : mol.window; }
  SYMKERN_HD double length(int level) const { return level == 0 ? 0 : smooth_length(mol, level - 1); }
};

// Rotation about the axis: the atom farthest from it (within the tolerance, so that it says little), both hands.
struct Turns {
  struct Candidate {
    int64_t j;
    double hand, end;
  };
  const Molecule& mol;
  Vec3 axis;
  bool both;  // ends are alike

  SYMKERN_HD int64_t count() const { return 4 * mol.n; }
  SYMKERN_HD int levels() const { return 2 + kFunctions; }
  SYMKERN_HD Vec3 off(int64_t j) const { return mol.raw[j] - dot(mol.raw[j], axis) * axis; }
  SYMKERN_HD Candidate at(int64_t n) const { return {n >> 2, n & 1 ? -1.0 : 1.0, n & 2 ? -1.0 : 1.0}; }
  SYMKERN_HD Frame frame(const Candidate& c) const { return make_frame(c.end * axis, off(c.j), c.hand); }
  SYMKERN_HD double key(int level, const Candidate& c) const {
    if (level == 0) return (mol.proper && c.hand < 0) || (!both && c.end < 0) ? 0 : 1;
    return level == 1 ? norm(off(c.j)) : smooth(mol, mol.raw, frame(c), level - 2);
  }
  SYMKERN_HD double window(int level) const {
    return level == 0 ? 0.5 : level == 1 ? mol.window * mol.r_max : mol.window;
  }
  SYMKERN_HD double length(int) const { return 0; }
};

// The direction in which the raw positions extend most, from an estimate of it.
SYMKERN_HD Vec3 long_axis(const Molecule& mol, Vec3 axis) {
  for (int round = 0; round < 12; ++round) {
    Vec3 sum{0, 0, 0};
    for (int64_t i = 0; i < mol.n; ++i) sum = sum + dot(mol.raw[i], axis) * mol.raw[i];
    if (!(norm(sum) > 0)) break;
    axis = unit(sum);
  }
  return axis;
}

SYMKERN_HD Frame linear_frame(Molecule& mol, Vec3 axis, double& gap) {
  axis = long_axis(mol, axis);
  for (int64_t i = 0; i < mol.n; ++i) mol.y[i] = dot(mol.raw[i], axis) * axis;
  // both ends alike: the structure on the axis is its own image
  for (int64_t g = 0; g < mol.ops; ++g) {
    if (dot(apply(mol.operations[g], axis), axis) > 0) continue;
    for (int64_t i = 0; i < mol.n; ++i) mol.work[i] = 0.5 * (mol.y[i] - mol.y[mol.to(g, i)]);
    for (int64_t i = 0; i < mol.n; ++i) mol.y[i] = mol.work[i];
    break;
  }
  const Vec3 any = lattice_detail::orthogonal_to(&axis, 1);
  const Ends ends{mol, make_frame(axis, any, 1)};
  const Cuts chosen = contest(ends);
  gap = fmin(gap, chosen.gap);
  axis = ends.at(first_winner(ends, chosen)).z;
  const Turns turns{mol, axis, chosen.winners > 1};
  double farthest = 0;
  for (int64_t i = 0; i < mol.n; ++i) farthest = fmax(farthest, norm(turns.off(i)));
  if (!(farthest > mol.window * mol.r_max)) return make_frame(axis, any, 1);
  return turns.frame(turns.at(first_winner(turns, contest(turns))));
}

// ---- all together
// ----------------------------------------------------------------------------------------------------

SYMKERN_HD void measure_orbits(Molecule& mol) {
  for (int64_t i = 0; i < mol.n; ++i) mol.size[i] = 0;
  for (int64_t i = 0; i < mol.n; ++i) mol.size[mol.orbits[i] - mol.begin] += 1;
  for (int64_t i = 0; i < mol.n; ++i) {
    mol.radius[i] = norm(mol.y[i]);
    mol.size[i] = mol.size[mol.orbits[i] - mol.begin];
    double sum = 0;
    if (mol.represents(i)) {
      for (int64_t j = 0; j < mol.n; ++j) sum += norm(mol.y[j] - mol.y[i]);
    }
    mol.distance[i] = sum / static_cast<double>(mol.n);
  }
}

SYMKERN_HD Frame general_frame(Molecule& mol, double& gap) {
  const Orbits orbits{mol};
  const Cuts best = contest(orbits);
  gap = fmin(gap, fmin(best.gap, gap_of_lengths(orbits, best)));
  Pairs pairs{mol, 0};
  for (int64_t i = 0; i < mol.n; ++i) {
    if (!mol.represents(i) || !passes(orbits, best, i, best.levels)) continue;
    mol.list[pairs.firsts++] = i;
    mol.height[i] = 0;
    for (int64_t j = 0; j < mol.n; ++j) {
      mol.off_axis[j] = pairs.height(i, j);
      mol.height[i] = fmax(mol.height[i], mol.off_axis[j]);
    }
  }
  // near-linear molecules whose operations straighten them
  if (!(mol.height[mol.list[0]] > mol.window * mol.r_max)) return linear_frame(mol, unit(mol.y[mol.list[0]]), gap);
  const Cuts chosen = contest(pairs);
  gap = fmin(gap, fmin(chosen.gap, gap_of_lengths(pairs, chosen)));
  Frame equal[kMaxEqual];
  int64_t number = 0;
  for (int64_t c = 0; c < pairs.count() && number < kMaxEqual; ++c) {
    const Pairs::Candidate pair = pairs.at(c);
    if (passes(pairs, chosen, pair, chosen.levels)) equal[number++] = pairs.frame(pair);
  }
  if (number == 1 && mol.ops <= 1) return equal[0];
  const Images images{mol, equal, number};
  const int64_t best_image = first_winner(images, contest(images));
  if (best_image < 0) return undefined();  // positions that are not finite, or not those of the operations
  return images.at(best_image);
}

// Place of each orbit: how many rank before it. Orbits that tie are told apart by where they lie in the frame.
SYMKERN_HD void rank_orbits(Molecule& mol, const Frame& frame, int64_t* rank) {
  const Orbits orbits{mol};
  for (int64_t i = 0; i < mol.n; ++i) mol.height[i] = -infinity();
  for (int64_t i = 0; i < mol.n; ++i) {
    double& place = mol.height[mol.orbits[i] - mol.begin];
    place = fmax(place, dot(wave(0), frame.coordinates(mol.y[i])));
  }
  for (int64_t i = 0; i < mol.n; ++i) {
    if (!mol.represents(i)) continue;
    rank[i] = 0;
    for (int64_t j = 0; j < mol.n; ++j) {
      if (j == i || !mol.represents(j)) continue;
      const int order = orbits.compare(j, i);
      rank[i] += order > 0 || (order == 0 && mol.height[j] > mol.height[i] + mol.window * mol.r_max);
    }
  }
  for (int64_t i = 0; i < mol.n; ++i) rank[i] = rank[mol.orbits[i] - mol.begin];
}

}  // namespace frames
}  // namespace symkern
