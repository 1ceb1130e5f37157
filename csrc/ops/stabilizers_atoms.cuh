// What a warp knows of a molecule's atoms before it looks for operations: as ops/stabilizers_atoms.h on the host.
#pragma once

#include "core/gpu.h"
#include "ops/stabilizers.h"
#include "ops/stabilizers_simd.h"

namespace symkern::stabilizers_cuda {

enum Bug { kNone, kNoSyncBeforeSort, kNoSyncAfterAppend, kNoSyncAfterMatch };

template <class T>
struct Input {
  const T* positions;      // (N, 3)
  const int64_t* numbers;  // (N,)
  const int64_t* ptr;      // (B + 1,)
  int64_t molecules;
  double tolerance;
  int policy;  // SymmetryPolicy
  int64_t samples;
  bool exhaustive;  // as on the host
};

// ---- warps ----------------------------------------------------------------------------------------------------------

SYMKERN_DEVICE bool warp_any(bool x) { return __any_sync(gpu::full_mask, x) != 0; }
SYMKERN_DEVICE bool warp_all(bool x) { return __all_sync(gpu::full_mask, x) != 0; }
SYMKERN_DEVICE int warp_first(int x) { return __shfl_sync(gpu::full_mask, x, 0); }
SYMKERN_DEVICE int64_t warp_first(int64_t x) {
  return static_cast<int64_t>(__shfl_sync(gpu::full_mask, static_cast<long long>(x), 0));
}

// ---- atoms
// -----------------------------------------------------------------------------------------------------------

template <class T, int BUG>
struct MoleculeAtoms {
  const Input<T>& in;
  char* next;  // scratch
  int64_t first;
  int n;

  // by atom
  double *y, *r;
  int32_t *place, *match, *last;
  // by place in the order of species and radius
  double* sorted;
  double* radius;
  int32_t *order, *begin, *end, *used;
  int stamp = 0;

  double centroid[3], largest = 0, moments[6] = {0, 0, 0, 0, 0, 0}, margin;
  bool close = false, ambiguous = false;
  SymmetryProblem problem = SymmetryProblem::none;
  int64_t problem_value = 0;
  int64_t steps = 0;  // work done, as kMaxSteps counts it

  SYMKERN_DEVICE MoleculeAtoms(const Input<T>& input, char* scratch, int64_t begin_atom, int64_t atoms)
      : in(input), next(scratch), first(begin_atom), n(static_cast<int>(atoms)), margin(input.tolerance) {
    y = carve<double>(next, 3 * atoms);
    sorted = carve<double>(next, 3 * atoms);
    r = carve<double>(next, atoms);
    radius = carve<double>(next, atoms);
    order = carve<int32_t>(next, atoms);
    place = carve<int32_t>(next, atoms);
    begin = carve<int32_t>(next, atoms);
    end = carve<int32_t>(next, atoms);
    match = carve<int32_t>(next, atoms);
    last = carve<int32_t>(next, atoms);
    used = carve<int32_t>(next, atoms);
  }

  SYMKERN_DEVICE bool fail(SymmetryProblem what, int64_t value) {
    problem = what;
    problem_value = value;
    return false;
  }

  SYMKERN_DEVICE bool center() {
    const T* x = in.positions + 3 * first;
    const int64_t* z = in.numbers + first;
    int bad_number = n, bad_position = n;
    double origin[3] = {0, 0, 0}, sum[3] = {0, 0, 0};
    for (int c = 0; c < 3 && n > 0; ++c) origin[c] = static_cast<double>(x[c]);
    for (int i = gpu::lane(); i < n; i += 32) {
      if (z[i] < 1 && i < bad_number) bad_number = i;
      double all = 0;
      for (int c = 0; c < 3; ++c) {
        const double value = static_cast<double>(x[3 * i + c]);
        all += value;
        y[3 * i + c] = value - origin[c];
        sum[c] += value - origin[c];
      }
      if (!(all - all == 0) && i < bad_position) bad_position = i;
    }
    bad_number = gpu::reduce_min(gpu::full_mask, bad_number);
    bad_position = gpu::reduce_min(gpu::full_mask, bad_position);
    for (int c = 0; c < 3; ++c) {
      sum[c] = n > 0 ? gpu::warp_sum(sum[c]) / n : 0;
      centroid[c] = origin[c] + sum[c];
    }
    if (bad_number < n) return fail(SymmetryProblem::number, bad_number);
    if (bad_position < n) return fail(SymmetryProblem::not_finite, bad_position);
    bool far = false;
    for (int i = gpu::lane(); i < n; i += 32) {
      double* v = y + 3 * i;
      for (int c = 0; c < 3; ++c) v[c] -= sum[c];
      r[i] = sqrt(dot3(v, v));
      far |= !in_reach(r[i]);
      if (r[i] > largest) largest = r[i];
      const double products[6] = {v[0] * v[0], v[1] * v[1], v[2] * v[2], v[0] * v[1], v[0] * v[2], v[1] * v[2]};
      for (int c = 0; c < 6; ++c) moments[c] += products[c];
    }
    largest = gpu::warp_max(largest);
    for (int c = 0; c < 6; ++c) moments[c] = gpu::warp_sum(moments[c]);
    if (BUG != kNoSyncBeforeSort) __syncwarp();
    return !warp_any(far) || fail(SymmetryProblem::too_far, 0);
  }

  SYMKERN_DEVICE int64_t species(int k) const { return in.numbers[first + order[k]]; }

  // By counting how many come before: molecules are small.
  SYMKERN_DEVICE void sort_atoms() {
    const int64_t* z = in.numbers + first;
    for (int i = gpu::lane(); i < n; i += 32) {
      int before = 0;
      for (int j = 0; j < n; ++j) {
        before += z[j] != z[i] ? z[j] < z[i] : r[j] != r[i] ? r[j] < r[i] : j < i;
      }
      place[i] = before;
      order[before] = i;
      used[i] = 0;
      radius[before] = r[i];
      for (int c = 0; c < 3; ++c) sorted[3 * before + c] = y[3 * i + c];
    }
    __syncwarp();
    long long alike = 0;
    for (int k = gpu::lane(); k < n; k += 32) {
      const int64_t kind = species(k);
      int low = k, high = k + 1;
      while (low > 0 && species(low - 1) == kind && similar_radii(radius[low - 1], radius[k], in.tolerance)) --low;
      while (high < n && species(high) == kind && similar_radii(radius[high], radius[k], in.tolerance)) ++high;
      begin[k] = low;
      end[k] = high;
      alike += high - low;
    }
    steps += preparation_steps(gpu::warp_sum(alike));
    __syncwarp();
  }

  SYMKERN_DEVICE void find_close_atoms() {
    const double limit = 2 * in.tolerance, wide = 4 * in.tolerance;
    bool any_close = false, any_ambiguous = false;
    for (int k = gpu::lane(); k < n; k += 32) {
      const int64_t kind = species(k);
      for (int j = k - 1; j >= 0 && species(j) == kind && radius[k] - radius[j] <= wide; --j) {
        const double d = distance_sq3(sorted + 3 * j, sorted + 3 * k);
        any_close |= d <= wide * wide;
        any_ambiguous |= d <= limit * limit;
      }
    }
    close = warp_any(any_close);
    ambiguous = warp_any(any_ambiguous);
  }
};

}  // namespace symkern::stabilizers_cuda
