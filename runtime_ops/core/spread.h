// Copies positions along an axis on the CPU; the work of Gather and Scatter.

#pragma once

#include <vector>

#include "kernel.h"

namespace graphopt {

// A map whose positions, but for those that get the fill, are 0, 1, 2, ... in turn, as those of a scatter in order are:
// sixteen numbers of four bytes at once are spread by one instruction. Empty where the map is another one, or where
// the processor has no such instruction (AVX-512).
struct Ranks {
  std::vector<uint16_t> there;   // of every sixteen positions: which do not get the fill
  std::vector<int32_t> before;   // how many did before them
  bool empty() const { return there.empty(); }
};

Ranks ranks_of(const int64_t* map, int64_t to, size_t width);

// out[j] += data[map[j]] for a line of floats; what gets the fill is left alone.
void add_in_order(const Ranks& ranks, const float* data, float* out, int64_t to);

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
  const Ranks* ranks = nullptr;  // of the map, where they are known and not empty; then `inner` is 1
};

// On onnxruntime's threads.
void spread(Call& call, const Spread& work);

// Rows [first, last) of the `outer` * `to` rows, here and now.
void spread(const Spread& work, int64_t first, int64_t last);

}  // namespace graphopt
