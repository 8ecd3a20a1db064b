// Lines of 16-bit floats, made into float32 and back.

#pragma once

#include <cstdint>

#include "kernel.h"

namespace graphopt {

struct Widening {
  void (*widen)(const uint16_t* x, int64_t count, float* y);
  void (*narrow)(const float* x, int64_t count, uint16_t* y);  // to nearest, ties to even
};

// Of kFloat16 or kBfloat16, with what this processor has; throws for other types.
Widening widening(OrtElementType type);

}  // namespace graphopt
