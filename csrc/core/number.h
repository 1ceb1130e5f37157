// The words formulas are written in, for plain numbers on host and device. core/simd.h has the same for vectors, so one
// formula serves all.
#pragma once

#include <cmath>

#include "core/macros.h"

namespace symkern {

SYMKERN_HD float select(bool mask, float a, float b) { return mask ? a : b; }
SYMKERN_HD double select(bool mask, double a, double b) { return mask ? a : b; }
SYMKERN_HD float multiply_add(float a, float b, float c) { return fmaf(a, b, c); }
SYMKERN_HD double multiply_add(double a, double b, double c) { return fma(a, b, c); }
SYMKERN_HD float reciprocal(float x) { return 1.0f / x; }
SYMKERN_HD double reciprocal(double x) { return 1.0 / x; }
SYMKERN_HD float exponential(float x) { return expf(x); }
SYMKERN_HD double exponential(double x) { return exp(x); }
SYMKERN_HD void sine_cosine(float x, float& s, float& c) { s = sinf(x), c = cosf(x); }
SYMKERN_HD void sine_cosine(double x, double& s, double& c) { s = sin(x), c = cos(x); }

}  // namespace symkern
