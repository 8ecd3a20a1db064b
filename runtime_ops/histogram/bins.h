// From numbers to bins: the part of counting that depends on the processor.

#pragma once

#include <cstdint>

namespace graphopt::histogram {

// Smallest and largest of some numbers, and whether none of them is NaN or infinite. Only where that holds do `low` and
// `high` mean anything.
struct Range {
  double low, high;
  bool finite;
};

// Numbers that are worked on at once: they, and their bins, stay in the first-level cache.
constexpr int64_t kPiece = 4096;

// The range of n > 0 numbers.
Range range(const float* x, int64_t n);
Range range(const double* x, int64_t n);

// Writes `trunc(x * 2**scale) mod 2**16` of those numbers where it is not zero, in any order, and returns how many there
// are. All numbers are finite, and the truncated ones lie within +-32767. `bins` has room for n + 16 numbers.
int64_t bins(const float* x, int64_t n, int scale, uint16_t* bins);
int64_t bins(const double* x, int64_t n, int scale, uint16_t* bins);

// float16 and bfloat16 as float.
void widen_half(const uint16_t* x, int64_t n, float* out);
void widen_brain(const uint16_t* x, int64_t n, float* out);

}  // namespace graphopt::histogram
