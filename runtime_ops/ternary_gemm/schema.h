// TernaryGemm: types and shapes, whichever provider has the kernel.

#pragma once

#include "kernel.h"

namespace graphopt {
namespace {

void infer(Inference& inference) {
  TypeAndDims out = inference.input(0);
  const TypeAndDims codes = inference.input(1);
  if (out.dims.empty() || codes.dims.size() != 2) return;
  out.type = kFloat;
  out.dims.back() = codes.dims[0];
  inference.output(0, out);
}

Operator describe(const char* provider, OrtElementType x, OrtElementType zero, Maker create) {
  return {"TernaryGemm", provider, {{x}, {kUint8}, {kInt8}, {kFloat}, {kFloat}, {kFloat}, {zero}}, {{kFloat}}, create,
          infer};
}

}  // namespace
}  // namespace graphopt
