// Running statistics of a tensor, on the GPU. Four kernels in the order of the stream, none of which the host waits for:
// the range; the different numbers, while they are few; wider bins, where the range has grown; the counts. All that is
// added up is integers, so that the order of the atomic operations does not matter.

#include <cmath>
#include <cstdint>
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include "device_state.h"

namespace {

using namespace graphopt::histogram;

constexpr int kThreads = 256;
constexpr int kWide = 1024;          // threads of a block that counts in shared memory, and of the one that widens bins
constexpr int kWindow = 1 << 15;     // bins in shared memory: 128 KB
constexpr int64_t kShared = 1 << 20;  // from so many numbers on it pays
constexpr int kTiny = -1074;

__device__ float wide(float x) { return x; }
__device__ float wide(__half x) { return __half2float(x); }
__device__ float wide(__nv_bfloat16 x) { return __bfloat162float(x); }

__device__ uint32_t ordered(float x) {
  const uint32_t bits = __float_as_uint(x);
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

__device__ float unordered(uint32_t key) { return __uint_as_float(key & 0x80000000u ? key & 0x7fffffffu : ~key); }

__device__ unsigned long long warp_sum(unsigned long long x) {
  for (int step = 16; step > 0; step /= 2) x += __shfl_down_sync(0xffffffffu, x, step);
  return x;
}

// Every thread gets here. `state` and `nonfinite` may be null.
template <class T>
__global__ void extent(const T* x, int64_t count, int64_t inner, DeviceState* state, unsigned long long* nonfinite) {
  const int64_t stride = static_cast<int64_t>(gridDim.x) * blockDim.x;
  uint32_t low = kNoLow, high = kNoHigh;
  unsigned long long nans = 0, infinities = 0;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < count; i += stride) {
    const float v = wide(x[i]);
    if (isfinite(v)) {
      const uint32_t key = ordered(v + 0.0f);  // -0.0 becomes 0.0
      low = min(low, key);
      high = max(high, key);
    } else {
      const bool infinite = isinf(v);
      nans += !infinite;
      infinities += infinite;
      if (nonfinite != nullptr) atomicAdd(nonfinite + i / inner * 2 + infinite, 1ull);
    }
  }
  if (state == nullptr) return;
  low = __reduce_min_sync(0xffffffffu, low);
  high = __reduce_max_sync(0xffffffffu, high);
  nans = warp_sum(nans);
  infinities = warp_sum(infinities);
  if (threadIdx.x % 32 == 0) {
    if (low < *const_cast<volatile uint32_t*>(&state->low)) atomicMin(&state->low, low);
    if (high > *const_cast<volatile uint32_t*>(&state->high)) atomicMax(&state->high, high);
    if (nans != 0) atomicAdd(&state->nans, nans);
    if (infinities != 0) atomicAdd(&state->infinities, infinities);
  }
}

// Adds to a number's slot in a table, of which this thread block or all of them write; false if the table is full.
template <class Count>
__device__ bool note(uint32_t* keys, Count* times, uint32_t* used, uint32_t key, Count many) {
  uint32_t slot = key * 2654435769u >> 22;
  for (int probe = 0; probe < kSlots; ++probe, slot = (slot + 1) % kSlots) {
    uint32_t there = *const_cast<volatile uint32_t*>(keys + slot);
    if (there == kFree) {
      there = atomicCAS(keys + slot, kFree, key);
      if (there == kFree) {
        there = key;
        if (atomicAdd(used, 1u) + 1 >= kTooMany) return false;
      }
    }
    if (there == key) {
      atomicAdd(times + slot, many);
      return true;
    }
  }
  return false;
}

template <class T>
__global__ void distinct(const T* x, int64_t count, DeviceState* state) {
  __shared__ uint32_t keys[kSlots];
  __shared__ uint32_t times[kSlots];
  __shared__ uint32_t used, many;
  if (threadIdx.x == 0) {
    used = 0;
    many = *const_cast<volatile uint32_t*>(&state->dropped);
  }
  for (int slot = threadIdx.x; slot < kSlots; slot += blockDim.x) {
    keys[slot] = kFree;
    times[slot] = 0;
  }
  __syncthreads();
  if (many != 0) return;
  __syncthreads();  // all have read before one may write
  const int64_t stride = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < count; i += stride) {
    if (*const_cast<volatile uint32_t*>(&many) != 0) break;
    const float v = wide(x[i]);
    if (isfinite(v) && !note(keys, times, &used, __float_as_uint(v + 0.0f), 1u)) atomicExch(&many, 1u);
  }
  __syncthreads();
  if (many != 0) {
    if (threadIdx.x == 0) atomicExch(&state->dropped, 1u);
    return;
  }
  for (int slot = threadIdx.x; slot < kSlots; slot += blockDim.x) {
    if (keys[slot] == kFree || *const_cast<volatile uint32_t*>(&state->dropped) != 0) continue;
    const auto came = static_cast<unsigned long long>(times[slot]);
    if (!note(state->keys, state->times, &state->used, keys[slot], came)) atomicExch(&state->dropped, 1u);
  }
}

