// Checked arguments of the searches over operations.
#pragma once

#include "ops/symmetric_search.h"
#include "torch/shim.h"

namespace symkern {

inline Ragged checked_ptr(const Tensor& ptr, const char* name, const char* items, int64_t rows, const Tensor& like) {
  check_dtype(ptr, name, ScalarType::Long);
  check_same_device(ptr, name, like, "pred");
  if (ptr.dim() != 1 || ptr.size(0) < 1) bad_argument(name, " must have shape (n + 1,), got ", shape_of(ptr));
  const Ragged ragged{ptr.const_data_ptr<int64_t>(), ptr.size(0) - 1, rows};
#if !defined(__CUDACC__)
  for (int64_t s = 0, last = 0; s <= ragged.count; last = ragged.ptr[s++]) {
    if (ragged.ptr[s] < last || ragged.ptr[s] > rows || (s == 0 && ragged.ptr[0] != 0) ||
        (s == ragged.count && ragged.ptr[s] != rows)) {
      bad_argument(name, " must rise from 0 to the number of ", items, ", ", rows, ", but ", name, "[", s,
                   "] = ", ragged.ptr[s]);
    }
  }
#else
  (void)items;
#endif
  return ragged;
}

inline void check_like(const Tensor& t, const char* name, std::initializer_list<int64_t> shape, const char* expected,
                       const Tensor& like, const char* like_name) {
  check_shape(t, name, shape, expected);
  check_same_device(t, name, like, like_name);
  check_dtype(t, name, like.scalar_type());
}

// Contiguous and consistent: every molecule has an operation, every operation one row per atom.
struct SymmetricArguments {
  SymmetricArguments(const Tensor& pred_in, const Tensor& target_in, const Tensor& matrices_in, const Tensor& op_ptr_in,
                     const Tensor& permutations_in, const Tensor& perm_ptr_in, const Tensor& ptr_in, int64_t copies_in)
      : pred(as_contiguous(pred_in)),
        target(as_contiguous(target_in)),
        matrices(as_contiguous(matrices_in)),
        op_ptr(as_contiguous(op_ptr_in)),
        permutations(as_contiguous(permutations_in)),
        perm_ptr(as_contiguous(perm_ptr_in)),
        ptr(as_contiguous(ptr_in)),
        copies(copies_in) {
    check_float(pred, "pred");
    check_shape(pred, "pred", {-1, 3}, "(N, 3)");
    check_like(target, "target", {pred.size(0), 3}, "(N, 3), as pred", pred, "pred");
    check_like(matrices, "operations", {-1, 3, 3}, "(G, 3, 3)", pred, "pred");
    check_dtype(permutations, "permutations", ScalarType::Long);
    check_same_device(permutations, "permutations", pred, "pred");
    check_shape(permutations, "permutations", {-1}, "(rows,)");
    if (copies < 1 || matrices.size(0) % copies != 0) bad_argument("copies must divide the matrices, got ", copies);
    atoms = checked_ptr(ptr, "ptr", "atoms", pred.size(0), pred);
    operations = checked_ptr(op_ptr, "op_ptr", "operations", matrices.size(0) / copies, pred);
    rows = checked_ptr(perm_ptr, "perm_ptr", "permutations", permutations.size(0), pred);
    if (operations.count != atoms.count) {
      bad_argument("op_ptr must have as many molecules as ptr, ", atoms.count, ", got ", operations.count);
    }
    if (rows.count != operations.rows) {
      bad_argument("perm_ptr must have one segment per operation, ", operations.rows, ", got ", rows.count);
    }
#if !defined(__CUDACC__)
    for (int64_t b = 0; b < atoms.count; ++b) {
      const int64_t size = atoms.ptr[b + 1] - atoms.ptr[b];
      if (operations.ptr[b] == operations.ptr[b + 1]) bad_argument("molecule ", b, " has no operation");
      for (int64_t g = operations.ptr[b]; g < operations.ptr[b + 1]; ++g) {
        if (rows.ptr[g + 1] - rows.ptr[g] != size) {
          bad_argument("operation ", g, " must permute the ", size, " atoms of molecule ", b, ", got ",
                       rows.ptr[g + 1] - rows.ptr[g]);
        }
      }
    }
#endif
  }

  template <class T>
  SymmetricProblem<T> problem() const {
    return {pred.const_data_ptr<T>(),
            target.const_data_ptr<T>(),
            matrices.const_data_ptr<T>(),
            permutations.const_data_ptr<int64_t>(),
            atoms,
            operations,
            rows,
            copies};
  }

  Tensor pred, target, matrices, op_ptr, permutations, perm_ptr, ptr;
  int64_t copies;
  Ragged atoms{}, operations{}, rows{};
};

}  // namespace symkern
