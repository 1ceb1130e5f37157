// Passes over tabulated filters on the host, one set per instruction-set level (filter_table_simd.cpp is compiled once
// for each). Raw pointers and plain structs only: nothing here may emit a symbol that two levels would share.
#pragma once

#include "core/isa.h"
#include "ops/filter_table.h"

namespace symkern {

struct FilterLevel {
  FilterKernels<float> fp32;
  FilterKernels<double> fp64;
};

// By C names: the audit of shared symbols lets those of symkern_ pass.
extern "C" const FilterLevel* symkern_filter_kernels_baseline();
extern "C" const FilterLevel* symkern_filter_kernels_avx2();
extern "C" const FilterLevel* symkern_filter_kernels_avx512();

}  // namespace symkern