// One block. A wider bin gathers from bins that lie further out, so that the table can be changed in place, from zero
// outwards: each round reads what no round before it has written.
__global__ void widen(DeviceState* state) {
  __shared__ unsigned long long middle;
  if (state->low > state->high) return;  // nothing finite yet
  const float largest = fmaxf(fabsf(unordered(state->low)), fabsf(unordered(state->high)));
  int wanted = kTiny;
  if (largest != 0) {
    frexpf(largest, &wanted);
    wanted -= 15;
  }
  const int from = state->exponent, by = min(wanted - from, 16);
  if (threadIdx.x == 0) middle = 0;
  __syncthreads();  // the exponent has been read by all
  if (by <= 0) return;
  if (threadIdx.x == 0) state->exponent = wanted;
  unsigned long long* counts = state->counts;
  // Bin 0 takes 2**by - 1 bins of each side.
  unsigned long long sum = 0;
  for (int t = threadIdx.x; t < min(1 << by, kBins / 2); t += blockDim.x) {
    sum += counts[t] + (t == 0 ? 0 : counts[kBins - t]);
  }
  sum = warp_sum(sum);
  if (threadIdx.x % 32 == 0) atomicAdd(&middle, sum);
  for (int first = 0; first < kBins / 2; first += blockDim.x) {
    const int t = first + threadIdx.x;
    unsigned long long up = 0, down = 0;
    if (t > 0 && by < 16) {
      const int64_t begin = static_cast<int64_t>(t) << by, end = static_cast<int64_t>(t + 1) << by;
      for (int64_t s = begin; s < end && s < kBins / 2; ++s) {
        up += counts[s];
        down += counts[kBins - s];
      }
    }
    __syncthreads();
    if (t == 0) {
      counts[0] = middle;
    } else if (t < kBins / 2) {
      counts[t] = up;
      counts[kBins - t] = down;
    }
    __syncthreads();
  }
}

// Counts into a window of shared memory and beyond it into the table, or without a window into the table alone.
template <class T, bool Window>
__global__ void count_bins(const T* x, int64_t count, DeviceState* state) {
  extern __shared__ uint32_t window[];
  const uint32_t zero = ordered(0.0f), low = state->low, high = state->high;
  if (low > high) return;
  // On the side where the numbers are; on both, the half of each side that is next to zero.
  const int first = low >= zero ? 0 : high <= zero ? 1 - kWindow : -kWindow / 2;
  if (Window) {
    for (int i = threadIdx.x; i < kWindow; i += blockDim.x) window[i] = 0;
    __syncthreads();
  }
  const int scale = -state->exponent;
  const bool narrow = scale >= -126 && scale <= 127;
  const float by = narrow ? ldexpf(1.0f, scale) : 0.0f;
  const int64_t stride = static_cast<int64_t>(gridDim.x) * blockDim.x;
  unsigned long long zeros = 0;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < count; i += stride) {
    const float v = wide(x[i]);
    if (!isfinite(v)) continue;
    const int t = narrow ? static_cast<int>(v * by) : static_cast<int>(ldexp(static_cast<double>(v), scale));
    if (t == 0) {
      ++zeros;  // most of what comes out of a ReLU: not one by one
      continue;
    }
    const int at = t - first;
    if (Window && at >= 0 && at < kWindow) {
      atomicAdd(window + at, 1u);
    } else {
      atomicAdd(state->counts + (t & (kBins - 1)), 1ull);
    }
  }
  zeros = warp_sum(zeros);
  if (threadIdx.x % 32 == 0 && zeros != 0) atomicAdd(state->counts, zeros);
  if (Window) {
    __syncthreads();
    for (int i = threadIdx.x; i < kWindow; i += blockDim.x) {
      if (window[i] != 0) {
        atomicAdd(state->counts + ((first + i) & (kBins - 1)), static_cast<unsigned long long>(window[i]));
      }
    }
  }
}

