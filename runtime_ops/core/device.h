// What kernels of the CUDA provider keep on the device: copied there once, when they are made.

#pragma once

#include <cstddef>
#include <string>
#include <utility>
#include <vector>

#include "kernel.h"

// A cudaError_t each; plain C, so that files without CUDA's headers can call them.
extern "C" int graphopt_cuda_upload(const void* from, size_t bytes, void** to);
extern "C" int graphopt_cuda_free(void* memory);
// Whether an address is one of a device's memory, and what lies there.
extern "C" int graphopt_cuda_holds(const void* address, int* there);
extern "C" int graphopt_cuda_download(const void* from, size_t bytes, void* to);
extern "C" const char* graphopt_cuda_message(int error);

namespace graphopt {

// Throws unless a launch went well.
inline void check_cuda(int error, const char* what) {
  if (error != 0) throw Error(std::string(what) + ": CUDA says: " + graphopt_cuda_message(error));
}

// Bytes on the device. Copying waits until it is done, which must not happen during a call: only make them with kernels.
class DeviceCopy {
 public:
  DeviceCopy() = default;
  template <class T>
  explicit DeviceCopy(const std::vector<T>& from) {
    if (!from.empty()) check_cuda(graphopt_cuda_upload(from.data(), from.size() * sizeof(T), &data_), "constants");
  }
  DeviceCopy(DeviceCopy&& other) noexcept : data_(std::exchange(other.data_, nullptr)) {}
  DeviceCopy& operator=(DeviceCopy&& other) noexcept {
    std::swap(data_, other.data_);
    return *this;
  }
  DeviceCopy(const DeviceCopy&) = delete;
  DeviceCopy& operator=(const DeviceCopy&) = delete;
  ~DeviceCopy() {
    if (data_ != nullptr) graphopt_cuda_free(data_);
  }

  template <class T>
  const T* as() const {
    return static_cast<const T*>(data_);
  }

 private:
  void* data_ = nullptr;
};

}  // namespace graphopt
