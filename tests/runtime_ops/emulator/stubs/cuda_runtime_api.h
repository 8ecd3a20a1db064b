// A GPU without tensor cores that is played on the processor: a block's threads take turns between barriers. Launches are
// rewritten before this is compiled (tests/runtime_ops/emulator/moves.py).

#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <ucontext.h>
#include <vector>

#define __CUDACC__ 1
#define __global__
#define __device__
#define __host__
#define __shared__ static
#define __launch_bounds__(...)

using cudaStream_t = void*;
using cudaError_t = int;
constexpr cudaError_t cudaSuccess = 0, cudaErrorInvalidValue = 1, cudaErrorInvalidConfiguration = 9;
inline cudaError_t cudaGetLastError() { return cudaSuccess; }

struct alignas(16) uint4 {
  uint32_t x, y, z, w;
};

struct Played {
  unsigned thread = 0, block = 0, threads = 0, blocks = 0;
  ucontext_t scheduler;
  std::vector<ucontext_t> contexts;
  std::vector<bool> ended;
  std::function<void()> body;
};
inline Played*& played() {
  static Played* now = nullptr;
  return now;
}

struct PlayedIndex {
  unsigned x;
};
#define threadIdx (PlayedIndex{played()->thread})
#define blockIdx (PlayedIndex{played()->block})
#define blockDim (PlayedIndex{played()->threads})
#define gridDim (PlayedIndex{played()->blocks})

inline void __syncthreads() { swapcontext(&played()->contexts[played()->thread], &played()->scheduler); }

inline uint32_t __umulhi(uint32_t a, uint32_t b) { return static_cast<uint32_t>(uint64_t{a} * b >> 32); }

inline void play_thread() {
  played()->body();
  played()->ended[played()->thread] = true;
  swapcontext(&played()->contexts[played()->thread], &played()->scheduler);
}

inline void play(unsigned blocks, unsigned threads, int, cudaStream_t, const std::function<void()>& body) {
  if (blocks == 0 || threads == 0 || threads > 1024) std::abort();  // a launch that CUDA refuses
  constexpr size_t kStack = 1 << 16;
  std::unique_ptr<char[]> stacks(new char[kStack * threads]);
  for (unsigned block = 0; block < blocks; ++block) {
    Played now;
    now.block = block;
    now.blocks = blocks;
    now.threads = threads;
    now.body = body;
    now.contexts.resize(threads);
    now.ended.assign(threads, false);
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
