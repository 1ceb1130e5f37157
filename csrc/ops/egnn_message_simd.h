// The passes of EGNN's messages on the host, one set per instruction-set level (egnn_message_simd.cpp is compiled once
// for each). Raw pointers and plain structs only: nothing here may emit a symbol that two levels would share.
#pragma once

#include "core/isa.h"
#include "ops/egnn_message.h"
#include "ops/egnn_message_backward.h"
#include "ops/egnn_message_double_backward.h"

namespace symkern {

template <class S>
struct EgnnKernels {
  void (*pack)(const S* from, int64_t row_stride, int64_t column_stride, int k, int n, S* to);
  TileKernel<EgnnForward<S>> forward;
  TileKernel<EgnnBackward<S>> backward;
  TileKernel<EgnnDoubleBackward<S>> double_backward;
};

struct EgnnLevel {
  EgnnKernels<float> singles;
  EgnnKernels<double> doubles;
};

// By C names: the audit of shared symbols lets those of symkern_ pass.
extern "C" const EgnnLevel* symkern_egnn_kernels_baseline();
extern "C" const EgnnLevel* symkern_egnn_kernels_avx2();
extern "C" const EgnnLevel* symkern_egnn_kernels_avx512();

}  // namespace symkern
