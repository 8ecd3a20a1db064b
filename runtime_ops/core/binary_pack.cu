// Signs into words on the GPU: rows of a matrix, channels of pixels, and the pixels under a window.

#include <cstddef>

#include "binary_cuda.h"
#include "tensor_cores.h"

#if !defined(GRAPHOPT_EMULATED)
#include <cuda_runtime.h>
#endif

namespace graphopt::binary {
namespace {

constexpr int kThreads = 256;

template <class T>
struct Rows {
  const T* x;
  int64_t rows, k, words;
  uint32_t* out;
};

template <class T>
struct Pixels {
  const T* x;
  Windows windows;
  int64_t words;  // of a pixel and group
  uint32_t* out;
};

struct Gathered {
  const uint32_t* pixels;
  Windows windows;
  int64_t words_of_tap, words;
  uint32_t* out;
};

// A thread a word of 32 numbers that lie side by side: the whole line of the cache is its own.
template <class T>
__global__ void pack_rows(Rows<T> p) {
  const int64_t stride = static_cast<int64_t>(gridDim.x) * kThreads;
  for (int64_t at = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; at < p.rows * p.words; at += stride) {
    const int64_t row = at / p.words, first = at % p.words * 32;
    const T* x = p.x + row * p.k + first;
    uint32_t word = 0;
    if (first + 32 <= p.k) {
#pragma unroll
      for (int i = 0; i < 32; ++i) word |= static_cast<uint32_t>(x[i] > T(0)) << i;
    } else {
      for (int i = 0; first + i < p.k; ++i) word |= static_cast<uint32_t>(x[i] > T(0)) << i;
    }
    p.out[at] = word;
  }
}

// A thread a pixel, group and 32 channels; neighbours read neighbours.
template <class T>
__global__ void pack_pixels(Pixels<T> p) {
  const Windows& w = p.windows;
  const int64_t plane = static_cast<int64_t>(w.height) * w.width;
  const int64_t count = w.batch * w.group * p.words * plane, stride = static_cast<int64_t>(gridDim.x) * kThreads;
  for (int64_t at = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; at < count; at += stride) {
    const int64_t pixel = at % plane, word = at / plane % p.words;
    const int64_t group = at / plane / p.words % w.group, item = at / plane / p.words / w.group;
    const T* x = p.x + ((item * w.group + group) * w.channels + word * 32) * plane + pixel;
    uint32_t bits = 0;
    if (word * 32 + 32 <= w.channels) {
#pragma unroll
      for (int i = 0; i < 32; ++i) bits |= static_cast<uint32_t>(x[i * plane] > T(0)) << i;
    } else {
      for (int i = 0; word * 32 + i < w.channels; ++i) bits |= static_cast<uint32_t>(x[i * plane] > T(0)) << i;
    }
    p.out[((item * plane + pixel) * w.group + group) * p.words + word] = bits;
  }
}

// A thread a word of the result.
__global__ void gather_windows(Gathered p) {
  const Windows& w = p.windows;
  const int64_t rows = w.batch * w.out_height * w.out_width;
  const int64_t count = w.group * rows * p.words, stride = static_cast<int64_t>(gridDim.x) * kThreads;
  for (int64_t at = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; at < count; at += stride) {
    const int64_t word = at % p.words, row = at / p.words % rows, group = at / p.words / rows;
    const int64_t tap = word / p.words_of_tap;
    uint32_t bits = 0;
    if (tap < static_cast<int64_t>(w.down) * w.across) {
      const int64_t out_x = row % w.out_width, out_y = row / w.out_width % w.out_height;
      const int64_t item = row / w.out_width / w.out_height;
      const int64_t y = out_y * w.stride_down - w.top + tap / w.across * w.dilation_down;
      const int64_t x = out_x * w.stride_across - w.left + tap % w.across * w.dilation_across;
      if (y >= 0 && y < w.height && x >= 0 && x < w.width) {
        bits = p.pixels[(((item * w.height + y) * w.width + x) * w.group + group) * p.words_of_tap +
                        word % p.words_of_tap];
      }
    }
    p.out[at] = bits;
  }
}

unsigned blocks(int64_t count) {
  const int64_t wanted = (count + kThreads - 1) / kThreads;
  return static_cast<unsigned>(wanted < (1 << 16) ? wanted : 1 << 16);
}

template <class T>
int rows_of(const void* x, int64_t rows, int64_t k, int64_t words, uint32_t* out, void* stream) {
  const Rows<T> p{static_cast<const T*>(x), rows, k, words, out};
  return gpu::launch(pack_rows<T>, dim3(blocks(rows * words)), kThreads, 0, stream, p);
}

template <class T>
int pixels_of(const void* x, const Windows& windows, uint32_t* out, void* stream) {
  const int64_t words = (windows.channels + 31) / 32;
  const Pixels<T> p{static_cast<const T*>(x), windows, words, out};
  const int64_t count = windows.batch * windows.group * words * windows.height * windows.width;
  return count == 0 ? 0 : gpu::launch(pack_pixels<T>, dim3(blocks(count)), kThreads, 0, stream, p);
}

}  // namespace
}  // namespace graphopt::binary

using namespace graphopt::binary;

extern "C" int graphopt_cuda_binary_rows(const void* x, int narrow, int64_t rows, int64_t k, int64_t words,
                                         uint32_t* out, void* stream) {
  if (rows * words == 0) return 0;
  return narrow ? rows_of<int8_t>(x, rows, k, words, out, stream) : rows_of<float>(x, rows, k, words, out, stream);
}

extern "C" int graphopt_cuda_binary_pixels(const void* x, int narrow, const Windows* windows, uint32_t* out,
                                           void* stream) {
  return narrow ? pixels_of<int8_t>(x, *windows, out, stream) : pixels_of<float>(x, *windows, out, stream);
}

extern "C" int graphopt_cuda_binary_windows(const uint32_t* pixels, const Windows* windows, int64_t words,
                                            uint32_t* out, void* stream) {
  const Gathered p{pixels, *windows, (windows->channels + 31) / 32, words, out};
  const int64_t count = windows->group * windows->batch * windows->out_height * windows->out_width * words;
  return count == 0 ? 0 : graphopt::gpu::launch(gather_windows, dim3(blocks(count)), kThreads, 0, stream, p);
}
