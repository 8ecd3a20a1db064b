// MaskedLayerNorm: types and shapes, whichever provider has the kernel.

#pragma once

#include "kernel.h"

namespace graphopt {
namespace {

void infer(Inference& inference) {
  const TypeAndDims x = inference.input(0);
  if (!x.dims.empty()) inference.output(0, x);
}

Operator describe(const char* provider, OrtElementType type, Maker create, bool in_place) {
  return {"MaskedLayerNorm", provider, {{type}, {type}, {type}}, {{type}}, create, infer, in_place};
}

}  // namespace
}  // namespace graphopt
