// The search for the operation that brings a target nearest to a prediction: the problem, the losses of all operations
// in fp64, and the rule that chooses. What is differentiated once operation and pairs are known is ops/chamfer.cpp.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>

#include "core/macros.h"
#include "core/vec3.h"
#include "ops/chamfer.h"

namespace symkern {

// a * b, rounded: no compiler may contract it with a sum, so that host and device choose alike. (fma() would do as
// well, but is slow on the host without FMA hardware.)
SYMKERN_HD double rounded_product(double a, double b) {
#if defined(__CUDA_ARCH__)
  return __dmul_rn(a, b);
#else
  return a * b;
#endif
}

SYMKERN_HD double rounded_square(Vec3 v) {
  return rounded_product(v.x, v.x) + rounded_product(v.y, v.y) + rounded_product(v.z, v.z);
}

// `copies` matrices per operation, consecutive: matrix m belongs to operation m / copies and its permutation.
template <class T>
struct SymmetricProblem {
  const T* pred;                // (N, 3)
  const T* target;              // (N, 3)
  const T* matrices;            // (G * copies, 3, 3), orthogonal
  const int64_t* permutations;  // (rows) global atoms
  Ragged atoms, operations;     // of each molecule
  Ragged rows;                  // of `permutations`, of each operation
  int64_t copies;

  // Operations of a molecule, inside what there is.
  SYMKERN_HD int64_t first(int64_t b) const { return operations.bound(b) * copies; }
  SYMKERN_HD int64_t count(int64_t b) const { return (operations.bound(b + 1) - operations.bound(b)) * copies; }
  SYMKERN_HD int64_t molecule_of(int64_t matrix) const { return operations.owner(matrix / copies); }

  // Sum of |pred|^2 + |target|^2: what rounding is relative to.
  SYMKERN_HD double size(int64_t b) const {
    double sum = 0;
    for (int64_t i = atoms.bound(b); i < atoms.bound(b + 1); ++i) {
      sum += rounded_square(load_vec3(pred + 3 * i)) + rounded_square(load_vec3(target + 3 * i));
    }
    return sum;
  }
};

// Symmetric molecules have operations with equal losses, up to the rounding of their matrices. Two count as equal if
// the roots of the losses, which are distances between point sets, differ by at most this times sqrt(size).
template <class T>
constexpr double kTie = sizeof(T) == 4 ? 0x1p-20 : 0x1p-40;

SYMKERN_HD double tie_bound(double loss, double size, double tie) { return sqrt(loss) + tie * sqrt(size); }

// The first of the losses that equals the smallest. Where nothing can be compared, because something is not finite, the
// first of all.
SYMKERN_HD int64_t choose_operation(const double* losses, int64_t count, double size, double tie) {
  if (!(size < std::numeric_limits<double>::infinity())) return 0;
  double least = std::numeric_limits<double>::infinity();
  for (int64_t g = 0; g < count; ++g) least = losses[g] < least ? losses[g] : least;
  const double bound = tie_bound(least, size, tie);
  for (int64_t g = 0; g < count; ++g) {
    if (sqrt(losses[g]) <= bound) return g;
  }
  return 0;
}

// ---- atoms matched by the permutation of the operation --------------------------------------------------------------

// The atom whose prediction stands for that of the k-th atom of molecule b, inside it whatever permutations hold.
template <class T>
SYMKERN_HD int64_t partner_of(const SymmetricProblem<T>& p, int64_t matrix, int64_t b, int64_t k) {
  const int64_t begin = p.atoms.bound(b), end = p.atoms.bound(b + 1), row = p.rows.bound(matrix / p.copies) + k;
  const int64_t partner = row < p.rows.rows ? p.permutations[row] : begin;
  return partner < begin || partner >= end ? begin : partner;
}

// Sum of |pred_p(i) - M target_i|^2 over the atoms; some number above `enough` as soon as it exceeds that.
template <class T>
SYMKERN_HD double matched_loss(const SymmetricProblem<T>& p, int64_t matrix, int64_t b, double enough) {
  const int64_t begin = p.atoms.bound(b), count = p.atoms.bound(b + 1) - begin, row = p.rows.bound(matrix / p.copies);
  const Mat3 m = load_mat3(p.matrices + 9 * matrix);
  const auto along = [](Vec3 a, Vec3 y) {
    return rounded_product(a.x, y.x) + rounded_product(a.y, y.y) + rounded_product(a.z, y.z);
  };
  double sum = 0;
  for (int64_t k = 0; k < count && !(sum > enough); ++k) {
    const Vec3 y = load_vec3(p.target + 3 * (begin + k));
    const int64_t given = row + k < p.rows.rows ? p.permutations[row + k] - begin : 0;
    const int64_t partner = static_cast<uint64_t>(given) < static_cast<uint64_t>(count) ? given : 0;
    const Vec3 x = load_vec3(p.pred + 3 * (begin + partner));
    sum += rounded_square(x - Vec3{along(m.a, y), along(m.b, y), along(m.c, y)});
  }
  return sum;
}

// ---- nearest atoms --------------------------------------------------------------------------------------------------

// M y: with explicit fma, as distance_sq, so that every instruction set and the device get the same bits.
template <class T>
SYMKERN_HD Vec3 rotate(const T* m, Vec3 y) {
  const auto row = [&](int r) {
    return fma(static_cast<double>(m[3 * r]), y.x,
               fma(static_cast<double>(m[3 * r + 1]), y.y, static_cast<double>(m[3 * r + 2]) * y.z));
  };
  return {row(0), row(1), row(2)};
}

struct SymmetricDirections {
  bool x_to_y, y_to_x;  // x = pred, y = target
};

// The nearest rotated target of prediction i, or with `back` the nearest prediction of rotated target i.
template <class T>
SYMKERN_HD Nearest nearest_rotated(const SymmetricProblem<T>& p, const int64_t* types, int64_t matrix, int64_t b,
                                   int64_t i, bool back) {
  const T* m = p.matrices + 9 * matrix;
  const Vec3 query = back ? rotate(m, load_vec3(p.target + 3 * i)) : load_vec3(p.pred + 3 * i);
  Nearest best{std::numeric_limits<double>::infinity(), -1};
  for (int64_t j = p.atoms.bound(b); j < p.atoms.bound(b + 1); ++j) {
    if (types != nullptr && types[i] != types[j]) continue;
    const Vec3 other = back ? load_vec3(p.pred + 3 * j) : rotate(m, load_vec3(p.target + 3 * j));
    const Vec3 d = other - query;
    best.offer(distance_sq(d.x, d.y, d.z), j);
  }
  return best;
}

// One row (operation, atom) after the other: the schedule for many threads.
template <class T>
struct NearestRows {
  SymmetricProblem<T> p;
  const int64_t* types;  // (N), or nullptr
  bool back;
  double* squares;  // (rows * copies)

