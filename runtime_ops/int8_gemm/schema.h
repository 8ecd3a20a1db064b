// Int8Gemm and Int8GemmAdd: types and shapes, whichever provider has the kernel.

#pragma once

#include "int8_ports.h"
#include "kernel.h"

namespace graphopt {
namespace {

void infer(Inference& inference) {
  TypeAndDims out = inference.input(0);
  const TypeAndDims w = inference.input(1);
  if (out.dims.empty() || w.dims.size() != 2) return;
  out.type = kInt8;
  out.dims.back() = w.dims[1];
  inference.output(0, out);
}

// `constants`: the memory that weights, scales and biases lie in.
Operator describe(const char* provider, Maker create, OrtMemType constants = kMemDefault) {
  return {"Int8Gemm", provider, int8::ports(constants, false), {{kInt8}}, create, infer};
}

Operator describe_add(const char* provider, Maker create, OrtMemType constants = kMemDefault) {
  return {"Int8GemmAdd", provider, int8::ports(constants, true), {{kInt8}}, create, infer};
}

}  // namespace
}  // namespace graphopt
