// GatherGemmScatter: types and shapes, whichever provider has the kernel.

#pragma once

#include "kernel.h"

namespace graphopt {
namespace {

void infer(Inference& inference) {
  const TypeAndDims y = inference.input(0);
  TypeAndDims out = inference.input(1);
  if (out.dims.empty() || y.dims.empty()) return;
  out.dims.back() = y.dims.back();
  inference.output(0, out);
}

Operator describe(const char* provider, OrtElementType type, Maker create) {
  const std::vector<Port> inputs = {{type}, {type}, {kInt64}, {kInt64}, {type}, {type, kOptional}};
  return {"GatherGemmScatter", provider, inputs, {{type}}, create, infer, true};
}

}  // namespace
}  // namespace graphopt
