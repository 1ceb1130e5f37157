// Which instruction set the host kernels use. Kernels that gain from SIMD are compiled once per level; the level is
// chosen when the library is first used, so one wheel serves every x86-64 machine. Elsewhere there is only `baseline`.
#pragma once

#include <cstdlib>
#include <cstring>
#include <initializer_list>
#include <stdexcept>
#include <string>

namespace symkern {

enum class Isa { baseline = 0, avx2 = 1, avx512 = 2 };

inline const char* isa_name(Isa isa) { return isa == Isa::avx512 ? "avx512" : isa == Isa::avx2 ? "avx2" : "baseline"; }

inline Isa detect_isa() {
#if defined(SYMKERN_ISA_DISPATCH)
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2");
  const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
                      __builtin_cpu_supports("avx512cd");
  return avx2 && avx512 ? Isa::avx512 : avx2 ? Isa::avx2 : Isa::baseline;
#else
  return Isa::baseline;
#endif
}

// SYMKERN_ISA lowers the level (for tests and comparisons); it never raises it above what the processor has.
inline Isa active_isa() {
  static const Isa isa = [] {
    const Isa best = detect_isa();
    const char* wanted = std::getenv("SYMKERN_ISA");
    if (wanted == nullptr) return best;
    for (Isa level : {Isa::baseline, Isa::avx2, Isa::avx512}) {
      if (std::strcmp(wanted, isa_name(level)) == 0) return level < best ? level : best;
    }
    throw std::invalid_argument(std::string("SYMKERN_ISA must be baseline, avx2 or avx512, got ") + wanted);
  }();
  return isa;
}

}  // namespace symkern
