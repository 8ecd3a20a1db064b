// Matrices that are mostly zeros, as rows of nonzeros, and their product with columns of contiguous numbers:
//
//   out[r][j] = bias[r] + sum over the nonzeros (c, w) of row r of w * x[c][j],   0 <= j < count
//
// The numbers j are positions (the pixels of an image, the rows of a batch). One nonzero is multiplied by a whole tile of
// them, whose sums stay in registers: nothing is gathered, and what is read of a nonzero is spread over the tile. This
// is the direct sparse convolution of Park et al., "Faster CNNs with Direct Sparse Convolutions and Guided Pruning"
// (ICLR 2017), with the register blocking over pixels of Elsen et al., "Fast Sparse ConvNets" (CVPR 2020).

#pragma once

#include <cstdint>
#include <vector>

#include "kernel.h"

namespace graphopt {

struct Nonzero {
  float value;
  int32_t column;  // x[column * stride] is where its numbers begin
};

// Nonzeros row by row: those of row r are nonzeros[begin[r]] to nonzeros[begin[r + 1]], by rising column.
struct SparseRows {
  std::vector<int64_t> begin{0};
  std::vector<Nonzero> nonzeros;

  int64_t rows() const { return static_cast<int64_t>(begin.size()) - 1; }
  int64_t count() const { return static_cast<int64_t>(nonzeros.size()); }

  // Cuts the rows into `parts` of about as many nonzeros (and rows) each; returns the parts + 1 limits, multiples of
  // `step` but for the last.
  std::vector<int64_t> cut(int64_t parts, int64_t step = 1) const;
};

// A nonzero of a constant weight of any shape: its position when the weight is read row by row.
struct Entry {
  int64_t position;
  float value;
};

// Reads the compact form of a weight. The position of number i is the sum of gaps[0] to gaps[i]; zeros are left out.
// Throws where `gaps` and `values` do not fit each other or a weight of `size` numbers.
std::vector<Entry> decode(const Tensor& values, const Tensor& gaps, int64_t size);

enum class Activation { kNone, kRelu };

// One product; see above. Row r of the result begins at out[(r - first) * out_stride].
struct Product {
  const SparseRows& matrix;
  const float* x;
  int64_t stride;       // from a column's numbers to those of the next
  const float* bias;    // [rows]
  Activation activation;
};

// How a processor does it: at most `widest` positions at once, whole registers of `lanes`.
struct RowKernel {
  int64_t lanes;
  int64_t widest;
  void (*run)(const Product& product, int64_t first, int64_t last, const float* x, int64_t count, float* out,
              int64_t out_stride);
};

// The one for this processor.
const RowKernel& row_kernel();

// Positions in tiles of about equal size, each of whole registers but for the last.
struct Tiles {
  int64_t positions, size;

  Tiles(int64_t positions, int64_t most, int64_t lanes);
  int64_t count() const { return size == 0 ? 0 : (positions + size - 1) / size; }
  int64_t length(int64_t tile) const { return std::min(size, positions - tile * size); }
};

// to[j * to_stride + i] = from[i * from_stride + j] for i < rows, j < columns.
void transpose(const float* from, int64_t from_stride, int64_t rows, int64_t columns, float* to, int64_t to_stride);

}  // namespace graphopt
