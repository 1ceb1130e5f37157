// Symmetry operations of a batch of molecules on the host: threads over molecules, each molecule by one routine
// (stabilizers_simd.cpp); then the sizes are known, and results are copied to where they belong.
#pragma once

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <vector>

#include "core/parallel.h"
#include "core/workspace.h"
#include "ops/stabilizers_simd.h"

namespace symkern {

// `index` is the molecule or the atom in the batch.
[[noreturn]] inline void throw_symmetry_problem(SymmetryProblem problem, int64_t index, int64_t value) {
  const std::string where = std::to_string(index), found = std::to_string(value);
  switch (problem) {
    case SymmetryProblem::not_finite:
      throw std::invalid_argument("positions must be finite, but atom " + where + " has a NaN or infinite coordinate");
    case SymmetryProblem::number:
      throw std::invalid_argument("numbers must be at least 1, but atom " + where + " has " + found);
    case SymmetryProblem::too_far:
      throw std::invalid_argument("positions must be within 1e45 of their centroid, but those of molecule " + where +
                                  " are not");
    case SymmetryProblem::images:
      throw std::invalid_argument("tolerance is too large for molecule " + where + ": at least " + found +
                                  " pairs of atoms may be images of its reference pair, at most 4000000 are tried");
    case SymmetryProblem::steps:
      throw std::invalid_argument("tolerance is too large for molecule " + where + ": matching its " + found +
                                  " atoms with each other would take more than 1e9 distances");
    case SymmetryProblem::operations:
      throw std::invalid_argument("tolerance is too large for molecule " + where + ": more than " + found +
                                  " operations are within it, more than a point group of its atoms can have");
    case SymmetryProblem::generated:
      throw std::invalid_argument("policy \"generate\": the operations of molecule " + where + " generate more than " +
                                  found + " operations, so they belong to no point group; use \"closed\" or \"raw\"");
    case SymmetryProblem::none:
      break;
  }
  throw std::logic_error("unknown problem");
}

struct StabilizersInput {
  const void* positions;  // (N, 3) double or float
  bool fp64;
  const int64_t* numbers;  // (N,)
  const int64_t* ptr;      // (B + 1,)
  int64_t molecules;
  double tolerance;
  int policy;  // SymmetryPolicy
  int64_t samples;
  bool exhaustive;
};

// Results whose sizes are known beforehand.
template <class T>
struct StabilizersFixed {
  int64_t *op_ptr, *orbits, *order, *group, *rank;
  T *centroid, *axis, *margin;
  bool *closed, *ambiguous;
};

template <class T>
struct StabilizersRagged {
  T *operations, *residuals;
  int64_t *permutations, *perm_ptr;
};

// Memory of one thread, from molecule to molecule.
class ThreadScratch {
 public:
  ThreadScratch() = default;
  ThreadScratch(const ThreadScratch&) = delete;
  ThreadScratch& operator=(const ThreadScratch&) = delete;
  ~ThreadScratch() {
    for (void* block : blocks_) std::free(block);
  }

  Scratch view() {
    return {[](void* self, int slot, size_t bytes) { return static_cast<ThreadScratch*>(self)->resize(slot, bytes); },
            this};
  }

 private:
  void* resize(int slot, size_t bytes) {
    if (bytes > sizes_[slot]) {
      const size_t wanted = std::max({bytes, 2 * sizes_[slot], size_t{4096}});
      void* block = std::realloc(blocks_[slot], wanted);
      if (block == nullptr) throw std::bad_alloc();
      blocks_[slot] = block;
      sizes_[slot] = wanted;
    }
    return blocks_[slot];
  }

