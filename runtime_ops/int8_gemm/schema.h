// Int8Gemm and Int8GemmAdd: types and shapes, whichever provider has the kernel.

#pragma once

#include <vector>

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

std::vector<Port> ports(OrtMemType constants) {
  return {{kInt8}, {kInt8, kRequired, constants}, {kFloat, kRequired, constants}, {kInt32, kRequired, constants}};
}

// `constants`: the memory that the weights, scales and biases lie in.
Operator describe(const char* provider, Maker create, OrtMemType constants = kMemDefault) {
  return {"Int8Gemm", provider, ports(constants), {{kInt8}}, create, infer};
}

Operator describe_add(const char* provider, Maker create, OrtMemType constants = kMemDefault) {
  std::vector<Port> inputs = ports(constants);
  inputs.push_back({kInt8});
  return {"Int8GemmAdd", provider, inputs, {{kInt8}}, create, infer};
}

}  // namespace
}  // namespace graphopt
