#include <cuda_runtime_api.h>

extern "C" int graphopt_cuda_upload(const void* from, size_t bytes, void** to) {
  if (const cudaError_t error = cudaMalloc(to, bytes)) return error;
  const cudaError_t error = cudaMemcpy(*to, from, bytes, cudaMemcpyHostToDevice);
  if (error != cudaSuccess) {
    cudaFree(*to);
    *to = nullptr;
    return error;
  }
  // The copy may have been staged: kernels run on onnxruntime's own stream, which does not wait for this one.
  return cudaStreamSynchronize(nullptr);
}

extern "C" int graphopt_cuda_holds(const void* address, int* there) {
  cudaPointerAttributes about{};
  const cudaError_t error = cudaPointerGetAttributes(&about, address);
  *there = error == cudaSuccess && about.type == cudaMemoryTypeDevice;
  return error;
}

extern "C" int graphopt_cuda_download(const void* from, size_t bytes, void* to) {
  return cudaMemcpy(to, from, bytes, cudaMemcpyDeviceToHost);
}

extern "C" int graphopt_cuda_free(void* memory) { return cudaFree(memory); }

extern "C" const char* graphopt_cuda_message(int error) { return cudaGetErrorString(static_cast<cudaError_t>(error)); }

extern "C" int graphopt_cuda_device(int* device) { return cudaGetDevice(device); }
