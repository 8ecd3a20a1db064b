// A GPU with warps and atomic operations that is played on the processor: threads of a block take turns between barriers,
// and what a warp does together waits for all of the block, which is right where all of it gets there. Launches are
// rewritten before this is compiled (tests/runtime_ops/test_histogram_cuda.py). It finds wrong sums, sizes and addresses,
// and no races.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <ucontext.h>
#include <utility>
#include <vector>

#define __global__
#define __device__
#define __shared__ static

using std::isfinite;
using std::isinf;
using std::max;
using std::min;

using cudaStream_t = void*;
using cudaError_t = int;
constexpr cudaError_t cudaSuccess = 0;
enum { cudaDevAttrMultiProcessorCount, cudaDevAttrMaxSharedMemoryPerBlockOptin };
enum { cudaFuncAttributeMaxDynamicSharedMemorySize };
enum { cudaMemcpyDeviceToDevice, cudaMemcpyDeviceToHost, cudaMemcpyHostToDevice };

inline cudaError_t cudaGetLastError() { return cudaSuccess; }
inline cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}
inline cudaError_t cudaSetDevice(int) { return cudaSuccess; }
inline cudaError_t cudaDeviceGetAttribute(int* value, int attribute, int) {
  *value = attribute == cudaDevAttrMultiProcessorCount ? 3 : 1 << 18;
  return cudaSuccess;
}
template <class F>
cudaError_t cudaFuncSetAttribute(F*, int, int) {
  return cudaSuccess;
}
inline cudaError_t cudaMemsetAsync(void* to, int value, size_t bytes, cudaStream_t) {
  std::memset(to, value, bytes);
  return cudaSuccess;
}
inline cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, int) {
  std::memcpy(to, from, bytes);
  return cudaSuccess;
}
inline cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, int kind, cudaStream_t) {
  return cudaMemcpy(to, from, bytes, kind);
}
inline cudaError_t cudaDeviceSynchronize() { return cudaSuccess; }
template <class T>
cudaError_t cudaMalloc(T** to, size_t bytes) {
  *to = static_cast<T*>(std::malloc(bytes));
  return cudaMemsetAsync(*to, 0x5a, bytes, nullptr);
}
inline cudaError_t cudaFree(void* memory) {
  std::free(memory);
  return cudaSuccess;
}

struct dim3 {
  unsigned x, y;
  dim3(unsigned x_ = 1, unsigned y_ = 1) : x(x_), y(y_) {}
};

struct Played {
  dim3 grid, size, block;
  unsigned thread = 0;
  ucontext_t scheduler;
  std::vector<ucontext_t> contexts;
  std::vector<bool> ended;
  std::vector<unsigned long long> told;  // by each thread to its warp
  std::function<void()> body;
};
inline Played*& played() {
  static Played* now = nullptr;
  return now;
}

#define gridDim (played()->grid)
#define blockDim (played()->size)
#define blockIdx (played()->block)
#define threadIdx (dim3(played()->thread % played()->size.x, played()->thread / played()->size.x))

inline void __syncthreads() { swapcontext(&played()->contexts[played()->thread], &played()->scheduler); }

inline void play_thread() {
  played()->body();
  played()->ended[played()->thread] = true;
  __syncthreads();
}

inline void play(dim3 grid, dim3 size, int, cudaStream_t, const std::function<void()>& body) {
  const unsigned threads = size.x * size.y;
  if (grid.x == 0 || grid.y == 0 || threads == 0 || threads > 1024) std::abort();  // a launch that CUDA refuses
  constexpr size_t kStack = 1 << 16;
  const std::unique_ptr<char[]> stacks(new char[kStack * threads]);
  for (unsigned block = 0; block < grid.x * grid.y; ++block) {
    Played now;
    now.grid = grid;
    now.size = size;
    now.block = dim3(block % grid.x, block / grid.x);
    now.contexts.resize(threads);
    now.ended.assign(threads, false);
    now.told.resize(threads);
    now.body = body;
    played() = &now;
    for (unsigned i = 0; i < threads; ++i) {
      getcontext(&now.contexts[i]);
      now.contexts[i].uc_stack.ss_sp = stacks.get() + i * kStack;
      now.contexts[i].uc_stack.ss_size = kStack;
      now.contexts[i].uc_link = nullptr;
      makecontext(&now.contexts[i], play_thread, 0);
    }
    for (unsigned left = threads; left > 0;) {
      const unsigned before = left;
      for (unsigned i = 0; i < threads; ++i) {
        now.thread = block % 2 == 0 ? i : threads - 1 - i;  // in either order
        if (now.ended[now.thread]) continue;
        swapcontext(&now.scheduler, &now.contexts[now.thread]);
        left -= now.ended[now.thread];
      }
      if (left != 0 && left != before) std::abort();  // some ended, and others wait at a barrier
    }
  }
}

template <class F>
unsigned long long with_warp(unsigned long long x, F&& take) {
  Played* now = played();
  const unsigned own = now->thread;
  now->told[own] = x;
  __syncthreads();
  const unsigned long long found = take(now->told.data() + own / 32 * 32, own % 32);
  __syncthreads();
  return found;
}
inline unsigned long long __shfl_down_sync(unsigned, unsigned long long x, int step) {
  return with_warp(x, [&](const auto* told, unsigned lane) { return lane + step < 32 ? told[lane + step] : x; });
}
inline uint32_t __reduce_min_sync(unsigned, uint32_t x) {
  return with_warp(x, [](const auto* told, unsigned) { return *std::min_element(told, told + 32); });
}
inline uint32_t __reduce_max_sync(unsigned, uint32_t x) {
  return with_warp(x, [](const auto* told, unsigned) { return *std::max_element(told, told + 32); });
}

template <class T>
T atomicAdd(T* at, T x) {
  return std::exchange(*at, *at + x);
}
template <class T>
T atomicMin(T* at, T x) {
  return std::exchange(*at, min(*at, x));
}
template <class T>
T atomicMax(T* at, T x) {
  return std::exchange(*at, max(*at, x));
}
template <class T>
T atomicExch(T* at, T x) {
  return std::exchange(*at, x);
}
template <class T>
T atomicCAS(T* at, T expected, T x) {
  return *at == expected ? std::exchange(*at, x) : *at;
}

inline uint32_t __float_as_uint(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  return bits;
}
inline float __uint_as_float(uint32_t bits) {
  float x;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}
