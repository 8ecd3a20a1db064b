// Statistics on a device: what kernel.cu and cuda.cc share.

#pragma once

#include <cstdint>

namespace graphopt::histogram {

constexpr int kBins = 1 << 16;
constexpr int kSlots = 1 << 10;           // of the table of different numbers
constexpr uint32_t kFree = 0xffffffffu;   // a slot without a number: as bits a NaN, which is not counted
constexpr int kTooMany = 257;             // different numbers

struct DeviceState {
  unsigned long long counts[kBins];       // bin t at t mod 2**16
  unsigned long long nans, infinities;
  unsigned long long times[kSlots];       // how often each of the different numbers came
  uint32_t keys[kSlots];                  // the different numbers, as bits
  uint32_t used;                          // slots
  uint32_t dropped;                       // whether there were too many different numbers
  uint32_t low, high;                     // smallest and largest number, as bits in ascending order
  int32_t exponent;
};

// Floats as integers in the same order; a cleared state has low = ~0 and high = 0, which are NaN.
constexpr uint32_t kNoLow = 0xffffffffu, kNoHigh = 0;

}  // namespace graphopt::histogram

// A cudaError_t each. `type`: 0 float, 1 float16, 2 bfloat16. Everything is asynchronous but `read` and `write`.
extern "C" {
int graphopt_cuda_histogram(int type, const void* x, int64_t count, int64_t rows,
                            graphopt::histogram::DeviceState* state, int64_t* nonfinite, void* stream);
int graphopt_cuda_histogram_copy(const void* from, void* to, int64_t bytes, void* stream);
int graphopt_cuda_histogram_device(int* device);
int graphopt_cuda_histogram_make(graphopt::histogram::DeviceState** state);
int graphopt_cuda_histogram_read(int device, const graphopt::histogram::DeviceState* state,
                                 graphopt::histogram::DeviceState* to);
int graphopt_cuda_histogram_write(int device, graphopt::histogram::DeviceState* state,
                                  const graphopt::histogram::DeviceState* from);
int graphopt_cuda_histogram_free(graphopt::histogram::DeviceState* state);
}
