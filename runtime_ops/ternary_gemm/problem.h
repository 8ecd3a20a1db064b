// What the CUDA kernel of TernaryGemm is told; plain, so that C++ without CUDA can say it.

#pragma once

#include <cstdint>

namespace graphopt {
namespace ternary {

enum Activation : int { kAsFloat = 0, kAsUint8 = 1, kAsInt8 = 2 };

// All pointers are of the device.
struct Product {
  const void* x;          // [rows, columns], as `activation` says
  const uint8_t* codes;   // [outputs, bytes]
  const int8_t* levels;   // [2 ** bits]
  const float* scale;     // [outputs] or [1]
  const float* bias;      // [outputs] or [1]
  const float* step;      // x_scale
  const void* zero;       // x_zero_point, one byte
  float* y;               // [rows, outputs]
  int64_t rows, columns, outputs, bytes;
  int scale_step, bias_step;  // 0 where one number serves all
  int bits, activation;
  bool unsigned_zero;
  bool wide_x, wide_codes;  // rows may be read 16 (x) and 8 (codes) bytes at once
};

}  // namespace ternary
}  // namespace graphopt

extern "C" int graphopt_cuda_ternary_gemm(const graphopt::ternary::Product* problem, void* stream);
