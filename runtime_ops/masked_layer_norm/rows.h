// The inner loops of MaskedLayerNorm: rows of floats.

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

// A row; y may be x.
using Normalize = void (*)(const float* x, int64_t size, const Rest& rest, const float* scale, const float* bias, float* y);

Normalize normalize_for_this_processor();

}  // namespace norm
}  // namespace graphopt
