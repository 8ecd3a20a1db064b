// Small products of gathered rows with packed weights.

#pragma once

#include <cstdint>

namespace graphopt {

constexpr int kPanel = 16;  // outputs that are packed side by side: one vector of AVX-512, two of AVX2

// What one set of instructions computes: sums[m, p * 16 + n] = sum over k of a[m, k] w[p, k, n].
struct Product {
  // At most `rows` rows of `a` (each `depth` numbers) and `panels` panels of `w` (each [depth, 16]) at once; `few` is
  // how many panels go with no more than `few_rows` rows.
  int rows, panels, few_rows, few;
  void (*run)(const float* a, int64_t rows, const float* w, int64_t panels, int64_t depth, float* sums);
  void (*add)(float* out, const float* sums, int64_t count);    // out += sums
  void (*lift)(float* out, float floor, int64_t count);         // out = max(out, floor)
};

constexpr int kMostSums = 14 * 2 * kPanel;

Product product_for_this_processor();

}  // namespace graphopt
