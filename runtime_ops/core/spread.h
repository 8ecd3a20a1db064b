// Copies positions along an axis on the CPU; the work of Gather and Scatter.

#pragma once

#include "kernel.h"

namespace graphopt {

// out[o, j, :] = data[o, map[j], :], or fill[j] where map[j] < 0.
//
// data [outer, from, inner], out [outer, to, inner], map [to]; `fill` holds one number, or `to`; numbers are `width`
// bytes (1, 2, 4 or 8).
struct Spread {
  const void* data;
  void* out;
  const int64_t* map;
  const void* fill;
  int64_t fills, outer, from, to, inner;
  size_t width;
};

// On onnxruntime's threads.
void spread(Call& call, const Spread& work);

// Rows [first, last) of the `outer` * `to` rows, here and now.
void spread(const Spread& work, int64_t first, int64_t last);

}  // namespace graphopt
