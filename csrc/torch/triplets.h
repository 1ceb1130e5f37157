// What ops over triplets share: the arguments that describe them, and their checks, in the words of torch/shim.h, which
// is included before this.
#pragma once

#include "core/macros.h"

#include <cstdint>

namespace symkern {

// Triplets of edges k->j and j->i, sorted by ji; those from ptr[E] on are padding.
struct TripletIndex {
  const int64_t* kj;        // (T)
  const int64_t* ji;        // (T)
  const int64_t* ptr;       // (E + 1)
  const int64_t* kj_order;  // (T) by kj, stable; nullptr in forward passes
  const int64_t* kj_ptr;    // (E + 1)
  int64_t num_edges, count;

  SYMKERN_HD bool padding(int64_t t) const { return t >= ptr[num_edges]; }
};

// The tensors behind a TripletIndex, checked.
class TripletArguments {
 public:
  TripletArguments(const Tensor& index, const Tensor& ptr) : index_(as_contiguous(index)), ptr_(as_contiguous(ptr)) {
    check_shape(index, "index", {2, -1}, "(2, T)");
    check_dtype(index, "index", ScalarType::Long);
    check_shape(ptr, "ptr", {-1}, "(E + 1,)");
    check_dtype(ptr, "ptr", ScalarType::Long);
    check_same_device(ptr, "ptr", index, "index");
    if (ptr.size(0) < 1) bad_argument("ptr must not be empty");
  }

  TripletArguments(const Tensor& index, const Tensor& ptr, const Tensor& kj_order, const Tensor& kj_ptr)
      : TripletArguments(index, ptr) {
    check_length(kj_order, "kj_order", "T", count(), ScalarType::Long);
    check_length(kj_ptr, "kj_ptr", "E + 1", num_edges() + 1, ScalarType::Long);
    order_ = as_contiguous(kj_order), order_ptr_ = as_contiguous(kj_ptr);
  }

  int64_t count() const { return index_.size(1); }
  int64_t num_edges() const { return ptr_.size(0) - 1; }

  void check_length(const Tensor& t, const char* name, const char* what, int64_t length, ScalarType type) const {
    check_dtype(t, name, type);
    check_same_device(t, name, index_, "index");
    if (t.dim() != 1 || t.size(0) != length) {
      bad_argument(name, " must have shape (", what, ",) with ", what, " = ", length, ", got ", shape_of(t));
    }
  }

  void check_rows(const Tensor& t, const char* name, const char* what, int64_t rows, int64_t width,
                  ScalarType type) const {
    check_dtype(t, name, type);
    check_same_device(t, name, index_, "index");
    if (t.dim() != 2 || t.size(0) != rows || t.size(1) != width) {
      bad_argument(name, " must have shape (", what, ", ", width, ") with ", what, " = ", rows, ", got ", shape_of(t));
    }
  }

  TripletIndex get() const {
    const int64_t* kj = index_.const_data_ptr<int64_t>();
    return {kj,
            kj + count(),
            ptr_.const_data_ptr<int64_t>(),
            data_or_null<int64_t>(order_),
            data_or_null<int64_t>(order_ptr_),
            num_edges(),
            count()};
  }

 private:
  Tensor index_, ptr_;
  OptionalTensor order_, order_ptr_;
};

}  // namespace symkern
