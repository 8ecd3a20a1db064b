// Gather with fill, on the GPU: a thread a number.

#include <cstdint>
#include <cuda_runtime_api.h>

namespace {

template <class T>
__global__ void gather(const T* data, const int64_t* indices, const T* fill, T* out, int64_t from, int64_t to,
                       int64_t inner, int64_t count) {
  const int64_t stride = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t at = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; at < count; at += stride) {
    const int64_t row = at / inner;
    const int64_t i = indices[row % to];
    out[at] = i < 0 ? *fill : data[(row / to * from + i) * inner + at % inner];
  }
}

template <class T>
int launch(const void* data, const int64_t* indices, const void* fill, void* out, int64_t from, int64_t to,
           int64_t inner, int64_t count, void* stream) {
  constexpr int kThreads = 256;
  const int64_t blocks = (count + kThreads - 1) / kThreads;
  gather<T><<<static_cast<unsigned>(blocks < 1 << 20 ? blocks : 1 << 20), kThreads, 0,
              static_cast<cudaStream_t>(stream)>>>(static_cast<const T*>(data), indices, static_cast<const T*>(fill),
                                                   static_cast<T*>(out), from, to, inner, count);
  return cudaGetLastError();
}

}  // namespace

// Launchers are plain C: `width` is that of a number in bytes. They return a cudaError_t.
extern "C" int graphopt_cuda_gather(int width, const void* data, const int64_t* indices, const void* fill, void* out,
                                    int64_t from, int64_t to, int64_t inner, int64_t count, void* stream) {
  if (count == 0) return 0;
  switch (width) {
    case 1:
      return launch<uint8_t>(data, indices, fill, out, from, to, inner, count, stream);
    case 2:
      return launch<uint16_t>(data, indices, fill, out, from, to, inner, count, stream);
    case 4:
      return launch<uint32_t>(data, indices, fill, out, from, to, inner, count, stream);
    default:
      return launch<uint64_t>(data, indices, fill, out, from, to, inner, count, stream);
  }
}
