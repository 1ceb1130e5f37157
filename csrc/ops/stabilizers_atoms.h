// What the host knows of a molecule's atoms before it looks for operations: the centred positions, their moments, and
// the order by species and radius, in which those that an operation may exchange are neighbors.
//
// Only for stabilizers_simd.cpp: everything has internal linkage.
#pragma once

#include "ops/stabilizers.h"
#include "ops/stabilizers_simd.h"

namespace symkern {
namespace {

enum Slot { kAtoms, kTable, kOperations, kMatrices, kPermutations, kGroup, kGenerated };

class MoleculeAtoms {
 public:
  MoleculeAtoms(const MoleculeInput& in, const Scratch& scratch, MoleculeSymmetry& out, int64_t* orbits)
      : in_(in), scratch_(scratch), out_(out), orbits_(orbits), n_(in.atoms), tol_(in.tolerance) {}

 protected:
  bool fail(SymmetryProblem problem, int64_t value) {
    out_.problem = problem;
    out_.problem_value = value;
    return false;
  }

  void reserve_atoms() {
    char* next = static_cast<char*>(scratch_.resize(scratch_.context, kAtoms, static_cast<size_t>(n_) * 160 + 512));
    y_ = carve<double>(next, 3 * n_);
    sorted_ = carve<double>(next, 3 * n_);
    r_ = carve<double>(next, n_);
    radius_ = carve<double>(next, n_);
    species_ = carve<int64_t>(next, n_);
    order_ = carve<int32_t>(next, n_);
    place_ = carve<int32_t>(next, n_);
    begin_ = carve<int32_t>(next, n_);
    end_ = carve<int32_t>(next, n_);
    match_ = carve<int32_t>(next, n_);
    last_ = carve<int32_t>(next, n_);
    used_ = carve<int32_t>(next, n_);
    identity_ = carve<int32_t>(next, n_);
  }

  template <class T>
  void load() {
    const T* x = static_cast<const T*>(in_.positions) + 3 * in_.first;
    for (int64_t i = 0; i < 3 * n_; ++i) y_[i] = static_cast<double>(x[i]);
  }

  bool center() {
    if (in_.fp64) {
      load<double>();
    } else {
      load<float>();
    }
    const int64_t* z = in_.numbers + in_.first;
    for (int64_t i = 0; i < n_; ++i) {
      if (z[i] < 1) return fail(SymmetryProblem::number, i);
    }
    const double origin[3] = {n_ > 0 ? y_[0] : 0, n_ > 0 ? y_[1] : 0, n_ > 0 ? y_[2] : 0};
    double sum[3] = {0, 0, 0};
    for (int64_t i = 0; i < n_; ++i) {
      for (int k = 0; k < 3; ++k) {
        y_[3 * i + k] -= origin[k];
        sum[k] += y_[3 * i + k];
      }
    }
    if (!(sum[0] - sum[0] == 0 && sum[1] - sum[1] == 0 && sum[2] - sum[2] == 0)) {
      for (int64_t i = 0; i < n_; ++i) {
        const double s = y_[3 * i] + y_[3 * i + 1] + y_[3 * i + 2];
        if (!(s - s == 0)) return fail(SymmetryProblem::not_finite, i);
      }
      return fail(SymmetryProblem::not_finite, 0);
    }
    for (int k = 0; k < 3; ++k) {
      sum[k] = n_ > 0 ? sum[k] / static_cast<double>(n_) : 0;
      out_.centroid[k] = origin[k] + sum[k];
    }
    bool far = false;
    largest_ = 0;
    for (double& m : moments_) m = 0;
    for (int64_t i = 0; i < n_; ++i) {
      double* y = y_ + 3 * i;
      for (int k = 0; k < 3; ++k) y[k] -= sum[k];
      const double r2 = dot3(y, y);
      r_[i] = sqrt(r2);
      far |= !in_reach(r_[i]);
      if (r_[i] > largest_) largest_ = r_[i];
      moments_[0] = fma(y[0], y[0], moments_[0]);
      moments_[1] = fma(y[1], y[1], moments_[1]);
      moments_[2] = fma(y[2], y[2], moments_[2]);
      moments_[3] = fma(y[0], y[1], moments_[3]);
      moments_[4] = fma(y[0], y[2], moments_[4]);
      moments_[5] = fma(y[1], y[2], moments_[5]);
    }
    return !far || fail(SymmetryProblem::too_far, 0);
  }

