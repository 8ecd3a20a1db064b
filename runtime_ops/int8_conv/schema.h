// Int8Conv and Int8ConvAdd: types and shapes, whichever provider has the kernel.

#pragma once

#include <vector>

#include "int8_window.h"
#include "kernel.h"

namespace graphopt {
namespace {

void infer(Inference& inference) {
  const TypeAndDims x = inference.input(0), w = inference.input(1);
  if (x.dims.empty() || x.dims.size() != w.dims.size()) return;
  inference.output(0, int8::Window(inference).output(x, w));
}

std::vector<Port> ports(OrtMemType constants) {
  return {{kInt8}, {kInt8, kRequired, constants}, {kFloat, kRequired, constants}, {kInt32, kRequired, constants}};
}

// `constants`: the memory that the weights, scales and biases lie in.
Operator describe(const char* provider, Maker create, OrtMemType constants = kMemDefault) {
  return {"Int8Conv", provider, ports(constants), {{kInt8}}, create, infer};
}

Operator describe_add(const char* provider, Maker create, OrtMemType constants = kMemDefault) {
  std::vector<Port> inputs = ports(constants);
  inputs.push_back({kInt8});
  return {"Int8ConvAdd", provider, inputs, {{kInt8}}, create, infer};
}

}  // namespace
}  // namespace graphopt
