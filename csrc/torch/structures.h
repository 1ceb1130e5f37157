// Which atoms belong to which structure: `batch` or `ptr`, checked, as starts of structures.
#pragma once

#include <vector>

#include "core/macros.h"
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

// ptr as the host sees it.
inline void check_ptr_values(const int64_t* p, int64_t structures, int64_t atoms) {
  if (p[0] != 0) throw_problem(Problem::ptr_start, 0, p[0]);
  for (int64_t b = 0; b < structures; ++b) {
    if (p[b + 1] < p[b]) throw_problem(Problem::ptr_decreases, b + 1, p[b + 1], p[b]);
  }
  if (p[structures] != atoms) throw_problem(Problem::ptr_end, structures, p[structures], atoms);
}

// batch as the host sees it; `structures` < 0 is filled in.
inline void check_batch_values(const int64_t* b, int64_t atoms, int64_t& structures) {
  for (int64_t i = 0; i < atoms; ++i) {
    if (b[i] < 0) throw_problem(Problem::batch_negative, i, b[i]);
    if (i > 0 && b[i] < b[i - 1]) throw_problem(Problem::batch_unsorted, i, b[i], b[i - 1]);
  }
  if (atoms > 0) check_dense(b[atoms - 1], atoms);
  const int64_t needed = atoms > 0 ? b[atoms - 1] + 1 : 0;
  if (structures < 0) structures = needed;
  if (needed > structures) throw_problem(Problem::batch_structure, atoms - 1, needed - 1, structures);
}

inline void fill_ptr(const int64_t* batch, int64_t atoms, int64_t structures, int64_t* ptr) {
  int64_t i = 0;
  for (int64_t s = 0; s < structures; ++s) {
    ptr[s] = i;
    while (i < atoms && (batch == nullptr || batch[i] == s)) ++i;
  }
  ptr[structures] = atoms;
}

// (B + 1,) starts of structures from either description, on the CPU; `structures` < 0 is filled in.
inline Tensor make_ptr(const Tensor& positions, const OptionalTensor& batch, const OptionalTensor& ptr,
                       int64_t& structures) {
  const int64_t n = positions.size(0);
  if (ptr.has_value()) {
    const Tensor given = as_contiguous(*ptr);
    check_ptr_values(given.const_data_ptr<int64_t>(), structures, n);
    return torch::stable::clone(given);  // an output must not alias an input
  }
  const OptionalTensor given = batch.has_value() ? OptionalTensor(as_contiguous(*batch)) : std::nullopt;
  if (given.has_value()) check_batch_values(given->const_data_ptr<int64_t>(), n, structures);
  Tensor out = empty({structures + 1}, ScalarType::Long, positions);
  fill_ptr(data_or_null<int64_t>(given), n, structures, out.mutable_data_ptr<int64_t>());
  return out;
}

#if defined(__CUDACC__)

struct StructureStart {
  const int64_t* batch;  // nullptr: one structure
  int64_t atoms;
  int64_t* ptr;

  SYMKERN_HD void operator()(int64_t b) const {
    int64_t low = 0, high = batch != nullptr || b > 0 ? atoms : 0;  // the first atom of structure b or a later one
    while (low < high) {
      const int64_t middle = low + (high - low) / 2;
      if (batch != nullptr && batch[middle] >= b) {
        high = middle;
      } else {
        low = middle + 1;
      }
    }
    ptr[b] = low;
  }
};

// The same on the device, and the atoms of the largest structure. Waits for the device: the values are copied and
// checked on the host, as their number is needed there.
inline Tensor make_device_ptr(const Tensor& positions, const OptionalTensor& batch_in, const OptionalTensor& ptr_in,
                              int64_t& structures, int64_t& largest, const Launch& launch) {
  const int64_t n = positions.size(0);
  const bool has_ptr = ptr_in.has_value(), has_batch = batch_in.has_value();
  const OptionalTensor given = has_ptr     ? OptionalTensor(as_contiguous(*ptr_in))
                               : has_batch ? OptionalTensor(as_contiguous(*batch_in))
                                           : std::nullopt;
  std::vector<int64_t> values(given.has_value() ? static_cast<size_t>(given->size(0)) : 0), starts;
  if (given.has_value()) {
    gpu::copy_to_host(values.data(), given->const_data_ptr<int64_t>(), values.size() * sizeof(int64_t),
                      launch.stream());
  }
  if (has_ptr) {
    check_ptr_values(values.data(), structures, n);
    starts.swap(values);
  } else {
    if (has_batch) check_batch_values(values.data(), n, structures);
    starts.resize(static_cast<size_t>(structures) + 1);
    fill_ptr(has_batch ? values.data() : nullptr, n, structures, starts.data());
  }
  largest = 0;
  for (size_t b = 1; b < starts.size(); ++b) {
    if (starts[b] - starts[b - 1] > largest) largest = starts[b] - starts[b - 1];
  }
  if (has_ptr) return torch::stable::clone(*given);
  Tensor out = empty({structures + 1}, ScalarType::Long, positions);
  launch.for_each(structures + 1, 0, StructureStart{data_or_null<int64_t>(given), n, out.mutable_data_ptr<int64_t>()});
  return out;
}

#endif

}  // namespace symkern
