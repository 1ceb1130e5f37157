// The arguments that describe a receiver-sorted graph (symkern.Neighbors), checked in one place for all ops that take
// one.
//
// A graph may be built by hand, so its values cannot be trusted: a wrong index must not read or write outside a tensor.
// On the host every index is looked at where it is used, which costs nothing beside the memory traffic, and reported.
// On CUDA, where a report would need a synchronisation, an edge with a wrong index becomes NaN.
#pragma once

#include "torch/shim.h"

namespace symkern {

struct GraphSize {
  int64_t edges, atoms;
};

inline void check_index(const Tensor& t, const char* name, const Tensor& like, int64_t size) {
  check_dtype(t, name, ScalarType::Long);
  check_same_device(t, name, like, "edge_index");
  if (t.dim() != 1 || t.size(0) != size) bad_argument(name, " must have shape (", size, ",), got ", shape_of(t));
}

inline GraphSize check_graph(const Tensor& edge_index, const OptionalTensor& shifts, const Tensor& row_ptr) {
  check_shape(edge_index, "edge_index", {2, -1}, "(2, E)");
  check_dtype(edge_index, "edge_index", ScalarType::Long);
  if (row_ptr.dim() != 1 || row_ptr.size(0) < 1)
    bad_argument("row_ptr must have shape (N + 1,), got ", shape_of(row_ptr));
  check_index(row_ptr, "row_ptr", edge_index, row_ptr.size(0));
  const int64_t edges = edge_index.size(1);
  if (shifts.has_value()) {
    check_dtype(*shifts, "shifts", ScalarType::Int);
    check_same_device(*shifts, "shifts", edge_index, "edge_index");
    if (shifts->dim() != 2 || shifts->size(0) != edges || shifts->size(1) != 3) {
      bad_argument("shifts must have shape (E, 3) with E = ", edges, ", got ", shape_of(*shifts));
    }
  }
  return {edges, row_ptr.size(0) - 1};
}

// What kernels ask before they use an index. `bad` is where the host notes the first argument found wrong.
struct Guard {
  const char** bad;  // nullptr on CUDA

  SYMKERN_HD bool fail([[maybe_unused]] const char* name) const {
#if !defined(__CUDA_ARCH__)
    if (bad != nullptr) __atomic_store_n(bad, name, __ATOMIC_RELAXED);
#endif
    return false;
  }
  SYMKERN_HD bool index(int64_t i, int64_t size, const char* name) const {
    return static_cast<uint64_t>(i) < static_cast<uint64_t>(size) || fail(name);
  }
  // A range begin .. end within size items.
  SYMKERN_HD bool range(int64_t begin, int64_t end, int64_t size, const char* name) const {
    return (begin >= 0 && begin <= end && end <= size) || fail(name);
  }
};

class GraphGuard {
 public:
#if defined(__CUDACC__)
  Guard guard() { return {nullptr}; }
  void check() const {}
#else
  Guard guard() { return {&bad_}; }
  void check() const {
    if (bad_ != nullptr) bad_argument(bad_, " holds an index out of range: the graph is not consistent");
  }

 private:
  const char* bad_ = nullptr;
#endif
};

}  // namespace symkern
