// Weights of one bit as a model holds them: bytes, 8 numbers each, the first in the lowest bit; 1 is +1, 0 is -1.

#pragma once

#include <algorithm>
#include <cstring>

#include "binary.h"
#include "kernel.h"

namespace graphopt::binary {

// The input of packed bits, which has to be a constant of `rank` axes whose last one holds `bits` numbers.
inline Tensor packed_weights(const Info& info, size_t rank, int64_t bits, const char* attribute) {
  if (bits < 0) throw Error(std::string("attribute ") + attribute + " is missing: how many numbers the weights hold");
  // A sum is a float at the end, and has to be exact in it.
  if (bits > 1 << 24) throw Error(std::string(attribute) + " is above 2^24");
  const Tensor weights = info.constant(1);
  require(weights.present(), "weights (input 1) must be a constant: its bits are packed once, when the kernel is made");
  if (weights.rank() != rank) throw Error("weights (input 1) must have " + std::to_string(rank) + " axes");
  if (weights.shape.back() != (bits + 7) / 8) {
    throw Error("weights (input 1) have " + std::to_string(weights.shape.back()) + " bytes in their last axis, but " +
                std::to_string(bits) + " numbers need " + std::to_string((bits + 7) / 8));
  }
  return weights;
}

// One row of bytes into words(bits) words; bits behind the last are cleared.
inline void load_bits(const uint8_t* bytes, int64_t bits, Word* out) {
  for (int64_t w = 0; w < words(bits); ++w) {
    const int64_t held = std::min(kBits, bits - w * kBits);
    Word word = 0;
    for (int64_t b = 0; b < (held + 7) / 8; ++b) word |= static_cast<Word>(bytes[w * 8 + b]) << (b * 8);
    out[w] = held == kBits ? word : word & ((Word{1} << held) - 1);
  }
}

// A vector of one float for every channel.
inline const float* channels_of(const Call& call, size_t index, int64_t count, const char* name) {
  const Tensor tensor = call.input(index);
  if (tensor.rank() != 1 || tensor.count() != count) {
    throw Error(std::string(name) + " (input " + std::to_string(index) + ") must have one axis of " +
                std::to_string(count) + " numbers");
  }
  return tensor.as<float>();
}

}  // namespace graphopt::binary