  bool sorts_before(int32_t i, int32_t j) const {
    const int64_t* z = in_.numbers + in_.first;
    return z[i] != z[j] ? z[i] < z[j] : r_[i] != r_[j] ? r_[i] < r_[j] : i < j;
  }

  void sort_indices(int32_t* x, int32_t* spare, int64_t count) const {
    sort(x, spare, count, [this](int32_t i, int32_t j) { return sorts_before(i, j); });
  }

  // Insertion in runs, then merging: short lists are the rule.
  template <class Before>
  static void sort(int32_t* x, int32_t* spare, int64_t count, const Before& before) {
    constexpr int64_t run = 24;
    for (int64_t first = 0; first < count; first += run) {
      const int64_t end = first + run < count ? first + run : count;
      for (int64_t k = first + 1; k < end; ++k) {
        const int32_t value = x[k];
        int64_t j = k;
        for (; j > first && before(value, x[j - 1]); --j) x[j] = x[j - 1];
        x[j] = value;
      }
    }
    for (int64_t width = run; width < count; width *= 2) {
      for (int64_t first = 0; first + width < count; first += 2 * width) {
        const int64_t middle = first + width, end = middle + width < count ? middle + width : count;
        for (int64_t k = first; k < middle; ++k) spare[k] = x[k];
        int64_t i = first, j = middle, k = first;
        while (i < middle && j < end) x[k++] = before(x[j], spare[i]) ? x[j++] : spare[i++];
        while (i < middle) x[k++] = spare[i++];
      }
    }
  }

  void sort_atoms() {
    for (int64_t i = 0; i < n_; ++i) order_[i] = identity_[i] = static_cast<int32_t>(i);
    sort_indices(order_, match_, n_);
    for (int64_t k = 0; k < n_; ++k) {
      const int32_t i = order_[k];
      place_[i] = static_cast<int32_t>(k);
      radius_[k] = r_[i];
      species_[k] = in_.numbers[in_.first + i];
      used_[k] = 0;
      for (int c = 0; c < 3; ++c) sorted_[3 * k + c] = y_[3 * i + c];
    }
    stamp_ = 0;
    int32_t begin = 0, end = 0;
    for (int32_t k = 0; k < n_; ++k) {
      while (species_[begin] != species_[k] || !similar_radii(radius_[begin], radius_[k], tol_)) ++begin;
      if (end < k + 1) end = k + 1;
      while (end < n_ && species_[end] == species_[k] && similar_radii(radius_[end], radius_[k], tol_)) ++end;
      begin_[k] = begin;
      end_[k] = end;
      steps_ += preparation_steps(end - begin);
    }
  }

  // Atoms of one species within twice the tolerance make permutations ambiguous; within four times, the nearest partner
  // under a matrix with a residual of up to twice the tolerance need not be the only one: then partners are shared out.
  void find_close_atoms() {
    close_ = false;
    const double limit = 2 * tol_, wide = 4 * tol_;
    for (int64_t k = 1; k < n_; ++k) {
      for (int64_t j = k - 1; j >= 0 && species_[j] == species_[k] && radius_[k] - radius_[j] <= wide; --j) {
        const double d = distance_sq3(sorted_ + 3 * j, sorted_ + 3 * k);
        close_ |= d <= wide * wide;
        out_.ambiguous |= d <= limit * limit;
      }
    }
  }

  const MoleculeInput& in_;
  const Scratch& scratch_;
  MoleculeSymmetry& out_;
  int64_t* orbits_;
  int64_t n_;
  double tol_;

  // by atom
  double *y_ = nullptr, *r_ = nullptr;
  int32_t *place_ = nullptr, *match_ = nullptr, *last_ = nullptr, *identity_ = nullptr;
  // by place in the order of species and radius
  double *sorted_ = nullptr, *radius_ = nullptr;
  int64_t* species_ = nullptr;
  int32_t *order_ = nullptr, *begin_ = nullptr, *end_ = nullptr, *used_ = nullptr;
  int32_t stamp_ = 0;

  double largest_ = 0, moments_[6];
  bool close_ = false;
  int64_t steps_ = 0;  // work done, as kMaxSteps counts it
};

}  // namespace
}  // namespace symkern
