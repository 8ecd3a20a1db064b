#pragma once

#include "half.h"

using __half = graphopt::Half;
inline float __half2float(__half x) { return graphopt::to_float(x); }
inline __half __float2half_rn(float x) { return graphopt::to_half(x); }
