// The passes of SchNet's convolution on the host, one set per instruction-set level (cfconv_simd.cpp is compiled once
// for each). Raw pointers and plain structs only: nothing here may emit a symbol that two levels would share.
#pragma once

#include "core/isa.h"
#include "ops/cfconv.h"

namespace symkern {

template <class S>
struct CfconvKernels {
  void (*pack)(const S* from, int64_t row_stride, int64_t column_stride, int k, int n, S* to);
  TileKernel<CfconvForward<S>> forward;
  TileKernel<CfconvBackward<S>> backward;
  TileKernel<CfconvDoubleBackward<S>> double_backward;
};

struct CfconvLevel {
  CfconvKernels<float> singles;
  CfconvKernels<double> doubles;
};

// By C names: the audit of shared symbols lets those of symkern_ pass.
extern "C" const CfconvLevel* symkern_cfconv_kernels_baseline();
extern "C" const CfconvLevel* symkern_cfconv_kernels_avx2();
extern "C" const CfconvLevel* symkern_cfconv_kernels_avx512();

}  // namespace symkern
