// The spherical basis on the host, one set of kernels per instruction-set level (spherical_basis_simd.cpp is compiled
// once for each). Raw pointers and plain structs only: nothing here may emit a symbol that two levels would share.
#pragma once

#include "core/isa.h"
#include "ops/spherical_basis_tile.h"

namespace symkern {

struct SphericalLevel {
  SphericalKernels<float> fp32;
  SphericalKernels<double> fp64;
};

// By C names: the audit of shared symbols lets those of symkern_ pass.
extern "C" const SphericalLevel* symkern_spherical_kernels_baseline();
extern "C" const SphericalLevel* symkern_spherical_kernels_avx2();
extern "C" const SphericalLevel* symkern_spherical_kernels_avx512();

}  // namespace symkern
