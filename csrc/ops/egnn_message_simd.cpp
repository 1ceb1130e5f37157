// Compiled once per instruction-set level with SYMKERN_ISA_LEVEL = baseline | avx2 | avx512. `Lanes` has internal
// linkage, hence all that is instantiated for it; formulas are always inlined (scripts/audit.py looks at the symbols).
#include "core/tile_simd.h"  // before the formulas, which find its words where they are defined

#include "ops/egnn_message_simd.h"

#define SYMKERN_CONCAT_(a, b) a##b
#define SYMKERN_CONCAT(a, b) SYMKERN_CONCAT_(a, b)

namespace symkern {
namespace {

template <class L>
constexpr EgnnKernels<typename L::Scalar> egnn_kernels() {
  using S = typename L::Scalar;
  return {SimdBlock<L>::pack, SimdPass<L, EgnnForward<S>>::kernel(), SimdPass<L, EgnnBackward<S>>::kernel(),
          SimdPass<L, EgnnDoubleBackward<S>>::kernel()};
}

}  // namespace

const EgnnLevel* SYMKERN_CONCAT(symkern_egnn_kernels_, SYMKERN_ISA_LEVEL)() {
  static constexpr EgnnLevel level{egnn_kernels<Lanes>(), egnn_kernels<Lanes64>()};
  return &level;
}

}  // namespace symkern
