// What the kernels of int8 products share: tiles, the copies of a step, the multiplication, the end. See int8_product.cu.

#pragma once

#include "int8_cuda.h"
#include "tensor_cores.h"

namespace graphopt::int8 {
namespace {

using namespace graphopt::gpu;

constexpr int kPieces = kStep / kChunk;

// A block's tile, and its share for each warp: ROWS x COLUMNS of it as 16 x 8 fragments. With wgmma the four warps of a
// group have 16 rows each and all columns.
template <int Height, int Width, int WarpHeight, int WarpWidth, int Stages, bool Wide>
struct Tile {
  static constexpr int height = Height, width = Width, warp_height = WarpHeight, warp_width = WarpWidth;
  static constexpr bool wide = Wide;
  static constexpr int stages = Stages;
  static constexpr int threads = (Height / WarpHeight) * (Width / WarpWidth) * 32;
  static constexpr int stage_bytes = (Height + Width) * kStep;
  // Steps that are copied ahead. wgmma may still read the step before the present one.
  static constexpr int ahead = Wide ? Stages - 2 : Stages - 1;
  static constexpr int down = WarpHeight / 16, across = WarpWidth / 8;
  static constexpr int x_copies = Height * kPieces / threads, w_copies = Width * kPieces / threads;
  static constexpr int result_step = Width + 16;  // bytes of a row of results in shared memory
  static constexpr int bytes = Stages * stage_bytes + 1024;  // the stages begin at a multiple of 1024

  static_assert(!Wide || (WarpHeight == 16 && WarpWidth == Width && Height % 64 == 0), "wgmma takes 64 whole rows");
  static_assert(Height * result_step <= Stages * stage_bytes, "the results lie where the stages lay");
  static_assert(Height * kPieces % threads == 0 && Width * kPieces % threads == 0, "every thread copies the same");
};

__device__ __forceinline__ uint32_t piece_address(uint32_t rows, int row, int piece) {
  return rows + row * kStep + ((piece ^ (row & 7)) << 4);
}

// What one thread copies of x in every step: the same piece of several rows.
template <class T>
struct Images {
  int corner[T::x_copies];  // position of the first tap, height << 16 | width, as signed halves
  int image[T::x_copies];   // positions in front of the row's image
  int piece, row, channel, tap_row, tap_column;

  __device__ __forceinline__ void begin(const Product& p, int first_row) {
    piece = threadIdx.x % kPieces;
    row = threadIdx.x / kPieces;
#pragma unroll
    for (int i = 0; i < T::x_copies; ++i) {
      const int m = first_row + row + i * (T::threads / kPieces);
      if (m < p.rows) {
        const int positions = p.out_height * p.out_width;
        const int at = m % positions;
        const int h = at / p.out_width * p.stride_height - p.pad_top;
        const int c = at % p.out_width * p.stride_width - p.pad_left;
        corner[i] = static_cast<int>(static_cast<uint32_t>(h) << 16 | (static_cast<uint32_t>(c) & 0xFFFFu));
        image[i] = m / positions * (p.height * p.width);
      } else {
        corner[i] = static_cast<int>(0x8000u << 16);  // above every image
        image[i] = 0;
      }
    }
    channel = piece * kChunk;
    tap_row = tap_column = 0;
    carry(p);
  }

  // Copies the present step, and goes to the next.
  __device__ __forceinline__ void step(const Product& p, int group, uint32_t stage) {
    const int h_tap = tap_row * p.dilation_height, c_tap = tap_column * p.dilation_width;
    const int8_t* x = p.x + group * p.channels + channel;
    const bool tap = tap_row < p.kernel_height;
#pragma unroll
    for (int i = 0; i < T::x_copies; ++i) {
      const int h = (corner[i] >> 16) + h_tap;
      const int c = static_cast<int16_t>(corner[i] & 0xFFFF) + c_tap;
      const bool there = tap && static_cast<unsigned>(h) < static_cast<unsigned>(p.height) &&
                         static_cast<unsigned>(c) < static_cast<unsigned>(p.width);
      const uint32_t to = piece_address(stage, row + i * (T::threads / kPieces), piece);
      if (!there && p.zero != 0) {
        store16(to, p.zero);
      } else {
        const int64_t position = there ? image[i] + h * p.width + c : 0;
        copy16(to, there ? x + position * p.x_step : p.x, there ? kChunk : 0);
      }
    }
    channel += kStep;
    carry(p);
  }

