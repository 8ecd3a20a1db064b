// MaskedLayerNorm on the GPU: a block a row. A row that fits stays in registers, so that it is read once; the three
// runs of the CPU kernel become two sums over the block and one write.

#include <cstdint>
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime_api.h>

namespace {

__device__ float wide(float x) { return x; }
__device__ float wide(__half x) { return __half2float(x); }
__device__ float wide(__nv_bfloat16 x) { return __bfloat162float(x); }
__device__ void narrow(float x, float* to) { *to = x; }
__device__ void narrow(float x, __half* to) { *to = __float2half_rn(x); }
__device__ void narrow(float x, __nv_bfloat16* to) { *to = __float2bfloat16_rn(x); }

struct Rest {
  float missing, fill, spread, epsilon;
};

// V numbers that are read and written at once.
template <class T, int V>
struct alignas(sizeof(T) * V) Chunk {
  T at[V];
};

// The sum over a block of Threads, in every thread. `memory` is free again behind it.
template <int Threads>
__device__ float block_sum(float value, float* memory) {
  for (int step = 16; step > 0; step /= 2) value += __shfl_xor_sync(0xffffffffu, value, step);
  if constexpr (Threads > 32) {
    const int warp = threadIdx.x / 32;
    if (threadIdx.x % 32 == 0) memory[warp] = value;
    __syncthreads();
    value = 0;
    for (int i = 0; i < Threads / 32; ++i) value += memory[i];
    __syncthreads();
  }
  return value;
}

// `Kept` chunks of a thread stay in registers; 0: the row is read again.
template <class T, int V, int Threads, int Kept>
__global__ void __launch_bounds__(Threads)
    normalize(const T* __restrict__ x, const T* __restrict__ scale, const T* __restrict__ bias, T* __restrict__ y,
              int64_t rows, int64_t size, int64_t scale_step, int64_t bias_step, Rest rest) {
  __shared__ float memory[Threads / 32];
  using Part = Chunk<T, V>;
  const int64_t chunks = size / V;  // V divides it
  const float count = static_cast<float>(size), total = count + rest.missing;
  for (int64_t row = blockIdx.x; row < rows; row += gridDim.x) {
    const auto* from = reinterpret_cast<const Part*>(x + row * size);
    auto* to = reinterpret_cast<Part*>(y + row * size);
    Part kept[Kept > 0 ? Kept : 1];
    float sum = 0;
    if constexpr (Kept > 0) {
#pragma unroll
      for (int i = 0; i < Kept; ++i) {
        const int64_t at = threadIdx.x + static_cast<int64_t>(i) * Threads;
        if (at < chunks) {
          kept[i] = from[at];
#pragma unroll
          for (int j = 0; j < V; ++j) sum += wide(kept[i].at[j]);
        }
      }
    } else {
      for (int64_t at = threadIdx.x; at < chunks; at += Threads) {
        const Part part = from[at];
#pragma unroll
        for (int j = 0; j < V; ++j) sum += wide(part.at[j]);
      }
    }
    const float mean = (block_sum<Threads>(sum, memory) + rest.missing * rest.fill) / total;
    float squares = 0;
    const auto add = [&](const Part& part) {
#pragma unroll
      for (int j = 0; j < V; ++j) {
        const float off = wide(part.at[j]) - mean;
        squares += off * off;
      }
    };
    if constexpr (Kept > 0) {
#pragma unroll
      for (int i = 0; i < Kept; ++i) {
        if (threadIdx.x + static_cast<int64_t>(i) * Threads < chunks) add(kept[i]);
      }
    } else {
      for (int64_t at = threadIdx.x; at < chunks; at += Threads) add(from[at]);
    }
    const float off = rest.fill - mean;
    const float every = block_sum<Threads>(squares, memory) + rest.missing * (off * off);
    const float inverse = 1 / sqrtf(every / total + rest.spread + rest.epsilon);
    const auto write = [&](const Part& part, int64_t at) {
      Part out;
#pragma unroll
      for (int j = 0; j < V; ++j) {
        const int64_t place = at * V + j;
        const float normal = (wide(part.at[j]) - mean) * inverse;
        narrow(normal * wide(scale[place * scale_step]) + wide(bias[place * bias_step]), &out.at[j]);
      }
      to[at] = out;
    };
    if constexpr (Kept > 0) {
#pragma unroll
      for (int i = 0; i < Kept; ++i) {
        const int64_t at = threadIdx.x + static_cast<int64_t>(i) * Threads;
        if (at < chunks) write(kept[i], at);
      }
    } else {
      for (int64_t at = threadIdx.x; at < chunks; at += Threads) write(from[at], at);
    }
  }
}

struct Problem {
  const void *x, *scale, *bias;
  void* y;
  int64_t rows, size, scale_step, bias_step;
  Rest rest;
  cudaStream_t stream;
};

template <class T, int V, int Threads, int Kept>
int start(const Problem& p) {
  constexpr int64_t kMost = 1 << 20;
  const auto blocks = static_cast<unsigned>(p.rows < kMost ? p.rows : kMost);
  normalize<T, V, Threads, Kept><<<blocks, Threads, 0, p.stream>>>(
      static_cast<const T*>(p.x), static_cast<const T*>(p.scale), static_cast<const T*>(p.bias), static_cast<T*>(p.y),
      p.rows, p.size, p.scale_step, p.bias_step, p.rest);
  return cudaGetLastError();
}

template <class T, int V>
int sized(const Problem& p) {
  const int64_t chunks = p.size / V;
  if (chunks <= 32 * 4) return start<T, V, 32, 4>(p);
  if (chunks <= 256 * 4) return start<T, V, 256, 4>(p);
  return start<T, V, 512, 0>(p);
}

template <class T>
int typed(const Problem& p) {
  constexpr int kWide = 16 / sizeof(T);
  const auto places = reinterpret_cast<uintptr_t>(p.x) | reinterpret_cast<uintptr_t>(p.y);
  return p.size % kWide == 0 && places % 16 == 0 ? sized<T, kWide>(p) : sized<T, 1>(p);
}

}  // namespace

// `type`: 0 float, 1 float16, 2 bfloat16; the steps are 0 where one number serves every position.
extern "C" int graphopt_cuda_masked_layer_norm(int type, const void* x, const void* scale, const void* bias, void* y,
                                               int64_t rows, int64_t size, int64_t scale_step, int64_t bias_step,
                                               float missing, float fill, float spread, float epsilon, void* stream) {
  if (rows == 0 || size == 0) return 0;
  const Problem problem{x,          scale,     bias,
                        y,          rows,      size,
                        scale_step, bias_step, {missing, fill, spread, epsilon},
                        static_cast<cudaStream_t>(stream)};
  switch (type) {
    case 0:
      return typed<float>(problem);
    case 1:
      return typed<__half>(problem);
    default:
      return typed<__nv_bfloat16>(problem);
  }
}
