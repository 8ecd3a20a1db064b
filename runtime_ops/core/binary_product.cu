// Activation rows against filters, on the GPU: binary tensor cores (and, population count) where a device has them
// (sm_80 to sm_90), the ordinary population count elsewhere.
//
// A block of four warps computes 64 filters by 64 rows, a warp 32 by 32. Steps of 1024 bits come by asynchronous copies,
// three under way at most; a row of a step is 128 bytes, its 16-byte pieces exchanged by the row's number modulo 8, so
// that `ldmatrix` meets no bank twice.

#include <cstddef>

#include "binary_cuda.h"
#include "tensor_cores.h"

#if defined(GRAPHOPT_EMULATED) && !defined(GRAPHOPT_NO_BINARY_CORES)
#define GRAPHOPT_BINARY_CORES 1
#elif defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800 && __CUDA_ARCH__ < 1000
#define GRAPHOPT_BINARY_CORES 1
#endif

namespace graphopt::binary {
namespace {

constexpr int kThreads = 128;
constexpr int kTile = 64;                       // filters, and rows
constexpr int kBytes = 128;                     // of a row in a step
constexpr int kStages = 3;
constexpr int kStageBytes = 2 * kTile * kBytes;  // filters, then rows
constexpr int kCounts = kStages * kStageBytes;   // behind the stages: set bits of half rows
constexpr int kShared = kCounts + kThreads * static_cast<int>(sizeof(int));

#if defined(GRAPHOPT_EMULATED)

inline int ones(uint32_t word) { return __builtin_popcount(word); }

#if defined(GRAPHOPT_BINARY_CORES)
inline void multiply_bits(int (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  struct Given {
    int* d;
    const uint32_t* a;
    uint32_t b[2];
  } mine{d, a, {b0, b1}};
  gpu::Group& warp = gpu::block().warps[gpu::thread().id / 32];
  gpu::together(warp, gpu::thread().id % 32, &mine, [&] {
    const auto of = [&](int lane) { return static_cast<const Given*>(warp.given[lane]); };
    for (int row = 0; row < 16; ++row) {
      for (int column = 0; column < 8; ++column) {
        for (int word = 0; word < 8; ++word) {
          of(row % 8 * 4 + column / 2)->d[row / 8 * 2 + column % 2] +=
              ones(of(row % 8 * 4 + word % 4)->a[word / 4 * 2 + row / 8] & of(column * 4 + word % 4)->b[word / 4]);
        }
      }
    }
  });
}
#endif

#else

__device__ __forceinline__ int ones(uint32_t word) { return __popc(word); }

#if defined(GRAPHOPT_BINARY_CORES)
// d[16][8] += popcount(a[16][256 bits] & b[8][256 bits]) over a warp; operands as those of int8's m16n8k32, byte by byte.
// Source: PTX ISA, "Matrix Fragments for mma.m16n8k256".
__device__ __forceinline__ void multiply_bits(int (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k256.row.col.s32.b1.b1.s32.and.popc "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
#endif

#endif

// Where piece (16 bytes) of a row of an operand lies.
__device__ __forceinline__ int place(int row, int piece) { return row * kBytes + ((piece ^ (row & 7)) << 4); }

// What the threads of a block copy: 64 rows of 8 pieces of the filters, and of the activations. What is not there is 0.
__device__ __forceinline__ void copy_step(const uint32_t* from, int64_t first, int64_t count, int64_t words,
                                          int64_t step, uint32_t to) {
  for (int at = threadIdx.x; at < kTile * 8; at += kThreads) {
    const int row = at / 8, piece = at % 8;
    const int64_t word = step * (kBytes / 4) + piece * 4;
    const bool there = first + row < count && word < words;
    gpu::copy16(to + place(row, piece), from + (there ? (first + row) * words + word : 0), there ? 16 : 0);
  }
}

struct Sums {
  int of[2][4][4] = {};  // 16 filters by 8 rows: filters lane / 4 (+ 8), rows lane % 4 * 2 (+ 1)
};

// One step of a warp: filters from `m`, rows from `n` of what lies in shared memory.
__device__ __forceinline__ void multiply_step(const unsigned char* stage, uint32_t address, int m, int n, Sums& sums) {
  const int lane = threadIdx.x % 32;
#if defined(GRAPHOPT_BINARY_CORES)
  (void)stage;
#pragma unroll
  for (int k = 0; k < kBytes / 32; ++k) {
    uint32_t a[2][4], b[2][4];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      // Matrices: rows 0-7 and 8-15 of the first 16 bytes, then of the second.
      gpu::load_matrices(address + place(m + i * 16 + lane % 16, k * 2 + lane / 16), a[i]);
      // Matrices: 8 rows' first 16 bytes, their second; then the next 8 rows.
      gpu::load_matrices(address + kTile * kBytes + place(n + i * 16 + lane / 16 * 8 + lane % 8, k * 2 + lane / 8 % 2),
                         b[i]);
    }
#pragma unroll
    for (int i = 0; i < 2; ++i)
#pragma unroll
      for (int j = 0; j < 4; ++j) multiply_bits(sums.of[i][j], a[i], b[j / 2][j % 2 * 2], b[j / 2][j % 2 * 2 + 1]);
  }
#else
  (void)address;
  for (int k = 0; k < kBytes / 4; ++k) {
    const auto word = [&](int row) {
      return *reinterpret_cast<const uint32_t*>(stage + place(row % kTile, k / 4) + row / kTile * kTile * kBytes +
                                                k % 4 * 4);
    };
    uint32_t a[2][2], b[4][2];
#pragma unroll
    for (int i = 0; i < 4; ++i) a[i / 2][i % 2] = word(m + i / 2 * 16 + i % 2 * 8 + lane / 4);
#pragma unroll
    for (int i = 0; i < 8; ++i) b[i / 2][i % 2] = word(kTile + n + i / 2 * 8 + lane % 4 * 2 + i % 2);
#pragma unroll
    for (int i = 0; i < 2; ++i)
#pragma unroll
      for (int j = 0; j < 4; ++j)
#pragma unroll
        for (int e = 0; e < 4; ++e) sums.of[i][j][e] += ones(a[i][e / 2] & b[j][e % 2]);
  }
#endif
}

// The taps of a window that lie in the image: [first, last), along one axis.
__device__ __forceinline__ void valid_taps(int64_t at, int taps, int dilation, int size, int& first, int& last) {
  first = at >= 0 ? 0 : static_cast<int>((-at + dilation - 1) / dilation);
  last = at >= size ? 0 : static_cast<int>((size - 1 - at) / dilation + 1);
  first = first < taps ? first : taps;
  last = last < taps ? last : taps;
  last = last > first ? last : first;
}

// A row of activations, for the results.
struct Row {
  int left, top, right, bottom;  // valid taps, as corners of the table of counts
  int constant;                  // valid places - 2 * (bits that are set)
};

__device__ __forceinline__ Row about(const Windows& w, int64_t row, int set) {
  const int64_t x = row % w.out_width, y = row / w.out_width % w.out_height;
  Row found;
  valid_taps(y * w.stride_down - w.top, w.down, w.dilation_down, w.height, found.top, found.bottom);
  valid_taps(x * w.stride_across - w.left, w.across, w.dilation_across, w.width, found.left, found.right);
  const int taps = (found.bottom - found.top) * (found.right - found.left);
  found.constant = taps * static_cast<int>(w.channels) - 2 * set;
  return found;
}

template <bool kSigns>
__global__ void __launch_bounds__(kThreads) multiply(Product p) {
  GRAPHOPT_SHARED(shared);
  const uint32_t start = gpu::shared_address(shared);
  const int64_t group = blockIdx.z, filter = static_cast<int64_t>(blockIdx.y) * kTile;
  const int64_t first = static_cast<int64_t>(blockIdx.x) * kTile;
  const uint32_t* filters = p.filters + group * p.columns * p.words;
  const uint32_t* rows = p.activations + group * p.rows * p.words;
  const int64_t steps = (p.words * 4 + kBytes - 1) / kBytes;
  const auto fetch = [&](int64_t step) {
    if (step < steps) {
      const uint32_t to = start + static_cast<uint32_t>(step % kStages) * kStageBytes;
      copy_step(filters, filter, p.columns, p.words, step, to);
      copy_step(rows, first, p.rows, p.words, step, to + kTile * kBytes);
    }
    gpu::copies_commit();  // empty ones too: their number is what is waited for
  };
  for (int step = 0; step < kStages - 1; ++step) fetch(step);

  const int warp = threadIdx.x / 32, m = warp / 2 * 32, n = warp % 2 * 32;
  Sums sums;
  int set = 0;  // bits of a half of row threadIdx.x / 2
  for (int64_t step = 0; step < steps; ++step) {
    gpu::copies_wait<kStages - 2>();
    __syncthreads();  // this step has come for everyone, and everyone is done with the stage that is fetched next
    fetch(step + kStages - 1);
    const int offset = static_cast<int>(step % kStages) * kStageBytes;
    multiply_step(shared + offset, start + offset, m, n, sums);
    const unsigned char* mine = shared + offset + kTile * kBytes;
    for (int piece = 0; piece < 4; ++piece) {
      const auto* words = reinterpret_cast<const uint32_t*>(
          mine + place(static_cast<int>(threadIdx.x) / 2, static_cast<int>(threadIdx.x) % 2 * 4 + piece));
      for (int i = 0; i < 4; ++i) set += ones(words[i]);
    }
  }
  gpu::copies_wait<0>();
  int* counted = reinterpret_cast<int*>(shared + kCounts);
  counted[threadIdx.x] = set;
  __syncthreads();

  const Windows& w = p.windows;
  const int lane = threadIdx.x % 32;
  const int64_t plane = static_cast<int64_t>(w.out_height) * w.out_width, all = w.group * p.columns;
#pragma unroll
  for (int j = 0; j < 4; ++j) {
#pragma unroll
    for (int e = 0; e < 2; ++e) {
      const int at = n + j * 8 + lane % 4 * 2 + e;
      const int64_t row = first + at;
      if (row >= p.rows) continue;
      const Row of_row = about(w, row, counted[at * 2] + counted[at * 2 + 1]);
      const auto corner = [&](int down, int across, int64_t channel) {
        return p.counts[(static_cast<int64_t>(down) * (w.across + 1) + across) * all + channel];
      };
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int64_t column = filter + m + i / 2 * 16 + i % 2 * 8 + lane / 4;
        if (column >= p.columns) continue;
        const int64_t channel = group * p.columns + column;
        const int in_window = corner(of_row.bottom, of_row.right, channel) - corner(of_row.top, of_row.right, channel) -
                              corner(of_row.bottom, of_row.left, channel) + corner(of_row.top, of_row.left, channel);
        const int sum = of_row.constant - 2 * in_window + 4 * sums.of[i / 2][j][i % 2 * 2 + e];
        const int64_t to = (row / plane * all + channel) * plane + row % plane;
        const float number = __int2float_rn(sum);
        if (kSigns) {
          static_cast<int8_t*>(p.out)[to] = number > p.threshold[channel] ? 1 : -1;
        } else {
          static_cast<float*>(p.out)[to] = __fadd_rn(__fmul_rn(number, p.scale[channel]), p.bias[channel]);
        }
      }
    }
  }
}

}  // namespace
}  // namespace graphopt::binary

using namespace graphopt::binary;

extern "C" int graphopt_cuda_binary_product(const Product* product, void* stream) {
  const Product& p = *product;
  if (p.rows == 0 || p.columns == 0) return 0;
  const dim3 grid(static_cast<unsigned>((p.rows + kTile - 1) / kTile),
                  static_cast<unsigned>((p.columns + kTile - 1) / kTile), static_cast<unsigned>(p.windows.group));
  return p.threshold != nullptr ? graphopt::gpu::launch(multiply<true>, grid, kThreads, kShared, stream, p)
                                : graphopt::gpu::launch(multiply<false>, grid, kThreads, kShared, stream, p);
}