  SYMKERN_HD void operator()(int64_t row) const {
    const int64_t g = p.rows.owner(row / p.copies), b = g < p.rows.count ? p.operations.owner(g) : p.atoms.count;
    squares[row] = 0;
    if (b >= p.atoms.count) return;
    const int64_t begin = p.rows.bound(g), width = p.rows.bound(g + 1) - begin, local = row - begin * p.copies;
    const int64_t i = p.atoms.bound(b) + local % width;
    if (i >= p.atoms.bound(b + 1)) return;
    squares[row] = nearest_rotated(p, types, g * p.copies + local / width, b, i, back).distance_sq;
  }
};

// The loss of each operation from its rows.
template <class T>
struct RowLosses {
  SymmetricProblem<T> p;
  const double* there;  // or nullptr
  const double* back;   // or nullptr
  double* losses;       // (G * copies)

  SYMKERN_HD void operator()(int64_t matrix) const {
    const int64_t g = matrix / p.copies, begin = p.rows.bound(g), width = p.rows.bound(g + 1) - begin;
    const int64_t row = begin * p.copies + matrix % p.copies * width;
    double sum[2] = {};
    for (int64_t k = 0; k < width; ++k) {
      if (there != nullptr) sum[0] += there[row + k];
      if (back != nullptr) sum[1] += back[row + k];
    }
    losses[matrix] = sum[0] + sum[1];
  }
};

template <class T>
struct MatchedLosses {
  SymmetricProblem<T> p;
  double* losses;  // (G * copies)

  SYMKERN_HD void operator()(int64_t matrix) const {
    const int64_t b = p.molecule_of(matrix);
    losses[matrix] = b < p.atoms.count ? matched_loss(p, matrix, b, std::numeric_limits<double>::infinity()) : 0;
  }
};

// The chosen matrix of each molecule, and its loss: 0 without atoms, NaN where something is not finite.
template <class T>
struct ChooseOperations {
  SymmetricProblem<T> p;
  const double* losses;  // (G * copies)
  int64_t* choice;       // (B)
  T* loss;               // (B)

  SYMKERN_HD void operator()(int64_t b) const {
    const int64_t first = p.first(b), count = p.count(b);
    const double size = p.size(b), infinity = std::numeric_limits<double>::infinity();
    choice[b] = first + choose_operation(losses + first, count, size, kTie<T>);
    loss[b] = size < infinity && count > 0 ? static_cast<T>(losses[choice[b]]) : static_cast<T>(size - size);
  }
};

// The nearest atoms under the chosen operation.
template <class T>
struct ChosenPlaces {
  SymmetricProblem<T> p;
  const int64_t* types;
  const int64_t* choice;
  bool back;
  int64_t* index;  // (N)

  SYMKERN_HD void operator()(int64_t i) const {
    const int64_t b = p.atoms.owner(i);
    const bool any = b < p.atoms.count && p.count(b) > 0;
    const int64_t found = any ? nearest_rotated(p, types, choice[b], b, i, back).index : -1;
    index[i] = found < 0 ? i : found;  // what is not finite has no nearest atom
  }
};

}  // namespace symkern
