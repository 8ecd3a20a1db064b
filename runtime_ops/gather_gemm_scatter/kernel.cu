// GatherGemmScatter on the GPU: a grouped product. A thread block computes 64 x 64 sums of one of the weight's blocks; it
// gathers the columns of x on the way into shared memory and adds the sums to where they belong on the way out.
//
// float16 and bfloat16 use tensor cores (sums in float32), float32 does not: TF32 would round the products.

#include <cstdint>
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime_api.h>
#include <mma.h>
#include <type_traits>

#include "group.h"

namespace {

constexpr int kM = 64, kN = 64, kK = 32, kThreads = 128;

__device__ float wide(float x) { return x; }
__device__ float wide(__half x) { return __half2float(x); }
__device__ float wide(__nv_bfloat16 x) { return __bfloat162float(x); }

template <class T>
__device__ T narrow(float x) {
  if constexpr (std::is_same_v<T, __half>) {
    return __float2half_rn(x);
  } else if constexpr (std::is_same_v<T, __nv_bfloat16>) {
    return __float2bfloat16_rn(x);
  } else {
    return x;
  }
}

// Rows and columns of the tiles in shared memory are a little longer than what is read, so that neighbours down a column
// lie in different banks; tensor cores want them to be multiples of 16 bytes.
template <class T>
struct Tiles {
  static constexpr int kLongK = kK + (sizeof(T) == 2 ? 8 : 1), kLongN = kN + (sizeof(T) == 2 ? 8 : 4);
  T a[kM * kLongK];
  T w[kK * kLongN];
};

constexpr int kLongSums = kN + 4;

template <class T>
union Shared {
  Tiles<T> tiles;
  float sums[kM * kLongSums];
  __device__ Shared() {}
};

// Of each of the four warps: 32 x 32 sums.
template <class T>
struct TensorCores {
  using Sum = nvcuda::wmma::fragment<nvcuda::wmma::accumulator, 16, 16, 16, float>;
  Sum sums[2][2];

  __device__ TensorCores() {
    for (auto& row : sums) {
      for (auto& sum : row) nvcuda::wmma::fill_fragment(sum, 0.0f);
    }
  }

  __device__ void multiply(const Tiles<T>& tiles) {
    using namespace nvcuda::wmma;
    const int warp = threadIdx.x / 32, m = warp / 2 * 32, n = warp % 2 * 32;
#pragma unroll
    for (int k = 0; k < kK; k += 16) {
      fragment<matrix_a, 16, 16, 16, T, row_major> a[2];
      fragment<matrix_b, 16, 16, 16, T, row_major> w[2];
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        load_matrix_sync(a[i], tiles.a + (m + i * 16) * Tiles<T>::kLongK + k, Tiles<T>::kLongK);
        load_matrix_sync(w[i], tiles.w + k * Tiles<T>::kLongN + n + i * 16, Tiles<T>::kLongN);
      }
#pragma unroll
      for (int i = 0; i < 2; ++i) {
#pragma unroll
        for (int j = 0; j < 2; ++j) mma_sync(sums[i][j], a[i], w[j], sums[i][j]);
      }
    }
  }

  __device__ void store(float* to) const {
    const int warp = threadIdx.x / 32, m = warp / 2 * 32, n = warp % 2 * 32;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        nvcuda::wmma::store_matrix_sync(to + (m + i * 16) * kLongSums + n + j * 16, sums[i][j], kLongSums,
                                        nvcuda::wmma::mem_row_major);
      }
    }
  }
};

// Of each thread: 8 x 4 sums, rows 8 apart and columns 16 apart.
struct Fused {
  float sums[8][4] = {};

  __device__ void multiply(const Tiles<float>& tiles) {
    const int m = threadIdx.x / 16, n = threadIdx.x % 16;
#pragma unroll 8
    for (int k = 0; k < kK; ++k) {
      float a[8], w[4];
#pragma unroll
      for (int i = 0; i < 8; ++i) a[i] = tiles.a[(m + i * 8) * Tiles<float>::kLongK + k];
#pragma unroll
      for (int j = 0; j < 4; ++j) w[j] = tiles.w[k * Tiles<float>::kLongN + n + j * 16];
#pragma unroll
      for (int i = 0; i < 8; ++i) {
#pragma unroll
        for (int j = 0; j < 4; ++j) sums[i][j] = fmaf(a[i], w[j], sums[i][j]);
      }
    }
  }

  __device__ void store(float* to) const {
    const int m = threadIdx.x / 16, n = threadIdx.x % 16;
#pragma unroll
    for (int i = 0; i < 8; ++i) {
#pragma unroll
      for (int j = 0; j < 4; ++j) to[(m + i * 8) * kLongSums + n + j * 16] = sums[i][j];
    }
  }
};

