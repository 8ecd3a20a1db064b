// Comparisons to signs, in the compiler's own vectors: of a float condition and a result of bytes it makes slow code.

#pragma once

#include <cstdint>
#include <cstring>

#define GRAPHOPT_INLINE inline __attribute__((always_inline))

namespace graphopt::binary {

constexpr int64_t kSide = 16;  // numbers in a vector
typedef int32_t Integers __attribute__((vector_size(kSide * sizeof(int32_t))));
typedef float Floats __attribute__((vector_size(kSide * sizeof(float))));
typedef int8_t Signs __attribute__((vector_size(kSide)));

// 1 where a lane of a comparison is true (-1), else -1. A macro's worth of code: no vector crosses a call, whose
// interface would depend on the processor.
#define GRAPHOPT_STORE_SIGNS(condition, out)                                             \
  do {                                                                          \
    const Integers true_or_not = (condition);                                   \
    const Signs signs_of = (__builtin_convertvector(true_or_not, Signs) & 2) - 1; \
    std::memcpy(out, &signs_of, sizeof signs_of);                               \
  } while (false)

}  // namespace graphopt::binary
