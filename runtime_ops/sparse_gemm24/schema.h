// SparseGemm24: types and shapes, whichever provider has the kernel.

#pragma once

#include "kernel.h"

namespace graphopt {
namespace {

void infer(Inference& inference) {
  TypeAndDims out = inference.input(0);
  const TypeAndDims values = inference.input(1);
  if (out.dims.empty() || values.dims.size() != 2) return;
  out.dims.back() = values.dims[0];
  inference.output(0, out);
}

// `weight`: the memory that values and indices lie in.
Operator describe(const char* provider, OrtElementType type, Maker create, OrtMemType weight = kMemDefault) {
  return {"SparseGemm24", provider, {{type}, {type, kRequired, weight}, {kUint8, kRequired, weight}}, {{type}}, create,
          infer};
}

}  // namespace
}  // namespace graphopt
