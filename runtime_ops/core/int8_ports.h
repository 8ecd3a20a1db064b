// The inputs of Int8Conv and Int8Gemm, and of Int8ConvAdd and Int8GemmAdd.

#pragma once

#include <vector>

#include "kernel.h"

namespace graphopt::int8 {

// x, w, scale, bias, and what is added where that is asked for. `constants`: the memory that w, scale and bias lie in.
inline std::vector<Port> ports(OrtMemType constants, bool residual) {
  std::vector<Port> all = {
      {kInt8}, {kInt8, kRequired, constants}, {kFloat, kRequired, constants}, {kInt32, kRequired, constants}};
  if (residual) all.push_back({kInt8});
  return all;
}

}  // namespace graphopt::int8
