// The passes of PaiNN's messages on the host, one set per instruction-set level (painn_message_simd.cpp is compiled
// once for each). Raw pointers and plain structs only: nothing here may emit a symbol that two levels would share.
#pragma once

#include "core/isa.h"
#include "ops/painn_message.h"

namespace symkern {

template <class S>
struct PainnKernels {
  void (*pack)(const S* from, int64_t row_stride, int64_t column_stride, int k, int n, S* to);
  TileKernel<PainnForward<S>> forward;
  TileKernel<PainnBackward<S>> backward;
  TileKernel<PainnDoubleBackward<S>> double_backward;
};

struct PainnLevel {
  PainnKernels<float> singles;
  PainnKernels<double> doubles;
};

// By C names: the audit of shared symbols lets those of symkern_ pass.
extern "C" const PainnLevel* symkern_painn_kernels_baseline();
extern "C" const PainnLevel* symkern_painn_kernels_avx2();
extern "C" const PainnLevel* symkern_painn_kernels_avx512();

}  // namespace symkern
