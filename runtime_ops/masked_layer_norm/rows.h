// The inner loops of MaskedLayerNorm: rows of floats, and halves made into floats and back.

#pragma once

#include <cstdint>

namespace graphopt {
namespace norm {

// What is known of the positions that are left out; `fill` is their mean, `spread` = their squared distances from it
// over the number of all.
struct Rest {
  float missing, fill, spread, epsilon;

  // Of `size` numbers with this sum, and the others.
  float mean(float sum, float size) const { return (sum + missing * fill) / (size + missing); }
  // Of the squared distances of `size` numbers from this mean, and of the others.
  float variance(float squares, float mean, float size) const {
    const float off = fill - mean;
    return (squares + missing * (off * off)) / (size + missing) + spread;
  }
};

struct Kernels {
  // y may be x.
  void (*normalize)(const float* x, int64_t size, const Rest& rest, const float* scale, const float* bias, float* y);
  void (*from_half)(const uint16_t* x, int64_t count, float* y);
  void (*to_half)(const float* x, int64_t count, uint16_t* y);
  void (*from_bfloat16)(const uint16_t* x, int64_t count, float* y);
  void (*to_bfloat16)(const float* x, int64_t count, uint16_t* y);
};

const Kernels& portable();
const Kernels& avx2();
const Kernels& avx512();

}  // namespace norm
}  // namespace graphopt
