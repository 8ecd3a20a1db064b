// Histogram: types and shapes, whichever provider has the kernel.

#pragma once

#include "kernel.h"

namespace graphopt {
namespace {

void infer(Inference& inference) {
  const TypeAndDims x = inference.input(0);
  inference.output(0, x);
  TypeAndDims nonfinite;
  nonfinite.type = kInt64;
  nonfinite.dims = {x.dims.empty() ? Dim(1) : x.dims[0], 2};
  inference.output(1, nonfinite);
}

Operator describe(const char* provider, OrtElementType type, Maker create) {
  return {"Histogram", provider, {{type}}, {{type, kOptional}, {kInt64, kOptional}}, create, infer, true};
}

}  // namespace
}  // namespace graphopt
