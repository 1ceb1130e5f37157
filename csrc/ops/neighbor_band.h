// Squared fp32 distances below `inside` are neighbors for certain, above `outside` certainly not. What lies between is
// within fp32 rounding of the cutoff, and is decided in fp64 (`pair_distance_sq`). One formula for host and device.
#pragma once

#include "core/macros.h"

namespace symkern {

struct Band {
  float inside, outside;
};

// fp32 coordinates (in units of the cutoff, magnitudes up to `extent`) are wrong by up to two roundings, extent *
// 2^-23; distances inherit it from two points in three directions. What lies within twice that of the cutoff is left to
// fp64.
SYMKERN_HD Band make_band(double extent) {
  const double error = extent * 0x1p-20, relative = 0x1p-19;
  const double inside = error < 1 ? (1 - error) * (1 - error) * (1 - relative) : 0;
  const double outside = (1 + error) * (1 + error) * (1 + relative);
  return {static_cast<float>(inside), static_cast<float>(outside)};
}

}  // namespace symkern
