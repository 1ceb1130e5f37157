// Which atoms belong to which structure: `batch` or `ptr`, checked, as starts of structures.
#pragma once

#include "ops/neighbor_problem.h"
#include "torch/shim.h"

namespace symkern {

// What can be checked without reading data. Returns the number of structures; < 0: known only from batch.
inline int64_t check_structures(const Tensor& positions, const OptionalTensor& batch, const OptionalTensor& ptr) {
  if (batch.has_value() && ptr.has_value()) bad_argument("batch and ptr describe the same thing: give one of them");
  if (batch.has_value()) {
    check_dtype(*batch, "batch", ScalarType::Long);
    check_same_device(*batch, "batch", positions, "positions");
    if (batch->dim() != 1 || batch->size(0) != positions.size(0)) {
      bad_argument("batch must have shape (N,) with N = ", positions.size(0), ", got ", shape_of(*batch));
    }
    return -1;
  }
  if (!ptr.has_value()) return 1;
  check_dtype(*ptr, "ptr", ScalarType::Long);
  check_same_device(*ptr, "ptr", positions, "positions");
  if (ptr->dim() != 1 || ptr->size(0) < 1) bad_argument("ptr must have shape (B + 1,), got ", shape_of(*ptr));
  return ptr->size(0) - 1;
}

// Labels far beyond the number of atoms are ids, not structure numbers; a ptr for them would only fill memory.
inline void check_dense(int64_t last, int64_t atoms) {
  if (last > 64 * atoms + 65536) {
    bad_argument("batch names structure ", last, " of ", atoms, " atoms; symkern.sort_batch(batch) renumbers it");
  }
}

// (B + 1,) starts of structures from either description, on the CPU; `structures` < 0 is filled in.
inline Tensor make_ptr(const Tensor& positions, const OptionalTensor& batch, const OptionalTensor& ptr,
                       int64_t& structures) {
  const int64_t n = positions.size(0);
  if (ptr.has_value()) {
    const Tensor given = as_contiguous(*ptr);
    const int64_t* p = given.const_data_ptr<int64_t>();
    if (p[0] != 0) throw_problem(Problem::ptr_start, 0, p[0]);
    for (int64_t b = 0; b < structures; ++b) {
      if (p[b + 1] < p[b]) throw_problem(Problem::ptr_decreases, b + 1, p[b + 1], p[b]);
    }
    if (p[structures] != n) throw_problem(Problem::ptr_end, structures, p[structures], n);
    return torch::stable::clone(given);  // an output must not alias an input
  }
  if (!batch.has_value()) {
    Tensor out = empty({structures + 1}, ScalarType::Long, positions);
    int64_t* p = out.mutable_data_ptr<int64_t>();
    p[0] = 0;
    for (int64_t s = 0; s < structures; ++s) p[s + 1] = n;
    return out;
  }
  const Tensor given = as_contiguous(*batch);
  const int64_t* b = given.const_data_ptr<int64_t>();
  for (int64_t i = 0; i < n; ++i) {
    if (b[i] < 0) throw_problem(Problem::batch_negative, i, b[i]);
    if (i > 0 && b[i] < b[i - 1]) throw_problem(Problem::batch_unsorted, i, b[i], b[i - 1]);
  }
  if (n > 0) check_dense(b[n - 1], n);
  const int64_t needed = n > 0 ? b[n - 1] + 1 : 0;
  if (structures < 0) structures = needed;
  if (needed > structures) throw_problem(Problem::batch_structure, n - 1, needed - 1, structures);
  Tensor out = empty({structures + 1}, ScalarType::Long, positions);
  int64_t* p = out.mutable_data_ptr<int64_t>();
  int64_t i = 0;
  for (int64_t s = 0; s < structures; ++s) {
    p[s] = i;
    while (i < n && b[i] == s) ++i;
  }
  p[structures] = n;
  return out;
}

}  // namespace symkern
