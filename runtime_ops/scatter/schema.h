// Scatter: types and shapes, whichever provider has the kernel.

#pragma once

#include "axis.h"

namespace graphopt {
namespace {

void infer(Inference& inference) { infer_along(inference, 2); }

Operator describe(const char* provider, OrtElementType type, Maker create) {
  return {"Scatter", provider, {{type}, {kInt64}, {type}}, {{type}}, create, infer};
}

}  // namespace
}  // namespace graphopt
