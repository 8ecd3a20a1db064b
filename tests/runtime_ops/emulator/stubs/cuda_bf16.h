#pragma once

#include "half.h"

using __nv_bfloat16 = graphopt::Bfloat16;
inline float __bfloat162float(__nv_bfloat16 x) { return graphopt::to_float(x); }
inline __nv_bfloat16 __float2bfloat16_rn(float x) { return graphopt::to_bfloat16(x); }
