// ScatterAdd on the GPU: a thread a chunk of up to 16 bytes. Bound by memory: where only the positions that are written
// matter, nothing else is read.

#include <cstdint>
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime_api.h>
#include <initializer_list>

#include "chunk.h"
#include "divide.h"

namespace {

// Sums of 16-bit floats are sums in float32, rounded once, as on the CPU; integers wrap around.
__device__ float plus(float a, float b) { return a + b; }
__device__ __half plus(__half a, __half b) { return __float2half_rn(__half2float(a) + __half2float(b)); }
__device__ __nv_bfloat16 plus(__nv_bfloat16 a, __nv_bfloat16 b) {
  return __float2bfloat16_rn(__bfloat162float(a) + __bfloat162float(b));
}
__device__ uint8_t plus(uint8_t a, uint8_t b) { return static_cast<uint8_t>(a + b); }
__device__ int8_t plus(int8_t a, int8_t b) {
  return static_cast<int8_t>(static_cast<uint8_t>(a) + static_cast<uint8_t>(b));
}

__device__ float wide(float x) { return x; }
__device__ float wide(__half x) { return __half2float(x); }
__device__ float wide(__nv_bfloat16 x) { return __bfloat162float(x); }
__device__ int wide(uint8_t x) { return x; }
__device__ int wide(int8_t x) { return x; }

template <class T, class Chunk>
union Numbers {
  static constexpr int kMany = sizeof(Chunk) / sizeof(T);
  Chunk chunk;
  T each[kMany];
  __device__ Numbers() : chunk() {}
};

template <class T, class Chunk>
__device__ void lift(Numbers<T, Chunk>& numbers, const T* floor) {
  if (floor == nullptr) return;
  const T least = *floor;
#pragma unroll
  for (int k = 0; k < Numbers<T, Chunk>::kMany; ++k) {
    if (wide(numbers.each[k]) < wide(least)) numbers.each[k] = least;
  }
}

// In place, and only what is written: out[o, indices[i], c] += updates[o, i, c].
template <class T, class Chunk, class Divide>
__global__ void __launch_bounds__(kChunkThreads)
    written(Chunk* __restrict__ out, const Chunk* __restrict__ updates, const int32_t* __restrict__ indices,
            int64_t size, Divide by_chunks, Divide by_count, int64_t items) {
  using Index = typename Divide::Index;
  const int64_t item = static_cast<int64_t>(blockIdx.x) * kChunkThreads + threadIdx.x;
  if (item >= items) return;
  const auto at = static_cast<Index>(item);
  const Index row = by_chunks(at), c = at - row * by_chunks.divisor;
  const Index o = by_count(row), i = row - o * by_count.divisor;
  Chunk* place = out + (o * size + indices[i]) * by_chunks.divisor + c;
  Numbers<T, Chunk> sum, added;
  sum.chunk = *place;
  added.chunk = updates[at];
#pragma unroll
  for (int k = 0; k < Numbers<T, Chunk>::kMany; ++k) sum.each[k] = plus(sum.each[k], added.each[k]);
  *place = sum.chunk;
}

// Every position: out[o, j, c] = data[o, j, c] + (updates[o, map[j], c], or fill[j]); `out` may be `data`.
template <class T, class Chunk, class Divide>
__global__ void __launch_bounds__(kChunkThreads)
    rows(const Chunk* data, const Chunk* __restrict__ updates, const int32_t* __restrict__ map, int mapped,
         const T* __restrict__ fill, int fill_step, const T* __restrict__ floor, Chunk* out, int64_t count,
         Divide by_chunks, Divide by_size, int64_t items) {
  using Index = typename Divide::Index;
  const int64_t item = static_cast<int64_t>(blockIdx.x) * kChunkThreads + threadIdx.x;
  if (item >= items) return;
  const auto at = static_cast<Index>(item);
  const Index row = by_chunks(at), c = at - row * by_chunks.divisor;
  const Index o = by_size(row), j = row - o * by_size.divisor;
  const int32_t i = static_cast<int64_t>(j) < mapped ? map[j] : -1;
  Numbers<T, Chunk> sum, added;
  sum.chunk = data[at];
  if (i >= 0) {
    added.chunk = updates[(o * count + i) * by_chunks.divisor + c];
  } else {
    const T one = fill[static_cast<int64_t>(j) * fill_step];
#pragma unroll
    for (int k = 0; k < Numbers<T, Chunk>::kMany; ++k) added.each[k] = one;
  }
#pragma unroll
  for (int k = 0; k < Numbers<T, Chunk>::kMany; ++k) sum.each[k] = plus(sum.each[k], added.each[k]);
  lift(sum, floor);
  out[at] = sum.chunk;
}

// Rows of one number: a thread writes 16 bytes, neighbours on the axis; what is added is read one by one.
template <class T, class Divide>
__global__ void __launch_bounds__(kChunkThreads)
    lines(const uint4* data, const T* __restrict__ updates, const int32_t* __restrict__ map, int mapped,
          const T* __restrict__ fill, int fill_step, const T* __restrict__ floor, uint4* out, int64_t count,
          Divide by_chunks, int64_t items) {
  using Index = typename Divide::Index;
  constexpr int kMany = Numbers<T, uint4>::kMany;
  const int64_t item = static_cast<int64_t>(blockIdx.x) * kChunkThreads + threadIdx.x;
  if (item >= items) return;
  const auto at = static_cast<Index>(item);
  const Index o = by_chunks(at);
  const int64_t first = static_cast<int64_t>(at - o * by_chunks.divisor) * kMany;
  const T* source = updates + static_cast<int64_t>(o) * count;
  Numbers<T, uint4> sum;
  sum.chunk = data[at];
#pragma unroll
  for (int k = 0; k < kMany; ++k) {
    const int64_t j = first + k;
    const int32_t i = j < mapped ? map[j] : -1;
    sum.each[k] = plus(sum.each[k], i < 0 ? fill[j * fill_step] : source[i]);
  }
  lift(sum, floor);
  out[at] = sum.chunk;
}

struct Work {
  const void *data, *updates, *fill, *floor;
  const int32_t *indices, *map;
  void* out;
  int64_t size, count, outer, inner;
  int mapped, fill_step;
  bool sparse;
  cudaStream_t stream;
};

template <class T, class Chunk, class Divide>
int launch_chunks(const Work& w, int64_t chunks, int64_t items) {
  auto* out = static_cast<Chunk*>(w.out);
  const auto* updates = static_cast<const Chunk*>(w.updates);
  if (w.sparse) {
    written<T, Chunk, Divide><<<chunk_blocks(items), kChunkThreads, 0, w.stream>>>(
        out, updates, w.indices, w.size, Divide(chunks), Divide(w.count), items);
  } else {
    rows<T, Chunk, Divide><<<chunk_blocks(items), kChunkThreads, 0, w.stream>>>(
        static_cast<const Chunk*>(w.data), updates, w.map, w.mapped, static_cast<const T*>(w.fill), w.fill_step,
        static_cast<const T*>(w.floor), out, w.count, Divide(chunks), Divide(w.size), items);
  }
  return cudaGetLastError();
}

template <class T, class Chunk>
int launch_rows(const Work& w) {
  const int64_t chunks = w.inner * static_cast<int64_t>(sizeof(T)) / static_cast<int64_t>(sizeof(Chunk));
  const int64_t items = w.outer * chunks * (w.sparse ? w.count : w.size);
  if (items == 0) return 0;
  return items < int64_t{1} << 31 ? launch_chunks<T, Chunk, Divide32>(w, chunks, items)
                                  : launch_chunks<T, Chunk, Divide64>(w, chunks, items);
}

template <class T, class Divide>
int launch_lines(const Work& w, int64_t chunks) {
  const int64_t items = w.outer * chunks;
  lines<T, Divide><<<chunk_blocks(items), kChunkThreads, 0, w.stream>>>(
      static_cast<const uint4*>(w.data), static_cast<const T*>(w.updates), w.map, w.mapped,
      static_cast<const T*>(w.fill), w.fill_step, static_cast<const T*>(w.floor), static_cast<uint4*>(w.out), w.count,
      Divide(chunks), items);
  return cudaGetLastError();
}

template <class T>
int launch(const Work& w) {
  constexpr int64_t kMany = 16 / sizeof(T);
  // Single numbers of a line share their sectors of 32 bytes with those between them: the whole line costs no more.
  if (w.inner == 1 && w.size % kMany == 0 && chunk_bytes(16, {w.data, w.out}) == 16) {
    const int64_t chunks = w.size / kMany;
    return w.outer * chunks < int64_t{1} << 31 ? launch_lines<T, Divide32>(w, chunks)
                                               : launch_lines<T, Divide64>(w, chunks);
  }
  const int bytes = chunk_bytes(w.inner * static_cast<int64_t>(sizeof(T)), {w.data, w.updates, w.out});
  if (bytes == 16) return launch_rows<T, uint4>(w);
  if (bytes >= 4) return launch_rows<T, uint32_t>(w);
  if constexpr (sizeof(T) == 4) {
    return cudaErrorInvalidValue;  // four bytes divide whatever consists of numbers of four
  } else if constexpr (sizeof(T) == 2) {
    return launch_rows<T, uint16_t>(w);
  } else {
    return launch_rows<T, uint8_t>(w);
  }
}

}  // namespace

// data, out [outer, size, inner], updates [outer, count, inner]. `indices` [count]: where each update goes; `map`
// [mapped]: which update each position gets, -1 for none, as for the positions behind. `sparse`: out is data, and the
// fill changes nothing. Types are onnxruntime's numbers of them. Returns a cudaError_t.
extern "C" int graphopt_cuda_scatter_add(int type, const void* data, const void* updates, const void* fill,
                                         const void* floor, void* out, const int32_t* indices, const int32_t* map,
                                         int mapped, int64_t size, int64_t count, int64_t outer, int64_t inner,
                                         int64_t fills, int sparse, void* stream) {
  if (outer * size * inner == 0) return 0;
  const Work work{data, updates, fill,   floor,     indices,     map,         out,
                  size, count,   outer,  inner,     mapped,      fills > 1,   sparse != 0,
                  static_cast<cudaStream_t>(stream)};
  switch (type) {
    case 1:
      return launch<float>(work);
    case 2:
      return launch<uint8_t>(work);
    case 3:
      return launch<int8_t>(work);
    case 10:
      return launch<__half>(work);
    case 16:
      return launch<__nv_bfloat16>(work);
    default:
      return cudaErrorInvalidValue;
  }
}
