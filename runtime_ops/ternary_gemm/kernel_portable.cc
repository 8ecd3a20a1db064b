// TernaryGemm's inner loops in plain C++.

#include <algorithm>
#include <cmath>

#include "tiles.h"

namespace graphopt {
namespace ternary {
namespace {

void decode(const uint8_t* packed, int64_t groups, int bits, const Levels& levels, int8_t* out) {
  for (int64_t group = 0; group < groups; ++group, packed += kStep, out += kStep * (8 / bits)) {
    for (int i = 0; i < kStep; ++i) {
      const int low = packed[i] & 15, high = packed[i] >> 4;
      if (bits == 2) {
        out[i] = levels.low[low];
        out[kStep + i] = levels.high[low];
        out[2 * kStep + i] = levels.low[high];
        out[3 * kStep + i] = levels.high[high];
      } else {
        out[i] = levels.low[low];
        out[kStep + i] = levels.low[high];
      }
    }
  }
}

void multiply(const uint8_t* a, int64_t stride, int rows, const int8_t* weights, int64_t steps, const Levels&,
              int32_t* sums) {
  for (int row = 0; row < rows; ++row, a += stride, sums += kOutputs) {
    uint32_t sum[kOutputs] = {};
    const int8_t* w = weights;
    for (int64_t step = 0; step < steps; ++step, w += kStep) {
      for (int output = 0; output < kOutputs; ++output) {
        int32_t four = 0;
        for (int i = 0; i < 4; ++i) four += a[4 * step + i] * w[4 * output + i];
        sum[output] += static_cast<uint32_t>(four);
      }
    }
    for (int output = 0; output < kOutputs; ++output) sums[output] = static_cast<int32_t>(sum[output]);
  }
}

void quantize(const float* x, int64_t count, float scale, int zero, uint8_t* out) {
  const float lowest = static_cast<float>(-zero), highest = static_cast<float>(255 - zero);
  for (int64_t i = 0; i < count; ++i) {
    const float step = std::min(std::max(lowest, x[i] / scale), highest);
    out[i] = static_cast<uint8_t>(static_cast<int>(std::nearbyint(step)) + zero);
  }
}

void finish(const int32_t* sums, const int32_t* offset, const float* factor, const float* bias, int count, float* y) {
  for (int i = 0; i < count; ++i) {
    const auto sum = static_cast<int32_t>(static_cast<uint32_t>(sums[i]) - static_cast<uint32_t>(offset[i]));
    y[i] = static_cast<float>(sum) * factor[i] + bias[i];
  }
}

}  // namespace

const Kernels& portable() {
  static const Kernels kernels{decode, multiply, nullptr, quantize, finish};
  return kernels;
}

}  // namespace ternary
}  // namespace graphopt
