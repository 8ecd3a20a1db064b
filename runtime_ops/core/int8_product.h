// Sums of products of int8 numbers and their requantization, for the CPU: what Int8Conv and Int8Gemm share.
//
//   y = clip(round(float32(sum + bias) scale [+ (residual - zero) residual_scale]) + y_zero_point, low, high)
//
// Rows of x are stored as bytes x + 128, weights as int8: that is what VNNI multiplies. `Weights::sums` takes the 128
// out again. All sums are modulo 2^32, every step in float32 is rounded on its own (no fused multiply and add), so that
// every path gives the bits of the ONNX function.

#pragma once

#include <cstdint>
#include <vector>

#include "cpu.h"
#include "kernel.h"

namespace graphopt::int8 {

constexpr int kRows = 12;     // rows of a tile
constexpr int kColumns = 32;  // columns of a tile and of a panel

// Weights in panels of 32 columns: [panel][depth / 4][32][4], zero where there is no column. Columns are counted over
// all groups, and every group begins with a new panel.
struct Weights {
  int64_t columns = 0;  // of a group
  int64_t groups = 1;
  int64_t depth = 0;  // numbers of a row, a multiple of 4
  std::vector<int8_t> panels;
  std::vector<int32_t> sums;  // of each column, [groups * columns]

  Weights() = default;
  Weights(int64_t groups, int64_t columns, int64_t depth);

  int64_t panels_of_group() const { return (columns + kColumns - 1) / kColumns; }
  void set(int64_t group, int64_t column, int64_t k, int8_t value) {
    const int64_t panel = group * panels_of_group() + column / kColumns;
    panels[((panel * (depth / 4) + k / 4) * kColumns + column % kColumns) * 4 + k % 4] = value;
    sums[group * columns + column] += value;
  }
  const int8_t* panel(int64_t group, int64_t index) const {
    return panels.data() + (group * panels_of_group() + index) * depth * kColumns;
  }
};

// How a sum becomes a number of y. `scale` and `bias` have room for whole panels behind the last column.
struct Requantize {
  int64_t x_zero_point = 0, y_zero_point = 0, low = -128, high = 127, residual_zero_point = 0;
  float residual_scale = 1;
  bool residual = false;

  Requantize(const Info& info, bool with_residual);
};

// Scales and biases of every column of every group, [groups][panels * 32]; the bias holds what the offsets of x add.
struct Columns {
  std::vector<float> scale;
  std::vector<int32_t> bias;

  // Throws unless both have a number for every column (a scale may have one for all).
  void set(const Tensor& scales, const Tensor& biases, const Weights& weights, int64_t x_zero_point);
};

// Where a tile goes: y[row * row_step + column * column_step]; the residual lies in the same way.
struct Place {
  int8_t* y;
  const int8_t* residual;  // or null
  int64_t row_step, column_step;
};

// Multiplies up to 12 rows with a panel. Row r is made of segments: bytes [segment, segment + length) behind rows[r].
void tile(Cpu cpu, const uint8_t* const* rows, const int64_t* segments, int64_t count, int64_t length,
          const int8_t* panel, int32_t* sums);

// Writes a tile of [rows][32] sums.
void finish(Cpu cpu, const int32_t* sums, int64_t rows, int64_t columns, const float* scale, const int32_t* bias,
            const Requantize& how, const Place& place);

// sums[c] = sum over taps of bytes[tap * step + c] w[tap * step + c], for c in [0, count): a depthwise convolution at one
// position, whose taps lie at `offsets`.
void depthwise(Cpu cpu, const uint8_t* bytes, const int64_t* offsets, const int8_t* w, int64_t taps, int64_t w_step,
               int64_t count, int32_t* sums);

}  // namespace graphopt::int8
