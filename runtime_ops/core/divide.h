// Division by a number that is known before a kernel starts: a multiplication and a shift.
//
// q = n / d = floor(n m / 2^p) for n < 2^31, where p = 31 + ceil(log2 d) and m = ceil(2^p / d): m d - 2^p < d <= 2^(p-31),
// so that n (m d - 2^p) < 2^p. Granlund and Montgomery, "Division by Invariant Integers using Multiplication", 1994.

#pragma once

#include <cstdint>

struct Divide32 {
  using Index = uint32_t;
  uint32_t divisor, factor, shift;

  explicit Divide32(int64_t by) : divisor(static_cast<uint32_t>(by)), factor(0), shift(0) {
    if (divisor <= 1) return;
    uint32_t log = 0;
    while ((uint64_t{1} << log) < divisor) ++log;
    factor = static_cast<uint32_t>(((uint64_t{1} << (31 + log)) + divisor - 1) / divisor);
    shift = log - 1;
  }

#ifdef __CUDACC__
  __device__ uint32_t operator()(uint32_t n) const { return divisor <= 1 ? n : __umulhi(n, factor) >> shift; }
#endif
};

// Where there are 2^31 numbers and more.
struct Divide64 {
  using Index = int64_t;
  int64_t divisor;

  explicit Divide64(int64_t by) : divisor(by > 0 ? by : 1) {}

#ifdef __CUDACC__
  __device__ int64_t operator()(int64_t n) const { return n / divisor; }
#endif
};
