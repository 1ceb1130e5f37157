// What can be wrong with the data of a neighbor list, found on the host or on the device; one message for both.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>

namespace symkern {

enum class Problem : int {
  ptr_start = 1,
  ptr_decreases,
  ptr_end,
  batch_negative,
  batch_unsorted,
  batch_structure,
  not_finite,
  cell_singular,
  cell_skewed,
  too_far,
  too_many_images,
  overflow,
};

// `index` is the atom or structure; `found` and `expected` are the values that belong to it.
[[noreturn]] inline void throw_problem(Problem problem, int64_t index, int64_t found = 0, int64_t expected = 0) {
  const auto text = [](int64_t x) { return std::to_string(x); };
  switch (problem) {
    case Problem::ptr_start:
      throw std::invalid_argument("ptr must start at 0, got " + text(found));
    case Problem::ptr_decreases:
      throw std::invalid_argument("ptr must not decrease, but ptr[" + text(index) + "] = " + text(found) + " < " +
                                  text(expected));
    case Problem::ptr_end:
      throw std::invalid_argument("ptr must end at N = " + text(expected) + ", the number of atoms, got " +
                                  text(found));
    case Problem::batch_negative:
      throw std::invalid_argument("batch must not be negative, but batch[" + text(index) + "] = " + text(found));
    case Problem::batch_unsorted:
      throw std::invalid_argument("batch must be sorted, but batch[" + text(index) + "] = " + text(found) +
                                  " < batch[" + text(index - 1) + "] = " + text(expected) +
                                  "; symkern.sort_batch(batch) returns the order that sorts it");
    case Problem::batch_structure:
      throw std::invalid_argument("batch names structure " + text(found) + ", but cell and pbc describe only " +
                                  text(expected));
    case Problem::not_finite:
      throw std::invalid_argument("positions must be finite, but atom " + text(index) +
                                  " has a NaN or infinite coordinate");
    case Problem::cell_singular:
      throw std::invalid_argument(
          "cell must have finite, linearly independent vectors along periodic directions, but "
          "the cell of structure " +
          text(index) + " is singular");
    case Problem::cell_skewed:
      throw std::invalid_argument("cell of structure " + text(index) +
                                  " is too skewed: shifts in its units would not fit into 32 bits; reduce the cell");
    case Problem::too_far:
      throw std::invalid_argument(
          "positions must be within 1e6 cells of the origin (on CUDA also within 1e9 cutoffs along non-periodic "
          "directions), but atom " +
          text(index) + " is not; wrap it into the cell");
    case Problem::too_many_images:
      throw std::invalid_argument("cutoff is too large for the cell of structure " + text(index) +
                                  ": too many periodic images are within reach");
    case Problem::overflow:
      throw std::invalid_argument("max_edges is too small: " + text(found) + " edges found" +
                                  (expected >= 0 ? ", room for " + text(expected) : ""));
  }
  throw std::logic_error("unknown problem");
}

}  // namespace symkern
