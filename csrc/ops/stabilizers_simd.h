// The host routine for one molecule, one per instruction-set level: everything in it is fma, which without hardware is
// a call. Plain structs only, as nothing may emit a symbol that two levels would share.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/isa.h"

namespace symkern {

enum class SymmetryProblem : int { none = 0, not_finite, number, too_far, images, steps, operations, generated };

struct MoleculeInput {
  const void* positions;  // of the whole batch, (N, 3) double or float
  bool fp64;
  const int64_t* numbers;
  int64_t first, atoms;  // first atom of the molecule
  double tolerance;
  int policy;       // SymmetryPolicy
  int64_t samples;  // for linear molecules
  bool exhaustive;  // test every candidate, also those that are products of operations already found
};

// Operations in the order of the result; number k is at chosen[k]. Pointers are into the scratch memory.
struct MoleculeSymmetry {
  SymmetryProblem problem;
  int64_t problem_value;
  int64_t count;
  const int32_t* chosen;
  const double* matrices;
  const double* residuals;
  const int32_t* permutations;  // local atom indices
  double centroid[3], axis[3], margin;
  int64_t order, group, rank;
  bool closed, ambiguous;
};

// Memory that is kept from molecule to molecule: at least `bytes`, contents preserved.
struct Scratch {
  static constexpr int kSlots = 8;
  void* (*resize)(void* context, int slot, size_t bytes);
  void* context;
};

struct StabilizerKernels {
  // orbits (atoms): global indices
  void (*molecule)(const MoleculeInput& in, const Scratch& scratch, MoleculeSymmetry& out, int64_t* orbits);
};

const StabilizerKernels* stabilizer_kernels_baseline();
const StabilizerKernels* stabilizer_kernels_avx2();
const StabilizerKernels* stabilizer_kernels_avx512();

inline const StabilizerKernels& stabilizer_kernels() {
#if defined(SYMKERN_ISA_DISPATCH)
  switch (active_isa()) {
    case Isa::avx512:
      return *stabilizer_kernels_avx512();
    case Isa::avx2:
      return *stabilizer_kernels_avx2();
    case Isa::baseline:
      break;
  }
#endif
  return *stabilizer_kernels_baseline();
}

}  // namespace symkern
