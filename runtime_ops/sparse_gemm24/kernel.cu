// A product with a 2:4 weight in its compact form, on any GPU: what runs where cuSPARSELt is not there, or does not take
// the sizes. It is right, and no faster than a plain product in shared memory.

#include <cstdint>
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime_api.h>

namespace {

constexpr int kTile = 16;       // rows and columns of a block's part of the result
constexpr int kDepth = 32;      // numbers of x that are read at once: eight fours

__device__ float wide(__half x) { return __half2float(x); }
__device__ float wide(__nv_bfloat16 x) { return __bfloat162float(x); }
__device__ void store(__half* to, float x) { *to = __float2half_rn(x); }
__device__ void store(__nv_bfloat16* to, float x) { *to = __float2bfloat16_rn(x); }

// A thread a number of the result. `values` is [columns, depth / 2], `indices` [columns, ceil(depth / 8)].
template <class T>
__global__ void product(const T* x, const T* values, const uint8_t* indices, T* out, int64_t rows, int64_t depth,
                        int64_t columns) {
  __shared__ float read[kTile][kDepth + 1];
  __shared__ float held[kTile][kDepth / 2 + 1];
  __shared__ uint8_t place[kTile][kDepth / 2];
  const int64_t half = depth / 2, bytes = (depth + 7) / 8;
  const int column = threadIdx.x, row = threadIdx.y;
  const int64_t n = static_cast<int64_t>(blockIdx.x) * kTile + column;
  // Rows go over the grid's y, of which there are at most 65535.
  for (int64_t first = static_cast<int64_t>(blockIdx.y) * kTile; first < rows;
       first += static_cast<int64_t>(gridDim.y) * kTile) {
    const int64_t m = first + row;
    float sum = 0;
    for (int64_t k = 0; k < depth; k += kDepth) {
      for (int i = column; i < kDepth; i += kTile) {
        read[row][i] = m < rows && k + i < depth ? wide(x[m * depth + k + i]) : 0.0f;
      }
      // Here threadIdx.y is a column of the weight, and threadIdx.x a value: neighbours read neighbours.
      const int64_t own = static_cast<int64_t>(blockIdx.x) * kTile + row, v = k / 2 + column;
      const bool inside = own < columns && v < half;
      held[row][column] = inside ? wide(values[own * half + v]) : 0.0f;
      const int byte = inside ? indices[own * bytes + v / 4] : 0;
      place[row][column] = static_cast<uint8_t>(column / 2 * 4 + (byte >> v % 4 * 2 & 3));
      __syncthreads();
#pragma unroll
      for (int i = 0; i < kDepth / 2; ++i) sum += held[column][i] * read[row][place[column][i]];
      __syncthreads();
    }
    if (m < rows && n < columns) store(out + m * columns + n, sum);
  }
}

template <class T>
cudaError_t launch(const void* x, const void* values, const uint8_t* indices, void* out, int64_t rows, int64_t depth,
                   int64_t columns, cudaStream_t stream) {
  const int64_t across = (columns + kTile - 1) / kTile, down = (rows + kTile - 1) / kTile;
  const dim3 grid(static_cast<unsigned>(across), static_cast<unsigned>(down < 65535 ? down : 65535));
  product<T><<<grid, dim3(kTile, kTile), 0, stream>>>(static_cast<const T*>(x), static_cast<const T*>(values), indices,
                                                      static_cast<T*>(out), rows, depth, columns);
  return cudaGetLastError();
}

}  // namespace

// A cudaError_t each. Without depth the result is zero.
extern "C" int graphopt_cuda_sparse24(int brain, const void* x, const void* values, const uint8_t* indices, void* out,
                                      int64_t rows, int64_t depth, int64_t columns, void* stream) {
  if (rows == 0 || columns == 0) return cudaSuccess;
  const auto queue = static_cast<cudaStream_t>(stream);
  return brain != 0 ? launch<__nv_bfloat16>(x, values, indices, out, rows, depth, columns, queue)
                    : launch<__half>(x, values, indices, out, rows, depth, columns, queue);
}

// Copies `bytes` and sets what is left of `room` to zero; within the device.
extern "C" int graphopt_cuda_sparse24_copy(const void* from, void* to, int64_t bytes, int64_t room, void* stream) {
  const auto queue = static_cast<cudaStream_t>(stream);
  cudaError_t error = cudaMemcpyAsync(to, from, static_cast<size_t>(bytes), cudaMemcpyDeviceToDevice, queue);
  if (error == cudaSuccess && room > bytes) {
    error = cudaMemsetAsync(static_cast<char*>(to) + bytes, 0, static_cast<size_t>(room - bytes), queue);
  }
  return error;
}

extern "C" int graphopt_cuda_sparse24_wait() { return cudaDeviceSynchronize(); }
