// Radial bases in fp32 on the host, one set of kernels per instruction-set level (radial_basis_simd.cpp is compiled
// once for each). Raw pointers and plain structs only: nothing here may emit a symbol that two levels would share.
#pragma once

#include "core/isa.h"
#include "ops/radial_basis_tile.h"

namespace symkern {

// By C names: the audit of shared symbols lets those of symkern_ pass.
extern "C" const RadialKernels<float>* symkern_radial_kernels_baseline();
extern "C" const RadialKernels<float>* symkern_radial_kernels_avx2();
extern "C" const RadialKernels<float>* symkern_radial_kernels_avx512();

}  // namespace symkern
