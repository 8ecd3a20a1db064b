// Small products of gathered rows with packed weights.

#pragma once

#include <cstdint>

namespace graphopt {

constexpr int kPanel = 16;  // outputs that are packed side by side: one vector of AVX-512, two of AVX2

// What one set of instructions computes: sums[m, p * 16 + n] = sum over k of a[k, m] w[p, k, n].
struct Product {
  // At most `rows` rows of `a` ([depth, rows], also where fewer are used: what is read in turn lies in turn) and
  // `panels` panels of `w` (each [depth, 16]) at once; `few` panels go with no more than `few_rows` rows.
  int rows, panels, few_rows, few;
  void (*run)(const float* a, int64_t rows, const float* w, int64_t panels, int64_t depth, float* sums);
  // out[m, n] += sums[m, n]
  void (*add)(float* out, int64_t out_step, const float* sums, int64_t sums_step, int64_t rows, int64_t count);
  void (*lift)(float* out, float floor, int64_t count);  // out = max(out, floor)
};

constexpr int kMostSums = 14 * 2 * kPanel;

Product product_for_this_processor();

}  // namespace graphopt
