// BinaryConv and BinaryConvSign: types and shapes, whichever provider has the kernel.

#pragma once

#include "binary_shape.h"
#include "kernel.h"

namespace graphopt {
namespace {

// [B, C, H, W] and bits [M, kH, kW, bytes] give [B, M, H', W'].
template <OrtElementType kOut>
void infer(Inference& inference) {
  const TypeAndDims x = inference.input(0), weights = inference.input(1);
  if (x.dims.size() != 4 || weights.dims.size() != 4) return;
  const auto window = binary::Window::of(inference);
  TypeAndDims out;
  out.type = kOut;
  out.dims = {x.dims[0], weights.dims[0], Dim(), Dim()};
  for (int axis = 0; axis < 2; ++axis) {
    const int64_t in = x.dims[axis + 2].size, kernel = weights.dims[axis + 1].size;
    if (in >= 0 && kernel >= 0) out.dims[axis + 2] = Dim(window.out(axis, in, kernel));
  }
  inference.output(0, out);
}

Operator describe(const char* provider, OrtElementType type, Maker create) {
  return {"BinaryConv", provider, {{type}, {kUint8}, {kFloat}, {kFloat}}, {{kFloat}}, create, infer<kFloat>};
}

Operator describe_sign(const char* provider, OrtElementType type, Maker create) {
  return {"BinaryConvSign", provider, {{type}, {kUint8}, {kFloat}}, {{kInt8}}, create, infer<kInt8>};
}

}  // namespace
}  // namespace graphopt
