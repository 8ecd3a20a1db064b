// Memory for the length of a call, from onnxruntime's arena of the device.
//
// It is given back when the kernel has been launched, not when it has ended. That is safe because everything of a run is
// launched on one stream: who gets the memory next writes to it behind this kernel.

#include "kernel.h"

#if defined(GRAPHOPT_CUDA)
extern "C" int graphopt_cuda_device(int* device);
#endif

namespace graphopt {
namespace {

struct MemoryInfo {
  OrtMemoryInfo* info = nullptr;

  MemoryInfo() {
    int device = 0;
    const char* name = "Cpu";
#if defined(GRAPHOPT_CUDA)
    name = "Cuda";
    require(graphopt_cuda_device(&device) == 0, "CUDA names no device");  // onnxruntime has set it for this thread
#endif
    check(api().CreateMemoryInfo(name, kDeviceAllocator, device, kMemDefault, &info));
  }
  ~MemoryInfo() { api().ReleaseMemoryInfo(info); }
  MemoryInfo(const MemoryInfo&) = delete;
  MemoryInfo& operator=(const MemoryInfo&) = delete;
};

}  // namespace

Scratch::Scratch(OrtKernelContext* context, size_t bytes) {
  const MemoryInfo memory;
  check(api().KernelContext_GetAllocator(context, memory.info, &allocator_));
  OrtStatus* status = api().AllocatorAlloc(allocator_, bytes, &data_);
  if (status != nullptr) {
    api().ReleaseAllocator(allocator_);
    check(status);
  }
}

Scratch::~Scratch() {
  if (data_ != nullptr) {
    OrtStatus* status = api().AllocatorFree(allocator_, data_);
    if (status != nullptr) api().ReleaseStatus(status);
  }
  api().ReleaseAllocator(allocator_);
}

}  // namespace graphopt
