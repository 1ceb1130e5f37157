// Compiled once per instruction-set level with SYMKERN_ISA_LEVEL = baseline | avx2 | avx512. `Lanes` and `Lanes64` have
// internal linkage, hence all that is instantiated for them.
#include "core/simd64.h"  // before the formulas, which find its words where they are defined

#include "ops/filter_table_simd.h"

#define SYMKERN_CONCAT_(a, b) a##b
#define SYMKERN_CONCAT(a, b) SYMKERN_CONCAT_(a, b)

namespace symkern {

const FilterLevel* SYMKERN_CONCAT(symkern_filter_kernels_, SYMKERN_ISA_LEVEL)() {
  static constexpr FilterLevel level{FilterRows<Lanes>::table(), FilterRows<Lanes64>::table()};
  return &level;
}

}  // namespace symkern
