// The inner loops of TernaryGemm: a panel of 48 outputs, whose codes are decoded into bytes and multiplied by rows.
//
// Order of a panel's weights: the columns come in steps of four, a step is three tiles of 64 bytes, a tile is 16
// outputs times 4 columns (what one VPDPBUSD takes). Packed, the bytes of `8 / bits` steps lie in one: the first step in
// the lowest bits.

#pragma once

#include <cstdint>

namespace graphopt {
namespace ternary {

constexpr int kTiles = 3;
constexpr int kOutputs = 16 * kTiles;      // of a panel
constexpr int kStep = 64 * kTiles;         // bytes of a step, decoded
constexpr int kRows = 8;                   // that `multiply` and `fused` take at once

// What a nibble stands for: with two bits, `low` reads its lower and `high` its upper pair; with four, both all of it.
struct Levels {
  alignas(64) int8_t low[16];
  alignas(64) int8_t high[16];
  int most;  // the largest magnitude
};

// Either `fused`, or `decode` and `multiply`.
struct Kernels {
  // Decodes `groups` packed steps into groups * (8 / bits) steps of `kStep` bytes.
  void (*decode)(const uint8_t* packed, int64_t groups, int bits, const Levels& levels, int8_t* out);
  // sums[row][output] = sum over the columns of a[row][column] * weight[column][output], modulo 2^32; rows <= kRows.
  void (*multiply)(const uint8_t* a, int64_t stride, int rows, const int8_t* weights, int64_t steps,
                   const Levels& levels, int32_t* sums);
  // Both at once.
  void (*fused)(const uint8_t* a, int64_t stride, int rows, const uint8_t* packed, int64_t groups, int bits,
                const Levels& levels, int32_t* sums);
  // saturate(round(x / scale) + zero), halves to even, as uint8: `zero` and the bounds are shifted for int8.
  void (*quantize)(const float* x, int64_t count, float scale, int zero, uint8_t* out);
  // y[i] = float(sums[i] - offset[i]) * factor[i] + bias[i]: two roundings, as the definition has. All but y have room
  // for kOutputs numbers.
  void (*finish)(const int32_t* sums, const int32_t* offset, const float* factor, const float* bias, int count,
                 float* y);
};

const Kernels& portable();
const Kernels& avx2();
const Kernels& vnni();

}  // namespace ternary
}  // namespace graphopt