  __device__ __forceinline__ void carry(const Product& p) {
    while (channel >= p.channels) {
      channel -= p.channels;
      if (++tap_column == p.kernel_width) {
        tap_column = 0;
        ++tap_row;
      }
    }
  }
};

// The same of w.
template <class T>
struct Filters {
  const int8_t* w[T::w_copies];
  uint32_t there;  // a bit for each row
  int piece, row;

  __device__ __forceinline__ void begin(const Product& p, int first_column, int group) {
    piece = threadIdx.x % kPieces;
    row = threadIdx.x / kPieces;
    there = 0;
#pragma unroll
    for (int i = 0; i < T::w_copies; ++i) {
      const int n = first_column + row + i * (T::threads / kPieces);
      const bool has = n < p.columns;
      there |= static_cast<uint32_t>(has) << i;
      w[i] = p.w + (static_cast<int64_t>(group) * p.columns + (has ? n : 0)) * p.depth + piece * kChunk;
    }
  }

  __device__ __forceinline__ void step(uint32_t stage) {
#pragma unroll
    for (int i = 0; i < T::w_copies; ++i) {
      const uint32_t to = piece_address(stage + T::height * kStep, row + i * (T::threads / kPieces), piece);
      copy16(to, w[i], there >> i & 1 ? kChunk : 0);
      w[i] += kStep;
    }
  }
};

__device__ __forceinline__ int8_t requantize(int sum, float scale, int bias, bool residual, int added, const Product& p) {
  const int whole = static_cast<int>(static_cast<uint32_t>(sum) + static_cast<uint32_t>(bias));
  float value = __fmul_rn(__int2float_rn(whole), scale);
  if (residual) {
    value = __fadd_rn(value, __fmul_rn(__int2float_rn(added - p.residual_zero_point), p.residual_scale));
  }
  // The bounds are whole numbers: what is clipped first is rounded to the same.
  value = fminf(fmaxf(value, p.low), p.high);
  return static_cast<int8_t>(__float2int_rn(value) + p.y_zero_point);
}

// Moves the tile between shared memory and y (or the residual), W bytes a thread.
template <class T, int W, bool Store>
__device__ __forceinline__ void move_rows(const Product& p, unsigned char* results, int first_row, int first_column,
                                          int group) {
  struct alignas(W) Piece {
    unsigned char bytes[W];
  };
  const int64_t all = static_cast<int64_t>(p.groups) * p.columns;
  for (int i = threadIdx.x; i < T::height * (T::width / W); i += T::threads) {
    const int row = i / (T::width / W), column = i % (T::width / W) * W;
    const int m = first_row + row, n = first_column + column;
    if (m >= p.rows || n >= p.columns) continue;
    const int64_t at = m * all + static_cast<int64_t>(group) * p.columns + n;
    auto* here = reinterpret_cast<Piece*>(results + row * T::result_step + column);
    if (Store) {
      *reinterpret_cast<Piece*>(p.y + at) = *here;
    } else {
      *here = *reinterpret_cast<const Piece*>(p.residual + at);
    }
  }
}

// The same where y has a plane for every channel: neighbours are positions.
template <class T, bool Store>
__device__ __forceinline__ void move_planes(const Product& p, unsigned char* results, int first_row, int first_column,
                                            int group) {
  const int positions = p.out_height * p.out_width;
  const int64_t all = static_cast<int64_t>(p.groups) * p.columns;
  for (int i = threadIdx.x; i < T::height * T::width; i += T::threads) {
    const int row = i % T::height, column = i / T::height;
    const int m = first_row + row, n = first_column + column;
    if (m >= p.rows || n >= p.columns) continue;
    const int64_t at =
        (m / positions * all + static_cast<int64_t>(group) * p.columns + n) * positions + m % positions;
    unsigned char* here = results + row * T::result_step + column;
    if (Store) {
      p.y[at] = static_cast<int8_t>(*here);
    } else {
      *here = static_cast<unsigned char>(p.residual[at]);
    }
  }
}

template <class T, bool Store>
__device__ __forceinline__ void move(const Product& p, unsigned char* results, int first_row, int first_column,
                                     int group) {
  const auto address = reinterpret_cast<uintptr_t>(Store ? static_cast<const int8_t*>(p.y) : p.residual);
  const auto width = static_cast<uint32_t>(p.columns) | static_cast<uint32_t>(address);
  if (p.planes) {
    move_planes<T, Store>(p, results, first_row, first_column, group);
  } else if (width % 16 == 0) {
    move_rows<T, 16, Store>(p, results, first_row, first_column, group);
  } else if (width % 4 == 0) {
    move_rows<T, 4, Store>(p, results, first_row, first_column, group);
  } else {
    move_rows<T, 1, Store>(p, results, first_row, first_column, group);
  }
}

// Multiplies one step that lies in shared memory, with `mma.sync`.
template <class T>
__device__ __forceinline__ void multiply_step(int (&sums)[T::down][T::across][4], uint32_t stage, int left) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int row = warp / (T::width / T::warp_width) * T::warp_height;
  const int column = warp % (T::width / T::warp_width) * T::warp_width;
#pragma unroll
  for (int k = 0; k < kStep / 32; ++k) {
    if (k * 32 >= left) break;  // behind the last tap there are zeros
    uint32_t a[T::down][4], b[T::across / 2][4];
#pragma unroll
    for (int i = 0; i < T::down; ++i) {
      load_matrices(piece_address(stage, row + i * 16 + lane % 16, k * 2 + lane / 16), a[i]);
    }
#pragma unroll
    for (int j = 0; j < T::across / 2; ++j) {
      const int n = column + j * 16 + lane % 8 + lane / 16 * 8;
      load_matrices(piece_address(stage + T::height * kStep, n, k * 2 + lane / 8 % 2), b[j]);
    }
#pragma unroll
    for (int i = 0; i < T::down; ++i) {
#pragma unroll
      for (int j = 0; j < T::across; ++j) multiply(sums[i][j], a[i], b[j / 2][j % 2 * 2], b[j / 2][j % 2 * 2 + 1]);
    }
  }
}

#if defined(GRAPHOPT_WGMMA)

// The same with `wgmma`: it runs on while the next step's copies are started.
template <class T>
__device__ __forceinline__ void multiply_step_wide(int (&sums)[T::down][T::across][4], uint32_t stage, bool first) {
  const int warps = threadIdx.x / 128;
  const uint32_t x = stage + warps * 64 * kStep, w = stage + T::height * kStep;
  group_begin();
#pragma unroll
  for (int k = 0; k < kStep / 32; ++k) {
    multiply(sums[0], matrix_descriptor(x + k * 32), matrix_descriptor(w + k * 32), !first || k > 0);
  }
  group_commit();
}

#endif

template <class T>
__device__ __forceinline__ void clear(int (&sums)[T::down][T::across][4]) {
#pragma unroll
  for (int i = 0; i < T::down; ++i) {
#pragma unroll
    for (int j = 0; j < T::across; ++j) sums[i][j][0] = sums[i][j][1] = sums[i][j][2] = sums[i][j][3] = 0;
  }
}

// Requantizes a thread's sums and writes the tile. Nothing may use the stages any more.
template <class T>
__device__ __forceinline__ void finish(const Product& p, const int (&sums)[T::down][T::across][4],
                                       unsigned char* results, int first_row, int first_column, int group) {
  const bool residual = p.residual != nullptr;
  if (residual) {
    move<T, false>(p, results, first_row, first_column, group);
    __syncthreads();
  }
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int row = warp / (T::width / T::warp_width) * T::warp_height + lane / 4;
  const int column = warp % (T::width / T::warp_width) * T::warp_width + lane % 4 * 2;
#pragma unroll
  for (int j = 0; j < T::across; ++j) {
    const int n = first_column + column + j * 8;
    if (n >= p.columns) continue;
    const int at = group * p.columns + n;
    const bool two = n + 1 < p.columns;
    const float scale[2] = {p.scale[at], two ? p.scale[at + 1] : 0};
    const int bias[2] = {p.bias[at], two ? p.bias[at + 1] : 0};
#pragma unroll
    for (int i = 0; i < T::down; ++i) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        auto* here = reinterpret_cast<char2*>(results + (row + i * 16 + half * 8) * T::result_step + column + j * 8);
        char2 pair = residual ? *here : char2{0, 0};
        pair.x = requantize(sums[i][j][half * 2], scale[0], bias[0], residual, pair.x, p);
        pair.y = requantize(sums[i][j][half * 2 + 1], scale[1], bias[1], residual, pair.y, p);
        *here = pair;
      }
    }
  }
  __syncthreads();
  move<T, true>(p, results, first_row, first_column, group);
}

}  // namespace
}  // namespace graphopt::int8
