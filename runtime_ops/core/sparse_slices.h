// Sparse rows for few positions (one to sixteen), where a row alone has too little work: its sums wait for each other, and
// its length, always another one, is a branch that is foretold wrongly. Eight rows of about equal length run side by
// side, their nonzeros interleaved: SELL-C-sigma (Kreutzer et al., SIAM J. Sci. Comput. 36(5), 2014), with C = 8 and
// sigma = 128. Were all rows sorted, threads would write to the same lines of the cache, many times slower than alone.

#pragma once

#include <cstdint>
#include <vector>

#include "sparse_rows.h"

namespace graphopt {

struct SparseSlices {
  static constexpr int64_t kRows = 8;
  static constexpr int64_t kSorted = 128;  // rows among which those of a slice are chosen
  static constexpr int64_t kMostColumns = UINT16_MAX;  // beside the one of zeros
  static constexpr int64_t kMostPositions = 16;

  std::vector<int64_t> begin{0};  // steps in front of a slice; a step is a nonzero of each of its rows
  std::vector<int32_t> row;       // [slices * 8]: which rows they are; -1: none
  std::vector<float> value;       // [steps * 8]
  std::vector<uint16_t> column;   // [steps * 8]; shorter rows read the column behind the last, which holds zeros

  SparseSlices(const SparseRows& matrix, int64_t columns);
  int64_t slices() const { return static_cast<int64_t>(begin.size()) - 1; }

  int64_t groups() const { return (slices() * kRows + kSorted - 1) / kSorted; }  // of rows that were sorted together

  // Cuts the slices into `parts` of whole groups, of about as many steps each; returns the parts + 1 limits.
  std::vector<int64_t> cut(int64_t parts) const;
};

// Floats that a column of `count` positions takes: 1, 4, 8 or 16. Those behind the last position may hold anything.
int64_t slice_width(int64_t count);

// out[j * out_stride + r] = act(bias[r] + sum of w * x[c * width + j]), j < count, for the rows of slices [first, last).
// x has one column more than the matrix: zeros.
void multiply(const SparseSlices& matrix, int64_t first, int64_t last, const float* x, int64_t count, const float* bias,
              Activation activation, float* out, int64_t out_stride);

}  // namespace graphopt
