// How CUDA kernels that move numbers read and write them: as many bytes at once as everything is aligned to.

#pragma once

#include <cstdint>

constexpr int kChunkThreads = 256;

// The widest of 16, 8, 4, 2, 1 bytes that divides the rows' bytes and every address.
inline int chunk_bytes(int64_t row, std::initializer_list<const void*> places) {
  uint64_t all = static_cast<uint64_t>(row) | 16u;
  for (const void* place : places) all |= reinterpret_cast<uintptr_t>(place);
  return static_cast<int>(all & (~all + 1));
}

inline unsigned chunk_blocks(int64_t items) {
  return static_cast<unsigned>((items + kChunkThreads - 1) / kChunkThreads);
}
