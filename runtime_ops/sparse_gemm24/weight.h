// A 2:4 weight in its compact form, as a node has it: on the host.

#pragma once

#include <cstdint>
#include <vector>

#include "kernel.h"

namespace graphopt::sparse24 {

struct Weight {
  int64_t depth = 0, columns = 0;
  std::vector<uint16_t> values;   // [columns, depth / 2], float16 or bfloat16
  std::vector<uint8_t> indices;  // [columns, ceil(depth / 8)]

  Weight(const Tensor& v, const Tensor& i) {
    require(v.present() && i.present(), "values and indices must be initializers");
    require(v.rank() == 2 && i.rank() == 2, "values and indices must be matrices");
    columns = v.shape[0];
    depth = 2 * v.shape[1];
    require(depth % 4 == 0, "values must hold two numbers of each four: an even number a row");
    require(i.shape[0] == columns && i.shape[1] == (depth + 7) / 8, "indices must be [N, ceil(K / 8)]");
    values.assign(v.as<uint16_t>(), v.as<uint16_t>() + v.count());
    indices.assign(i.as<uint8_t>(), i.as<uint8_t>() + i.count());
  }

  // Calls `visit(column, row, number)` for every number that is kept.
  template <class F>
  void each(F&& visit) const {
    const int64_t half = depth / 2, bytes = (depth + 7) / 8;
    for (int64_t n = 0; n < columns; ++n) {
      for (int64_t v = 0; v < half; ++v) {
        const int place = indices[n * bytes + v / 4] >> v % 4 * 2 & 3;
        visit(n, v / 2 * 4 + place, values[n * half + v]);
      }
    }
  }
};

// The shape of the result.
inline Shape shape_of(const Tensor& x, const Weight& weight) {
  require(x.rank() >= 2 && x.shape.back() == weight.depth, "the last axis of x must be as long as the weight has rows");
  Shape shape = x.shape;
  shape.back() = weight.columns;
  return shape;
}

}  // namespace graphopt::sparse24
