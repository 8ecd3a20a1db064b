// Additions on rows of numbers, for every element type and set of instructions.

#pragma once

#include <cstdint>

#include "kernel.h"

namespace graphopt {

// The functions of one element type, for the processor at hand. `out` may be `a`.
struct Adding {
  void (*rows)(void* out, const void* a, const void* b, int64_t count);       // out = a + b
  void (*number)(void* out, const void* a, const void* b, int64_t count);     // out = a + *b
  void (*lift)(void* out, const void* floor, int64_t count);                  // out = max(out, *floor)
  void (*places)(void* out, const void* b, const int64_t* at, int64_t count);  // out[at[i]] += b[i]
  bool (*nothing)(const void* number);  // whether adding it changes no number at all: -0.0, or an integer 0
};

Adding adding(OrtElementType type);

}  // namespace graphopt
