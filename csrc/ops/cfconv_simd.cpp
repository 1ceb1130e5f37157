// Compiled once per instruction-set level with SYMKERN_ISA_LEVEL = baseline | avx2 | avx512. `Lanes` has internal
// linkage, hence all that is instantiated for it; formulas are always inlined (scripts/audit.py looks at the symbols).
#include "core/tile_simd.h"  // before the formulas, which find its words where they are defined

#include "ops/cfconv_simd.h"

#define SYMKERN_CONCAT_(a, b) a##b
#define SYMKERN_CONCAT(a, b) SYMKERN_CONCAT_(a, b)

namespace symkern {
namespace {

template <class L>
constexpr CfconvKernels<typename L::Scalar> kernels() {
  using S = typename L::Scalar;
  return {SimdBlock<L>::pack, SimdPass<L, CfconvForward<S>>::kernel(), SimdPass<L, CfconvBackward<S>>::kernel(),
          SimdPass<L, CfconvDoubleBackward<S>>::kernel()};
}

}  // namespace

const CfconvLevel* SYMKERN_CONCAT(symkern_cfconv_kernels_, SYMKERN_ISA_LEVEL)() {
  static constexpr CfconvLevel level{kernels<Lanes>(), kernels<Lanes64>()};
  return &level;
}

}  // namespace symkern
