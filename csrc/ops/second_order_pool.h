// Second-order features of rotated coordinates y = x R and their adjoint, over numbers N (core/dual.h): with N = double
// the features and the gradient of their weighted sum; with N = Dual how both change along a direction of the inputs,
// which is the adjoint of the gradient.
//
// Loops are cut by template parameters: long pieces for host threads, short neighboring ones for those of a device.
#pragma once

#include <cmath>
#include <cstdint>
#include <type_traits>

#include "core/dual.h"
#include "ops/chamfer.h"

namespace symkern {

enum class PoolMode : int { outer, gram, moment };

constexpr int64_t kPoolAtoms = 15, kPoolFeatures = 225;  // of outer and gram

// Row r of the upper triangle of the outer product, 45 x 45: as many as there are among the first 225 entries.
constexpr int64_t kOuterRows = 6;
SYMKERN_HD int64_t outer_begin(int64_t r) { return r * (6 * kPoolAtoms + 1 - r) / 2; }
SYMKERN_HD int64_t outer_columns(int64_t r) {
  const int64_t columns = 3 * kPoolAtoms - r, left = kPoolFeatures - outer_begin(r);
  return columns < left ? columns : left;
}

// A tensor as numbers N.
template <class T, class N>
struct PoolField {
  const T* value;
  const T* change;  // or nullptr: none

  SYMKERN_HD N operator[](int64_t i) const {
    if constexpr (std::is_same_v<N, Dual>) {
      return Dual(value[i], change != nullptr ? change[i] : T(0));
    } else {
      return value[i];
    }
  }
  SYMKERN_HD VecOf<N> row(int64_t i) const { return {(*this)[3 * i], (*this)[3 * i + 1], (*this)[3 * i + 2]}; }
};

// What is asked for: the value, or the change.
SYMKERN_HD double outcome(double x) { return x; }
SYMKERN_HD double outcome(Dual x) { return x.d; }

template <class T, class N>
struct PoolInput {
  PoolMode mode;
  PoolField<T, N> x;         // (N, 3)
  PoolField<T, N> rotation;  // (3, 3) if shared, else (B, 3, 3)
  PoolField<T, N> weights;   // (N, C), or null
  Ragged atoms;
  int64_t channels;  // C, 1 without weights
  bool shared;

  SYMKERN_HD VecOf<N> matrix_row(int64_t b, int64_t k) const { return rotation.row(3 * (shared ? 0 : b) + k); }
  SYMKERN_HD N weight(int64_t i, int64_t c) const {
    return weights.value != nullptr ? weights[i * channels + c] : N(1);
  }
  SYMKERN_HD int64_t count(int64_t b) const { return atoms.bound(b + 1) - atoms.bound(b); }
  SYMKERN_HD int64_t width() const { return mode == PoolMode::moment ? 9 * channels : kPoolFeatures; }
};

template <class N>
SYMKERN_HD VecOf<N> row_of(const N* y, int64_t i) {
  return {y[3 * i], y[3 * i + 1], y[3 * i + 2]};
}

// ---- the atoms of a molecule one after the other, or each by itself -------------------------------------------------

template <class F>
struct AtomsOfMolecule {
  F f;
  SYMKERN_HD void operator()(int64_t b) const {
    for (int64_t i = f.in.atoms.bound(b); i < f.in.atoms.bound(b + 1); ++i) f.atom(b, i);
  }
};

// On a device ptr is not checked: there may be atoms of no molecule.
template <class F>
struct EachAtom {
  F f;
  SYMKERN_HD void operator()(int64_t i) const {
    const int64_t b = f.in.atoms.owner(i);
    if (b < f.in.atoms.count && i >= f.in.atoms.bound(b)) {
      f.atom(b, i);
    } else {
      f.outside(i);
    }
  }
};

// ---- y = x R --------------------------------------------------------------------------------------------------------

// NaN where a molecule is too large: the host has raised before, a device has not looked.
template <class T, class N>
struct PoolTurn {
  PoolInput<T, N> in;
  N* y;  // (N, 3)

  SYMKERN_HD void atom(int64_t b, int64_t i) const {
    const VecOf<N> x = in.x.row(i);
    VecOf<N> turned = x.x * in.matrix_row(b, 0) + x.y * in.matrix_row(b, 1) + x.z * in.matrix_row(b, 2);
    if (in.mode != PoolMode::moment && in.count(b) > kPoolAtoms) {
      turned = N(NAN) * turned;
    }
    y[3 * i] = turned.x, y[3 * i + 1] = turned.y, y[3 * i + 2] = turned.z;
  }
  SYMKERN_HD void outside(int64_t) const {}
};

// ---- features -------------------------------------------------------------------------------------------------------

// A row of the outer product, by `lanes` threads.
template <int lanes, class T, class N>
struct PoolOuter {
  static constexpr int64_t pieces = kOuterRows * lanes;  // of a molecule
  PoolInput<T, N> in;
  const N* y;
  T* out;  // (B, 225)

