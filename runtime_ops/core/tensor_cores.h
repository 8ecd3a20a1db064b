// The instructions of the GPU that CUDA C++ has no words for, one function each: asynchronous copies, `ldmatrix`, and the
// products of int8 tensor cores (`mma.sync` from sm_80 on, `wgmma` on sm_90a).
//
// A test compiles the same kernels for the processor, with GRAPHOPT_EMULATED and a header that plays the GPU: threads of
// a block as coroutines, copies that arrive as late as they may. What is here has a twin there.
//
// Source: NVIDIA, Parallel Thread Execution ISA 8.x, "cp.async", "ldmatrix", "mma.m16n8k32", "wgmma".

#pragma once

#if defined(GRAPHOPT_EMULATED)

#include "cuda_emulator.h"

#else

#include <cstdint>
#include <cuda_runtime.h>

#define GRAPHOPT_SHARED(name) extern __shared__ __align__(1024) unsigned char name[]

namespace graphopt::gpu {

// wgmma exists in code for sm_90a alone.
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define GRAPHOPT_WGMMA 1
#endif

__device__ __forceinline__ uint32_t shared_address(const void* pointer) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

// Copies 16 bytes to shared memory, or writes 16 zeros where `bytes` is 0; complete after `copies_wait`.
__device__ __forceinline__ void copy16(uint32_t to, const void* from, int bytes) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(bytes) : "memory");
}
__device__ __forceinline__ void copies_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Waits until at most `Pending` of this thread's groups are under way.
template <int Pending>
__device__ __forceinline__ void copies_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(Pending) : "memory");
}

__device__ __forceinline__ void store16(uint32_t to, uint32_t word) {
  asm volatile("st.shared.v4.b32 [%0], {%1, %1, %1, %1};" ::"r"(to), "r"(word) : "memory");
}

// Loads four matrices of 8 rows of 16 bytes; lane l names row l % 8 of matrix l / 8, and gets bytes 4 (l % 4) to
// 4 (l % 4) + 3 of row l / 4 of each.
__device__ __forceinline__ void load_matrices(uint32_t from, uint32_t (&to)[4]) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(from)
               : "memory");
}

// d[16][8] += a[16][32] b[32][8] over a warp.
__device__ __forceinline__ void multiply(int (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

#if defined(GRAPHOPT_WGMMA)

// Lets the tensor cores see what ordinary instructions wrote to shared memory.
__device__ __forceinline__ void publish() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }
__device__ __forceinline__ void group_begin() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void group_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int Pending>
__device__ __forceinline__ void group_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(Pending) : "memory");
}

// Clusters: blocks that run at once and reach each other's shared memory.
__device__ __forceinline__ int block_of_cluster() {
  uint32_t rank;
  asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return static_cast<int>(rank);
}
__device__ __forceinline__ void cluster_synchronize() {
  asm volatile("barrier.cluster.arrive.release.aligned;\nbarrier.cluster.wait.acquire.aligned;" ::: "memory");
}

// A barrier for one thread that announces bytes, and the bytes. It is waited for by parity: 0 the first time.
__device__ __forceinline__ void barrier_init(uint32_t barrier) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(barrier) : "memory");
}
__device__ __forceinline__ void barriers_ready() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }
__device__ __forceinline__ void barrier_expect(uint32_t barrier, int bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
}
__device__ __forceinline__ void barrier_wait(uint32_t barrier, uint32_t parity) {
  uint32_t done = 0;
  while (done == 0) {
    asm volatile(
        "{\n.reg .pred p;\nmbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\nselp.u32 %0, 1, 0, p;\n}\n"
        : "=r"(done)
        : "r"(barrier), "r"(parity)
        : "memory");
  }
}

// Copies to the same place in both blocks of a pair, and reports the bytes to the barrier at the same place in each.
__device__ __forceinline__ void copy_to_pair(uint32_t to, const void* from, int bytes, uint32_t barrier) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster [%0], [%1], %2, [%3], %4;" ::
          "r"(to),
      "l"(from), "r"(bytes), "r"(barrier), "h"(static_cast<uint16_t>(3))
      : "memory");
}

// Behind `group_wait`: keeps the compiler from reading sums before it.
template <int N>
__device__ __forceinline__ void settle(int (&d)[N][4]) {
#pragma unroll
  for (int i = 0; i < N; ++i) asm volatile("" : "+r"(d[i][0]), "+r"(d[i][1]), "+r"(d[i][2]), "+r"(d[i][3])::"memory");
}