unsigned blocks(int64_t count, int threads, int64_t most) {
  const int64_t wanted = (count + threads - 1) / threads;
  return static_cast<unsigned>(wanted < most ? wanted : most);
}

template <class T>
cudaError_t launch(const void* from, int64_t count, int64_t rows, DeviceState* state, int64_t* nonfinite,
                   cudaStream_t stream) {
  int device = 0, processors = 0, memory = 0;
  cudaError_t error = cudaGetDevice(&device);
  if (error == cudaSuccess) error = cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device);
  if (error == cudaSuccess) error = cudaDeviceGetAttribute(&memory, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
  if (error != cudaSuccess) return error;
  const auto* x = static_cast<const T*>(from);
  auto* found = reinterpret_cast<unsigned long long*>(nonfinite);
  extent<T><<<blocks(count, kThreads, processors * 8), kThreads, 0, stream>>>(x, count, count / rows, state, found);
  if (state == nullptr) return cudaGetLastError();
  distinct<T><<<blocks(count, kThreads, processors * 4), kThreads, 0, stream>>>(x, count, state);
  widen<<<1, kWide, 0, stream>>>(state);
  constexpr int kBytes = kWindow * static_cast<int>(sizeof(uint32_t));
  if (count >= kShared && memory >= kBytes) {
    error = cudaFuncSetAttribute(count_bins<T, true>, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes);
    if (error != cudaSuccess) return error;
    // A thread's share is 64 numbers or more: below that, adding up the windows takes longer than counting.
    count_bins<T, true><<<blocks(count / 64, kWide, processors), kWide, kBytes, stream>>>(x, count, state);
  } else {
    count_bins<T, false><<<blocks(count, kThreads, processors * 8), kThreads, 0, stream>>>(x, count, state);
  }
  return cudaGetLastError();
}

// Runs something on another device than the current one, perhaps.
template <class F>
int on(int device, F&& work) {
  int current = 0;
  cudaError_t error = cudaGetDevice(&current);
  if (error == cudaSuccess) error = cudaSetDevice(device);
  if (error == cudaSuccess) error = work();
  cudaSetDevice(current);
  return error;
}

}  // namespace

extern "C" int graphopt_cuda_histogram(int type, const void* x, int64_t count, int64_t rows, DeviceState* state,
                                       int64_t* nonfinite, void* stream) {
  const auto queue = static_cast<cudaStream_t>(stream);
  if (nonfinite != nullptr && rows != 0) {
    const cudaError_t error = cudaMemsetAsync(nonfinite, 0, static_cast<size_t>(rows) * 2 * sizeof(int64_t), queue);
    if (error != cudaSuccess) return error;
  }
  if (count == 0) return cudaSuccess;
  switch (type) {
    case 0:
      return launch<float>(x, count, rows, state, nonfinite, queue);
    case 1:
      return launch<__half>(x, count, rows, state, nonfinite, queue);
    default:
      return launch<__nv_bfloat16>(x, count, rows, state, nonfinite, queue);
  }
}

extern "C" int graphopt_cuda_histogram_copy(const void* from, void* to, int64_t bytes, void* stream) {
  return cudaMemcpyAsync(to, from, static_cast<size_t>(bytes), cudaMemcpyDeviceToDevice,
                         static_cast<cudaStream_t>(stream));
}

extern "C" int graphopt_cuda_histogram_device(int* device) { return cudaGetDevice(device); }

extern "C" int graphopt_cuda_histogram_make(DeviceState** state) { return cudaMalloc(state, sizeof(DeviceState)); }

// onnxruntime's streams do not wait for the default stream, nor it for them: wait for all.
extern "C" int graphopt_cuda_histogram_read(int device, const DeviceState* state, DeviceState* to) {
  return on(device, [&] {
    const cudaError_t error = cudaDeviceSynchronize();
    return error != cudaSuccess ? error : cudaMemcpy(to, state, sizeof(DeviceState), cudaMemcpyDeviceToHost);
  });
}

extern "C" int graphopt_cuda_histogram_write(int device, DeviceState* state, const DeviceState* from) {
  return on(device, [&] {
    cudaError_t error = cudaDeviceSynchronize();
    if (error == cudaSuccess) error = cudaMemcpy(state, from, sizeof(DeviceState), cudaMemcpyHostToDevice);
    return error != cudaSuccess ? error : cudaDeviceSynchronize();
  });
}

extern "C" int graphopt_cuda_histogram_free(DeviceState* state) { return cudaFree(state); }