  SYMKERN_HD void operator()(int64_t item) const {
    const int64_t b = item / pieces, r = item % pieces / lanes, columns = outer_columns(r);
    const int64_t known = 3 * in.count(b) - r < columns ? 3 * in.count(b) - r : columns;
    const N* u = y + 3 * in.atoms.bound(b) + r;
    T* to = out + b * kPoolFeatures + outer_begin(r);
    int64_t c = item % lanes;
    for (; c < known; c += lanes) to[c] = static_cast<T>(outcome(u[0] * u[c]));
    for (; c < columns; c += lanes) to[c] = T(0);
  }
};

// A row of the Gram matrix.
template <int lanes, class T, class N>
struct PoolGram {
  static constexpr int64_t pieces = kPoolAtoms * lanes;
  PoolInput<T, N> in;
  const N* y;
  T* out;  // (B, 225)

  SYMKERN_HD void operator()(int64_t item) const {
    const int64_t b = item / pieces, i = item % pieces / lanes, known = i < in.count(b) ? in.count(b) : 0;
    const N* rows = y + 3 * in.atoms.bound(b);
    T* to = out + b * kPoolFeatures + i * kPoolAtoms;
    int64_t j = item % lanes;
    for (; j < known && j < kPoolAtoms; j += lanes) {
      to[j] = static_cast<T>(outcome(dot(row_of(rows, i), row_of(rows, j))));
    }
    for (; j < kPoolAtoms; j += lanes) to[j] = T(0);
  }
};

// The second moments of a block of channels.
template <int block, class T, class N>
struct PoolMoment {
  PoolInput<T, N> in;
  const N* y;
  T* out;  // (B, C, 3, 3)

  SYMKERN_HD int64_t pieces() const { return (in.channels + block - 1) / block; }
  SYMKERN_HD void operator()(int64_t item) const {
    const int64_t b = item / pieces(), first = item % pieces() * block;
    if (in.channels - first >= block) {
      sum<block>(b, first);
    } else {
      for (int64_t c = first; c < in.channels; ++c) sum<1>(b, c);
    }
  }

  template <int width>
  SYMKERN_HD void sum(int64_t b, int64_t first) const {
    N sums[6][width];
    for (int k = 0; k < 6; ++k) {
      for (int c = 0; c < width; ++c) sums[k][c] = N(0);
    }
    for (int64_t i = in.atoms.bound(b); i < in.atoms.bound(b + 1); ++i) {
      const VecOf<N> v = row_of(y, i);
      const N products[6] = {v.x * v.x, v.x * v.y, v.x * v.z, v.y * v.y, v.y * v.z, v.z * v.z};
      N w[width];  // more channels than one have weights
      for (int c = 0; c < width; ++c) w[c] = width > 1 ? in.weights[i * in.channels + first + c] : in.weight(i, first);
      for (int k = 0; k < 6; ++k) {
        for (int c = 0; c < width; ++c) sums[k][c] = sums[k][c] + w[c] * products[k];
      }
    }
    constexpr int entry[9] = {0, 1, 2, 1, 3, 4, 2, 4, 5};
    T* to = out + 9 * (b * in.channels + first);
    for (int c = 0; c < width; ++c) {
      for (int k = 0; k < 9; ++k) to[9 * c + k] = static_cast<T>(outcome(sums[entry[k]][c]));
    }
  }
};

// ---- the adjoint ----------------------------------------------------------------------------------------------------

// Of y, and from it those of x and of the weights.
template <class T, class N>
struct PoolPull {
  PoolInput<T, N> in;
  const N* y;
  const T* grad;    // of the features, (B, D)
  N* by_y;          // (N, 3)
  T* grad_x;        // (N, 3), or nullptr
  T* grad_weights;  // (N, C), or nullptr

