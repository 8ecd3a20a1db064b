// The part of cuSPARSELt that is used, loaded when the first kernel asks for it: the library is an extra of CUDA that
// many machines lack. Source: https://docs.nvidia.com/cuda/cusparselt/functions.html

#pragma once

#include <dlfcn.h>

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <type_traits>

namespace graphopt::cusparselt {

// What cuSPARSELt keeps in memory of its caller: 512 bytes each since 0.8, 11024 before.
struct alignas(64) Opaque {
  unsigned char bytes[16384] = {};
};

constexpr int kOldest = 600;               // 0.6: the numbers of the constants below have not changed since
constexpr int kColumnOrder = 1;            // CUSPARSE_ORDER_COL
constexpr int kAsIs = 0, kTransposed = 1;  // CUSPARSE_OPERATION_…
constexpr int kHalf = 2, kBrain = 14;      // CUDA_R_16F, CUDA_R_16BF
constexpr int kCompute32F = 2;             // CUSPARSE_COMPUTE_32F
constexpr int kFiftyPercent = 0;           // CUSPARSELT_SPARSITY_50_PERCENT
constexpr int kDefaultAlgorithm = 0;       // CUSPARSELT_MATMUL_ALG_DEFAULT
constexpr uint32_t kAlignment = 16;        // bytes, of every matrix

// Each returns 0 if it went well.
struct Functions {
  int (*Init)(Opaque* handle) = nullptr;
  int (*Destroy)(const Opaque* handle) = nullptr;
  int (*GetVersion)(const Opaque* handle, int* version) = nullptr;
  int (*DenseDescriptorInit)(const Opaque* handle, Opaque* matrix, int64_t rows, int64_t columns, int64_t step,
                             uint32_t alignment, int type, int order) = nullptr;
  int (*StructuredDescriptorInit)(const Opaque* handle, Opaque* matrix, int64_t rows, int64_t columns, int64_t step,
                                  uint32_t alignment, int type, int order, int sparsity) = nullptr;
  int (*MatDescriptorDestroy)(const Opaque* matrix) = nullptr;
  int (*MatmulDescriptorInit)(const Opaque* handle, Opaque* product, int op_a, int op_b, const Opaque* a,
                              const Opaque* b, const Opaque* c, const Opaque* d, int compute) = nullptr;
  int (*MatmulAlgSelectionInit)(const Opaque* handle, Opaque* selection, const Opaque* product, int algorithm) = nullptr;
  int (*MatmulPlanInit)(const Opaque* handle, Opaque* plan, const Opaque* product, const Opaque* selection) = nullptr;
  int (*MatmulPlanDestroy)(const Opaque* plan) = nullptr;
  int (*MatmulGetWorkspace)(const Opaque* handle, const Opaque* plan, size_t* bytes) = nullptr;
  int (*Matmul)(const Opaque* handle, const Opaque* plan, const void* alpha, const void* a, const void* b,
                const void* beta, const void* c, void* d, void* workspace, void** streams, int32_t count) = nullptr;
  // Tries every kernel on real numbers, and lets the plan use the fastest.
  int (*MatmulSearch)(const Opaque* handle, Opaque* plan, const void* alpha, const void* a, const void* b,
                      const void* beta, const void* c, void* d, void* workspace, void** streams, int32_t count) = nullptr;
  int (*SpMMACompressedSize2)(const Opaque* handle, const Opaque* matrix, size_t* bytes, size_t* buffer) = nullptr;
  int (*SpMMACompress2)(const Opaque* handle, const Opaque* matrix, int is_a, int op, const void* dense,
                        void* compressed, void* buffer, void* stream) = nullptr;
};

// The functions; null where the library, or one of them, is not there.
inline const Functions* functions() {
  static const Functions* const found = []() -> const Functions* {
    void* library = nullptr;
    for (const char* name : {"libcusparseLt.so.0", "libcusparseLt.so"}) {
      if (library == nullptr) library = dlopen(name, RTLD_NOW | RTLD_LOCAL);
    }
    if (library == nullptr) return nullptr;
    static Functions all;
    bool complete = true;
    const auto take = [&](auto& function, const char* name) {
      void* symbol = dlsym(library, name);
      function = reinterpret_cast<std::decay_t<decltype(function)>>(symbol);
      complete = complete && symbol != nullptr;
    };
    take(all.Init, "cusparseLtInit");
    take(all.Destroy, "cusparseLtDestroy");
    take(all.GetVersion, "cusparseLtGetVersion");
    take(all.DenseDescriptorInit, "cusparseLtDenseDescriptorInit");
    take(all.StructuredDescriptorInit, "cusparseLtStructuredDescriptorInit");
    take(all.MatDescriptorDestroy, "cusparseLtMatDescriptorDestroy");
    take(all.MatmulDescriptorInit, "cusparseLtMatmulDescriptorInit");
    take(all.MatmulAlgSelectionInit, "cusparseLtMatmulAlgSelectionInit");
    take(all.MatmulPlanInit, "cusparseLtMatmulPlanInit");
    take(all.MatmulPlanDestroy, "cusparseLtMatmulPlanDestroy");
    take(all.MatmulGetWorkspace, "cusparseLtMatmulGetWorkspace");
    take(all.Matmul, "cusparseLtMatmul");
    take(all.MatmulSearch, "cusparseLtMatmulSearch");
    take(all.SpMMACompressedSize2, "cusparseLtSpMMACompressedSize2");
    take(all.SpMMACompress2, "cusparseLtSpMMACompress2");
    return complete ? &all : nullptr;
  }();
  return found;
}

}  // namespace graphopt::cusparselt
