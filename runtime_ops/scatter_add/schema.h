// ScatterAdd: types and shapes, whichever provider has the kernel.

#pragma once

#include "kernel.h"

namespace graphopt {
namespace {

void infer(Inference& inference) { inference.output(0, inference.input(0)); }

Operator describe(const char* provider, OrtElementType type, Maker create) {
  return {"ScatterAdd", provider, {{type}, {kInt64}, {type}, {type}, {type, kOptional}}, {{type}}, create, infer, true};
}

}  // namespace
}  // namespace graphopt