  SYMKERN_HD void atom(int64_t b, int64_t i) const {
    const T* g = grad + b * in.width();
    const int64_t begin = in.atoms.bound(b), known = in.count(b) < kPoolAtoms ? in.count(b) : kPoolAtoms;
    VecOf<N> v = row_of(y, i);
    if (in.mode == PoolMode::moment) {
      if (grad_weights != nullptr) pull_weights(g, i, v);
      v = pull_moment(g, i, v);
    } else if (i - begin < known) {  // else v is NaN, and remains it
      const int64_t a = 3 * (i - begin);
      const N* u = y + 3 * begin;
      v = in.mode == PoolMode::gram ? pull_gram(g, u, known, i - begin)
                                    : VecOf<N>{pull_outer(g, u, 3 * known, a), pull_outer(g, u, 3 * known, a + 1),
                                               pull_outer(g, u, 3 * known, a + 2)};
    }
    by_y[3 * i] = v.x, by_y[3 * i + 1] = v.y, by_y[3 * i + 2] = v.z;
    if (grad_x == nullptr) return;
    for (int64_t k = 0; k < 3; ++k) grad_x[3 * i + k] = static_cast<T>(outcome(dot(in.matrix_row(b, k), v)));
  }
  SYMKERN_HD void outside(int64_t i) const {
    for (int64_t k = 0; grad_x != nullptr && k < 3; ++k) grad_x[3 * i + k] = T(0);
    for (int64_t c = 0; grad_weights != nullptr && c < in.channels; ++c) grad_weights[i * in.channels + c] = T(0);
  }

 private:
  // Coordinate a is in column a of the rows above it, and in all columns of its own row.
  SYMKERN_HD N pull_outer(const T* g, const N* u, int64_t known, int64_t a) const {
    N sum(0);
    for (int64_t r = 0; r < kOuterRows && r <= a; ++r) {
      if (a - r < outer_columns(r)) sum = sum + N(g[outer_begin(r) + a - r]) * u[r];
    }
    if (a >= kOuterRows) return sum;
    const T* row = g + outer_begin(a);
    const int64_t columns = known - a < outer_columns(a) ? known - a : outer_columns(a);
    N parts[4] = {N(0), N(0), N(0), N(0)};  // chains of dependent sums are what this costs
    int64_t c = 0;
    for (; c + 4 <= columns; c += 4) {
      for (int k = 0; k < 4; ++k) parts[k] = parts[k] + N(row[c + k]) * u[a + c + k];
    }
    for (; c < columns; ++c) parts[0] = parts[0] + N(row[c]) * u[a + c];
    return sum + ((parts[0] + parts[1]) + (parts[2] + parts[3]));
  }
  SYMKERN_HD VecOf<N> pull_gram(const T* g, const N* u, int64_t known, int64_t i) const {
    VecOf<N> sum{N(0), N(0), N(0)};
    for (int64_t j = 0; j < known; ++j) {
      sum = sum + N(static_cast<double>(g[i * kPoolAtoms + j]) + g[j * kPoolAtoms + i]) * row_of(u, j);
    }
    return sum;
  }
  SYMKERN_HD VecOf<N> pull_moment(const T* g, int64_t i, VecOf<N> v) const {
    N m[9];
    for (int k = 0; k < 9; ++k) m[k] = N(0);
    for (int64_t c = 0; c < in.channels; ++c) {
      const N w = in.weight(i, c);
      for (int k = 0; k < 9; ++k) m[k] = m[k] + w * N(g[9 * c + k]);
    }
    const VecOf<N> x{m[0] + m[0], m[1] + m[3], m[2] + m[6]}, z{x.z, m[5] + m[7], m[8] + m[8]};
    return {dot(x, v), dot(VecOf<N>{x.y, m[4] + m[4], z.y}, v), dot(z, v)};
  }
  SYMKERN_HD void pull_weights(const T* g, int64_t i, VecOf<N> v) const {
    for (int64_t c = 0; c < in.channels; ++c, g += 9) {
      const VecOf<N> m{dot(VecOf<N>{N(g[0]), N(g[1]), N(g[2])}, v), dot(VecOf<N>{N(g[3]), N(g[4]), N(g[5])}, v),
                       dot(VecOf<N>{N(g[6]), N(g[7]), N(g[8])}, v)};
      grad_weights[i * in.channels + c] = static_cast<T>(outcome(dot(m, v)));
    }
  }
};

// Of the rotation of each molecule: `entries` of the nine.
template <int entries, class T, class N, class Out>
struct PoolPullRotation {
  static constexpr int64_t pieces = 9 / entries;
  PoolInput<T, N> in;
  const N* by_y;
  Out* out;  // (B, 3, 3)

  SYMKERN_HD void operator()(int64_t item) const {
    const int64_t b = item / pieces, first = item % pieces * entries;
    N sum[entries];
    for (int e = 0; e < entries; ++e) sum[e] = N(0);
    for (int64_t i = in.atoms.bound(b); i < in.atoms.bound(b + 1); ++i) {
      for (int e = 0; e < entries; ++e) {
        sum[e] = sum[e] + in.x[3 * i + (first + e) / 3] * by_y[3 * i + (first + e) % 3];
      }
    }
    for (int e = 0; e < entries; ++e) out[9 * b + first + e] = static_cast<Out>(outcome(sum[e]));
  }
};

}  // namespace symkern
