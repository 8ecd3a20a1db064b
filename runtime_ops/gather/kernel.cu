// Gather and Scatter with fill, on the GPU: a thread a chunk of up to 16 bytes of the result.

#include <cstdint>
#include <cuda_runtime_api.h>
#include <initializer_list>

#include "chunk.h"
#include "divide.h"
#include "spread_cuda.h"

namespace {

// A number of `kWidth` bytes, side by side until a chunk is full.
template <int kWidth, class Chunk>
__device__ Chunk repeated(const void* fill, int64_t at) {
  uint64_t pattern;
  if constexpr (kWidth == 1) {
    pattern = static_cast<const uint8_t*>(fill)[at] * 0x0101010101010101ull;
  } else if constexpr (kWidth == 2) {
    pattern = static_cast<const uint16_t*>(fill)[at] * 0x0001000100010001ull;
  } else if constexpr (kWidth == 4) {
    pattern = static_cast<const uint32_t*>(fill)[at] * 0x0000000100000001ull;
  } else {
    pattern = static_cast<const uint64_t*>(fill)[at];
  }
  if constexpr (sizeof(Chunk) == 16) {
    const auto low = static_cast<uint32_t>(pattern), high = static_cast<uint32_t>(pattern >> 32);
    return Chunk{low, high, low, high};
  } else {
    return static_cast<Chunk>(pattern);
  }
}

// Rows of `chunks` chunks: out[o, j, c] = data[o, map[j], c].
template <int kWidth, class Chunk, class Place, class Divide>
__global__ void __launch_bounds__(kChunkThreads)
    rows(const Chunk* __restrict__ data, const Place* __restrict__ map, const void* __restrict__ fill,
         Chunk* __restrict__ out, int64_t from, Divide by_chunks, Divide by_to, int fill_step, int64_t count) {
  using Index = typename Divide::Index;
  const int64_t item = static_cast<int64_t>(blockIdx.x) * kChunkThreads + threadIdx.x;
  if (item >= count) return;
  const auto at = static_cast<Index>(item);
  const Index row = by_chunks(at), c = at - row * by_chunks.divisor;
  const Index o = by_to(row), j = row - o * by_to.divisor;
  const int64_t i = map[j];
  if (i < 0 || i >= from) {
    out[at] = repeated<kWidth, Chunk>(fill, static_cast<int64_t>(j) * fill_step);
  } else {
    out[at] = data[(o * from + i) * by_chunks.divisor + c];
  }
}

// Rows of one number: a thread writes 16 bytes, neighbours on the axis, and reads them one by one (they lie close
// together, so that the cache has them).
template <class T, class Place, class Divide>
__global__ void __launch_bounds__(kChunkThreads)
    numbers(const T* __restrict__ data, const Place* __restrict__ map, const T* __restrict__ fill,
            uint4* __restrict__ out, int64_t from, Divide by_chunks, int fill_step, int64_t count) {
  using Index = typename Divide::Index;
  constexpr int kMany = 16 / sizeof(T);
  const int64_t item = static_cast<int64_t>(blockIdx.x) * kChunkThreads + threadIdx.x;
  if (item >= count) return;
  const auto at = static_cast<Index>(item);
  const Index o = by_chunks(at);
  const int64_t first = static_cast<int64_t>(at - o * by_chunks.divisor) * kMany;
  const T* source = data + static_cast<int64_t>(o) * from;
  union {
    uint4 chunk;
    T each[kMany];
  } found;
#pragma unroll
  for (int k = 0; k < kMany; ++k) {
    const int64_t j = first + k, i = map[j];
    found.each[k] = i < 0 || i >= from ? fill[j * fill_step] : source[i];
  }
  out[at] = found.chunk;
}

struct Work {
  const void *data, *map, *fill;
  void* out;
  int64_t from, to, outer, inner;
  int fill_step;
  cudaStream_t stream;
};

template <int kWidth, class Chunk, class Place>
int launch_rows(const Work& w) {
  const int64_t chunks = w.inner * kWidth / static_cast<int64_t>(sizeof(Chunk)), count = w.outer * w.to * chunks;
  const auto* data = static_cast<const Chunk*>(w.data);
  const auto* map = static_cast<const Place*>(w.map);
  auto* out = static_cast<Chunk*>(w.out);
  if (count < int64_t{1} << 31) {
    rows<kWidth, Chunk, Place, Divide32><<<chunk_blocks(count), kChunkThreads, 0, w.stream>>>(
        data, map, w.fill, out, w.from, Divide32(chunks), Divide32(w.to), w.fill_step, count);
  } else {
    rows<kWidth, Chunk, Place, Divide64><<<chunk_blocks(count), kChunkThreads, 0, w.stream>>>(
        data, map, w.fill, out, w.from, Divide64(chunks), Divide64(w.to), w.fill_step, count);
  }
  return cudaGetLastError();
}

template <int kWidth, class T, class Place>
int launch(const Work& w) {
  constexpr int kMany = 16 / kWidth;
  const int chunk = chunk_bytes(w.inner * kWidth, {w.data, w.out});
  if (w.inner == 1 && kMany > 1 && w.to % kMany == 0 && chunk_bytes(16, {w.out}) == 16) {
    const int64_t chunks = w.to / kMany, count = w.outer * chunks;
    const auto* data = static_cast<const T*>(w.data);
    const auto* map = static_cast<const Place*>(w.map);
    const auto* fill = static_cast<const T*>(w.fill);
    auto* out = static_cast<uint4*>(w.out);
    if (count < int64_t{1} << 31) {
      numbers<T, Place, Divide32><<<chunk_blocks(count), kChunkThreads, 0, w.stream>>>(
          data, map, fill, out, w.from, Divide32(chunks), w.fill_step, count);
    } else {
      numbers<T, Place, Divide64><<<chunk_blocks(count), kChunkThreads, 0, w.stream>>>(
          data, map, fill, out, w.from, Divide64(chunks), w.fill_step, count);
    }
    return cudaGetLastError();
  }
  if (chunk == 16) return launch_rows<kWidth, uint4, Place>(w);
  if constexpr (kWidth <= 4) {
    if (chunk >= 4) return launch_rows<kWidth, uint32_t, Place>(w);
  }
  return launch_rows<kWidth, T, Place>(w);
}

template <class Place>
int choose(int width, const Work& w) {
  switch (width) {
    case 1:
      return launch<1, uint8_t, Place>(w);
    case 2:
      return launch<2, uint16_t, Place>(w);
    case 4:
      return launch<4, uint32_t, Place>(w);
    default:
      return launch<8, uint64_t, Place>(w);
  }
}

}  // namespace

extern "C" int graphopt_cuda_spread(int width, int place, const void* data, const void* map, const void* fill,
                                    void* out, int64_t from, int64_t to, int64_t outer, int64_t inner, int64_t fills,
                                    void* stream) {
  if (outer * to * inner == 0) return 0;
  const Work work{data, map, fill, out, from, to, outer, inner, fills > 1, static_cast<cudaStream_t>(stream)};
  return place == 4 ? choose<int32_t>(width, work) : choose<int64_t>(width, work);
}