  void* blocks_[Scratch::kSlots] = {};
  size_t sizes_[Scratch::kSlots] = {};
};

// allocate(operations, permutation entries) -> StabilizersRagged<T>, called once, between the two passes.
template <class T, class Allocate>
void find_stabilizers(const StabilizersInput& in, const Parallel& parallel, const StabilizersFixed<T>& fixed,
                      const Allocate& allocate) {
  struct Kept {
    const double *matrices, *residuals;
    const int32_t* permutations;
  };
  const int64_t molecules = in.molecules;
  const std::unique_ptr<Kept[]> kept(new Kept[static_cast<size_t>(molecules)]);
  std::vector<std::unique_ptr<Arena>> arenas;
  std::mutex mutex;
  const StabilizerKernels& kernels = stabilizer_kernels();

  // a second thread is worth its start from a few thousand atoms on (docs/design.md, "Threads")
  const int64_t atoms_in_all = std::max<int64_t>(in.ptr[molecules], 1), grain = 2048 * molecules / atoms_in_all + 1;
  parallel(molecules, grain, [&](int64_t begin, int64_t end) {
    ThreadScratch memory;
    const Scratch scratch = memory.view();
    auto arena = std::make_unique<Arena>();
    for (int64_t b = begin; b < end; ++b) {
      const int64_t first = in.ptr[b], atoms = in.ptr[b + 1] - first;
      const MoleculeInput molecule{in.positions, in.fp64,   in.numbers, first,        atoms,
                                   in.tolerance, in.policy, in.samples, in.exhaustive};
      MoleculeSymmetry found;
      kernels.molecule(molecule, scratch, found, fixed.orbits + first);
      if (found.problem != SymmetryProblem::none) {
        const int64_t atom = first + found.problem_value;
        if (found.problem == SymmetryProblem::not_finite) throw_symmetry_problem(found.problem, atom, 0);
        if (found.problem == SymmetryProblem::number) throw_symmetry_problem(found.problem, atom, in.numbers[atom]);
        throw_symmetry_problem(found.problem, b, found.problem_value);
      }
      const auto count = static_cast<size_t>(found.count), size = static_cast<size_t>(atoms);
      double* matrices = arena->template allocate<double>(10 * count);
      double* residuals = matrices + 9 * count;
      int32_t* permutations = arena->template allocate<int32_t>(count * size);
      for (size_t k = 0; k < count; ++k) {
        const auto from = static_cast<size_t>(found.chosen[k]);
        std::memcpy(matrices + 9 * k, found.matrices + 9 * from, 9 * sizeof(double));
        residuals[k] = found.residuals[from];
        if (size > 0) std::memcpy(permutations + k * size, found.permutations + from * size, size * sizeof(int32_t));
      }
      kept[b] = {matrices, residuals, permutations};
      fixed.op_ptr[b + 1] = found.count;
      fixed.order[b] = found.order;
      fixed.group[b] = found.group;
      fixed.rank[b] = found.rank;
      for (int c = 0; c < 3; ++c) {
        fixed.centroid[3 * b + c] = static_cast<T>(found.centroid[c]);
        fixed.axis[3 * b + c] = static_cast<T>(found.axis[c]);
      }
      fixed.margin[b] = static_cast<T>(found.margin);
      fixed.closed[b] = found.closed;
      fixed.ambiguous[b] = found.ambiguous;
    }
    const std::lock_guard<std::mutex> lock(mutex);
    arenas.push_back(std::move(arena));
  });

  std::vector<int64_t> entries(static_cast<size_t>(molecules) + 1);
  fixed.op_ptr[0] = 0;
  for (int64_t b = 0; b < molecules; ++b) {
    entries[b + 1] = entries[b] + fixed.op_ptr[b + 1] * (in.ptr[b + 1] - in.ptr[b]);
    fixed.op_ptr[b + 1] += fixed.op_ptr[b];
  }
  const StabilizersRagged<T> out = allocate(fixed.op_ptr[molecules], entries[molecules]);
  out.perm_ptr[0] = 0;
  parallel(molecules, 64, [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b) {
      const int64_t first = in.ptr[b], atoms = in.ptr[b + 1] - first;
      const int64_t start = fixed.op_ptr[b], count = fixed.op_ptr[b + 1] - start;
      for (int64_t k = 0; k < 9 * count; ++k) out.operations[9 * start + k] = static_cast<T>(kept[b].matrices[k]);
      for (int64_t k = 0; k < count; ++k) {
        out.residuals[start + k] = static_cast<T>(kept[b].residuals[k]);
        out.perm_ptr[start + k + 1] = entries[b] + (k + 1) * atoms;
      }
      int64_t* to = out.permutations + entries[b];
      const int32_t* from = kept[b].permutations;
      for (int64_t k = 0; k < count * atoms; ++k) to[k] = first + from[k];
    }
  });
}

}  // namespace symkern