// out[m, rows[n]] = base[m, rows[n]] + sum over k of x[m, columns[k]] weights[k, n], and no less than `floor`.
template <class T>
__global__ void __launch_bounds__(kThreads)
    product(const T* __restrict__ x, const T* __restrict__ weights, const int32_t* __restrict__ columns,
            const int32_t* __restrict__ rows, const GroupPart* __restrict__ parts, unsigned count_parts, const T* base,
            int64_t base_step, const T* __restrict__ floor, T* out, int64_t count, int64_t depth, int64_t width) {
  alignas(32) __shared__ Shared<T> shared;
  const GroupPart part = parts[blockIdx.x % count_parts];
  const int64_t first = static_cast<int64_t>(blockIdx.x / count_parts) * kM;
  const int32_t* column = columns + part.column_at;
  const T* weight = weights + part.weight_at;
  std::conditional_t<sizeof(T) == 2, TensorCores<T>, Fused> sums;
  for (int k0 = 0; k0 < part.depth; k0 += kK) {
    for (int at = threadIdx.x; at < kM * kK; at += kThreads) {
      const int m = at / kK, k = at % kK;
      const bool there = first + m < count && k0 + k < part.depth;
      shared.tiles.a[m * Tiles<T>::kLongK + k] =
          there ? x[(first + m) * depth + column[k0 + k]] : narrow<T>(0.0f);
    }
    for (int at = threadIdx.x; at < kK * kN; at += kThreads) {
      const int k = at / kN, n = at % kN;
      const bool there = k0 + k < part.depth && part.start + n < part.width;
      shared.tiles.w[k * Tiles<T>::kLongN + n] =
          there ? weight[static_cast<int64_t>(k0 + k) * part.width + part.start + n] : narrow<T>(0.0f);
    }
    __syncthreads();
    sums.multiply(shared.tiles);
    __syncthreads();
  }
  sums.store(shared.sums);  // over the tiles, which nobody reads any more
  __syncthreads();
  const int32_t* row = rows + part.row_at + part.start;
  for (int at = threadIdx.x; at < kM * kN; at += kThreads) {
    const int m = at / kN, n = at % kN;
    if (first + m >= count || part.start + n >= part.width) continue;
    const int64_t place = row[n];
    float sum = wide(base[(first + m) * base_step + place]) + shared.sums[m * kLongSums + n];
    if (floor != nullptr && sum < wide(*floor)) sum = wide(*floor);
    out[(first + m) * width + place] = narrow<T>(sum);
  }
}

// out[m, n] = y[m, n], or y[n] where `step` is 0; no less than `floor`. `out` may be `y`.
template <class T>
__global__ void __launch_bounds__(256) begin(const T* y, int64_t step, const T* __restrict__ floor, T* out,
                                             int64_t width, int64_t items) {
  const int64_t stride = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t at = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; at < items; at += stride) {
    T found = y[step == 0 ? at % width : at];
    if (floor != nullptr && wide(found) < wide(*floor)) found = *floor;
    out[at] = found;
  }
}

template <class T>
int run_begin(const T* y, int64_t step, const T* floor, T* out, int64_t width, int64_t items, cudaStream_t stream) {
  const int64_t blocks = (items + 255) / 256;
  begin<T><<<static_cast<unsigned>(blocks < 1 << 16 ? blocks : 1 << 16), 256, 0, stream>>>(y, step, floor, out, width,
                                                                                          items);
  return cudaGetLastError();
}

template <class T>
int launch(const Group& g, void* stream_) {
  const auto stream = static_cast<cudaStream_t>(stream_);
  const auto *x = static_cast<const T*>(g.x), *y = static_cast<const T*>(g.y), *floor = static_cast<const T*>(g.floor);
  auto* out = static_cast<T*>(g.out);
  const int64_t items = g.count * g.width;
  // Where every position gets exactly one sum, the sums are added to y as they are written, and nothing else is done.
  const bool once = g.covered && g.sets == 1;
  if (!once && g.out != g.y) {
    if (const int error = run_begin<T>(y, g.y_step, nullptr, out, g.width, items, stream)) return error;
  }
  const T* base = once ? y : out;
  const int64_t base_step = once ? g.y_step : g.width, tiles = (g.count + kM - 1) / kM;
  for (int set = 0; set < g.sets; ++set) {  // one after the other: they may add to the same places
    const int parts = g.set_ends[set] - (set == 0 ? 0 : g.set_ends[set - 1]);
    if (parts == 0) continue;
    if (tiles * parts >= int64_t{1} << 31) return cudaErrorInvalidConfiguration;
    product<T><<<static_cast<unsigned>(tiles * parts), kThreads, 0, stream>>>(
        x, static_cast<const T*>(g.weights), g.columns, g.rows, g.parts + (set == 0 ? 0 : g.set_ends[set - 1]),
        static_cast<unsigned>(parts), base, base_step, once ? floor : nullptr, out, g.count, g.depth, g.width);
    if (const cudaError_t error = cudaGetLastError()) return error;
  }
  if (!once && floor != nullptr) return run_begin<T>(out, g.width, floor, out, g.width, items, stream);
  return 0;
}

}  // namespace

// Returns a cudaError_t. `type` is onnxruntime's number of it.
extern "C" int graphopt_cuda_gather_gemm_scatter(int type, const Group* group, void* stream) {
  if (group->count * group->width == 0) return 0;
  switch (type) {
    case 1:
      return launch<float>(*group, stream);
    case 10:
      return launch<__half>(*group, stream);
    case 16:
      return launch<__nv_bfloat16>(*group, stream);
    default:
      return cudaErrorInvalidValue;
  }
}
