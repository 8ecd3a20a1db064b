// Products of signs on the GPU: what the host asks for. Plain data and plain C launchers, which return a cudaError_t.
//
// Signs are packed as on the CPU (1 is +1, the first in the lowest bit), in 32-bit words, rows padded with zeros to a
// multiple of 128 bits. With `and` as the product of bits, the sum of products of signs over v valid places is
//   v - 2 popcount(a) - 2 popcount(w) + 4 popcount(a & w),
// where w's count is over the valid places alone; a is 0 in the others.

#pragma once

#include <cstdint>

namespace graphopt::binary {

constexpr int64_t kWordsOfCopy = 4;  // 16 bytes

inline int64_t padded_words(int64_t words) { return (words + kWordsOfCopy - 1) / kWordsOfCopy * kWordsOfCopy; }

// The window of a convolution; for a product of matrices everything is 1 and `batch` counts the rows.
struct Windows {
  int64_t batch = 0, channels = 0, group = 1;  // channels of the input, in a group
  int height = 1, width = 1, out_height = 1, out_width = 1, down = 1, across = 1;
  int stride_down = 1, stride_across = 1, dilation_down = 1, dilation_across = 1, top = 0, left = 0;
};

// out[b, m, p] (a convolution) or out[b, m] (a product): every activation row against every filter.
struct Product {
  Windows windows;
  const uint32_t* activations;  // [group][batch * out pixels][words]
  const uint32_t* filters;      // [group][filters of a group][words]
  // [(down + 1)][(across + 1)][filters]: bits that are set in the taps above and left of a corner, of every filter.
  const int32_t* counts;
  int64_t rows;     // batch * out pixels
  int64_t words;    // of a row, a multiple of 4
  int64_t columns;  // filters of a group
  const float* scale;      // with bias: float results
  const float* bias;
  const float* threshold;  // else signs
  void* out;
};

}  // namespace graphopt::binary

extern "C" {
// Rows of x [rows, k] (float, or int8 where `narrow`) into [rows][words].
int graphopt_cuda_binary_rows(const void* x, int narrow, int64_t rows, int64_t k, int64_t words, uint32_t* out,
                              void* stream);
// x [batch, group * channels, pixels] into [batch][pixels][group][words_of(channels)].
int graphopt_cuda_binary_pixels(const void* x, int narrow, const graphopt::binary::Windows* windows, uint32_t* out,
                                void* stream);
// What lies under the window of every output pixel, [group][batch * out pixels][words]; zeros in the padding.
int graphopt_cuda_binary_windows(const uint32_t* pixels, const graphopt::binary::Windows* windows, int64_t words,
                                 uint32_t* out, void* stream);
int graphopt_cuda_binary_product(const graphopt::binary::Product* product, void* stream);
}
