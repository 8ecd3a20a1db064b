// Int8Conv and Int8ConvAdd: types and shapes, whichever provider has the kernel.

#pragma once

#include "int8_ports.h"
#include "int8_window.h"
#include "kernel.h"

namespace graphopt {
namespace {

void infer(Inference& inference) {
  const TypeAndDims x = inference.input(0), w = inference.input(1);
  if (x.dims.empty() || x.dims.size() != w.dims.size()) return;
  inference.output(0, int8::Window(inference).output(x, w));
}

// `constants`: the memory that weights, scales and biases lie in.
Operator describe(const char* provider, Maker create, OrtMemType constants = kMemDefault) {
  return {"Int8Conv", provider, int8::ports(constants, false), {{kInt8}}, create, infer};
}

Operator describe_add(const char* provider, Maker create, OrtMemType constants = kMemDefault) {
  return {"Int8ConvAdd", provider, int8::ports(constants, true), {{kInt8}}, create, infer};
}

}  // namespace
}  // namespace graphopt
