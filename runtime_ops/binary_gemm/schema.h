// BinaryGemm and BinaryGemmSign: types and shapes, whichever provider has the kernel.

#pragma once

#include "kernel.h"

namespace graphopt {
namespace {

// [..., K] and bits [N, bytes] give [..., N].
template <OrtElementType kOut>
void infer(Inference& inference) {
  TypeAndDims out = inference.input(0);
  const TypeAndDims weights = inference.input(1);
  if (out.dims.empty()) return;
  out.dims.back() = weights.dims.size() == 2 ? weights.dims[0] : Dim();
  out.type = kOut;
  inference.output(0, out);
}

Operator describe(const char* provider, OrtElementType type, Maker create) {
  return {"BinaryGemm", provider, {{type}, {kUint8}, {kFloat}, {kFloat}}, {{kFloat}}, create, infer<kFloat>};
}

Operator describe_sign(const char* provider, OrtElementType type, Maker create) {
  return {"BinaryGemmSign", provider, {{type}, {kUint8}, {kFloat}}, {{kInt8}}, create, infer<kInt8>};
}

}  // namespace
}  // namespace graphopt
