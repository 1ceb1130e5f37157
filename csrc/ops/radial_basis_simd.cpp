// Compiled once per instruction-set level with SYMKERN_ISA_LEVEL = baseline | avx2 | avx512. `Lanes` has internal
// linkage, hence all that is instantiated for it; formulas are always inlined (scripts/audit.py looks at the symbols).
#include "core/simd.h"  // before the formulas, which find its words where they are defined

#include "ops/radial_basis_simd.h"

#define SYMKERN_CONCAT_(a, b) a##b
#define SYMKERN_CONCAT(a, b) SYMKERN_CONCAT_(a, b)

namespace symkern {

const RadialKernels<float>* SYMKERN_CONCAT(symkern_radial_kernels_, SYMKERN_ISA_LEVEL)() {
  static constexpr RadialKernels<float> table = RadialTile<Lanes>::table();
  return &table;
}

}  // namespace symkern