#define GRAPHOPT_D4(i) "+r"(d[i][0]), "+r"(d[i][1]), "+r"(d[i][2]), "+r"(d[i][3])
#define GRAPHOPT_D16(i) GRAPHOPT_D4(i), GRAPHOPT_D4(i + 1), GRAPHOPT_D4(i + 2), GRAPHOPT_D4(i + 3)
#define GRAPHOPT_D32(i) GRAPHOPT_D16(i), GRAPHOPT_D16(i + 4)

// d[64][N] = a[64][32] b[N][32]^T (+ d) over four warps; d is spread as by `multiply`, 16 rows a warp.
__device__ __forceinline__ void multiply(int (&d)[8][4], uint64_t a, uint64_t b, int add) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %34, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n64k32.s32.s8.s8 {"
      "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
      "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, %32, %33, p;\n}\n"
      : GRAPHOPT_D32(0)
      : "l"(a), "l"(b), "r"(add));
}

__device__ __forceinline__ void multiply(int (&d)[16][4], uint64_t a, uint64_t b, int add) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %66, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n128k32.s32.s8.s8 {"
      "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
      "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
      "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
      "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}, %64, %65, p;\n}\n"
      : GRAPHOPT_D32(0), GRAPHOPT_D32(8)
      : "l"(a), "l"(b), "r"(add));
}

__device__ __forceinline__ void multiply(int (&d)[32][4], uint64_t a, uint64_t b, int add) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %130, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n256k32.s32.s8.s8 {"
      "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
      "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
      "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
      "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63, "
      "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, "
      "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95, "
      "%96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111, "
      "%112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127}, %128, %129, p;\n}\n"
      : GRAPHOPT_D32(0), GRAPHOPT_D32(8), GRAPHOPT_D32(16), GRAPHOPT_D32(24)
      : "l"(a), "l"(b), "r"(add));
}

#undef GRAPHOPT_D4
#undef GRAPHOPT_D16
#undef GRAPHOPT_D32

#endif

// More than 48 KiB of shared memory have to be asked for.
template <class P>
cudaError_t ask_for(void (*kernel)(P), size_t shared) {
  if (shared <= 48 * 1024) return cudaSuccess;
  return cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel), cudaFuncAttributeMaxDynamicSharedMemorySize,
                              static_cast<int>(shared));
}

// Starts a kernel; returns a cudaError_t.
template <class P>
int launch(void (*kernel)(P), dim3 grid, int threads, size_t shared, void* stream, const P& problem) {
  if (const cudaError_t error = ask_for(kernel, shared)) return error;
  kernel<<<grid, threads, shared, static_cast<cudaStream_t>(stream)>>>(problem);
  return cudaGetLastError();
}

// The same in clusters of blocks that are neighbours along x.
template <class P>
int launch_clusters(void (*kernel)(P), dim3 grid, int blocks, int threads, size_t shared, void* stream,
                    const P& problem) {
  if (const cudaError_t error = ask_for(kernel, shared)) return error;
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeClusterDimension;
  attribute.val.clusterDim.x = static_cast<unsigned>(blocks);
  attribute.val.clusterDim.y = attribute.val.clusterDim.z = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = dim3(static_cast<unsigned>(threads));
  config.dynamicSmemBytes = shared;
  config.stream = static_cast<cudaStream_t>(stream);
  config.attrs = &attribute;
  config.numAttrs = 1;
  return cudaLaunchKernelEx(&config, kernel, problem);
}

}  // namespace graphopt::gpu

#endif

namespace graphopt::gpu {

// A K-major operand of `wgmma` in shared memory: rows of 128 bytes, the 16-byte pieces of a row exchanged by the row's
// number modulo 8 ("128-byte swizzle"), groups of 8 rows 1024 bytes apart. The address is a multiple of 1024, but for the
// step along the rows, a multiple of 32 bytes.
// Bits: 0-13 address / 16; 16-29 leading offset / 16 (not used with a swizzle); 32-45 stride / 16; 62-63: 1 = 128 bytes.
__device__ __forceinline__ uint64_t matrix_descriptor(uint32_t address) {
  return (static_cast<uint64_t>(address & 0x3FFFF) >> 4) | (uint64_t{1} << 16) | (uint64_t{1024 >> 4} << 32) |
         (uint64_t{1} << 62);
}

}  // namespace graphopt::gpu
