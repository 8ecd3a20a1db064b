// What the int8 kernels of CUDA are told, and their launchers: plain C, a cudaError_t comes back.
//
// Every product is a convolution over NHWC ("implicit GEMM"): row m of the product is a position of the output, its
// bytes are the channels of the taps around it, read where they lie. A matrix is one with images of one position.

#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

namespace graphopt::int8 {

constexpr int kStep = 128;   // bytes of a row in one step of the loop over the sum
constexpr int kPairWidth = 256;  // columns of a tile of a pair of blocks
constexpr int kChunk = 16;   // bytes of a copy: channels of a tap are a multiple of it

struct Product {
  const int8_t* x = nullptr;         // [batch][height][width][x_step]; 16-byte aligned, as is x_step
  const int8_t* w = nullptr;         // [groups][columns][depth], zero behind taps * channels; taps, then channels
  const int8_t* w_tiles = nullptr;   // for pairs of blocks; see pair_weights
  const float* scale = nullptr;      // [groups * columns]
  const int32_t* bias = nullptr;     // the same; holds what the zero point of x adds
  const int8_t* residual = nullptr;  // as y, or null
  int8_t* y = nullptr;               // [rows][groups * columns], or [batch][groups * columns][positions] if `planes`
  int batch = 1, height = 1, width = 1, out_height = 1, out_width = 1;
  int channels = 0;  // of a group, a multiple of 16
  int x_step = 0;    // bytes from a position to the next; groups lie `channels` apart
  int groups = 1, columns = 0;
  int kernel_height = 1, kernel_width = 1, pad_top = 0, pad_left = 0;
  int stride_height = 1, stride_width = 1, dilation_height = 1, dilation_width = 1;
  int depth = 0;      // a multiple of 128
  int rows = 0;       // batch * out_height * out_width
  uint32_t zero = 0;  // four times the zero point of x: what padding holds
  bool planes = false;
  float low = -128, high = 127;  // bounds before y_zero_point is added
  int y_zero_point = 0, residual_zero_point = 0;
  float residual_scale = 1;
};

// Copies x so that a product can read it: [batch][positions][groups * channels] or planes of it, to
// [batch][positions][groups][wide], zero behind the channels of a group.
struct Rearrange {
  const int8_t* x = nullptr;
  int8_t* to = nullptr;
  int batch = 0, positions = 0, groups = 1, channels = 0, wide = 0;
  bool planes = false;
};

// A convolution with few channels a group: a thread a number of y. The weights are [taps][channels][groups * columns].
struct Direct {
  Product product;  // but for w, depth and x_step
  int x_position = 0, x_channel = 0;  // steps from a position, or a channel of x, to the next
  int64_t x_image = 0;
};

// The shapes of tiles: rows x columns of y that a block computes. "Wide" ones use wgmma.
enum TileShape : int { kTile64x64 = 0, kTile128x128 = 1, kWide128x64 = 2, kWide128x128 = 3, kWide128x256 = 4, kPair128x256 = 5, kTiles = 6 };

// Which tile to take on a device of `processors` multiprocessors; `wide`: it is an sm_90 that has its own code.
inline int choose_tile(int64_t rows, int64_t columns, int64_t groups, int processors, bool wide) {
  const auto blocks = [&](int64_t height, int64_t width) {
    return (rows + height - 1) / height * ((columns + width - 1) / width) * groups;
  };
  if (wide) {
    if (columns > 128 && blocks(128, 256) >= processors) return kWide128x256;
    if (columns > 64 && blocks(128, 128) >= processors) return kWide128x128;
    if (blocks(128, 64) >= processors) return kWide128x64;
    return kTile64x64;
  }
  return columns > 64 && blocks(128, 128) >= processors ? kTile128x128 : kTile64x64;
}

// Weights [groups][columns][depth] in the order in which pairs of blocks fetch them:
// [groups][tiles of 256 columns][steps][256][128], the pieces of a row exchanged as in shared memory, zero where there is
// no column.
inline std::vector<int8_t> pair_weights(const int8_t* w, int64_t groups, int64_t columns, int64_t depth) {
  const int64_t tiles = (columns + kPairWidth - 1) / kPairWidth, steps = depth / kStep;
  std::vector<int8_t> packed(groups * tiles * steps * kPairWidth * kStep, 0);
  for (int64_t group = 0; group < groups; ++group) {
    for (int64_t n = 0; n < columns; ++n) {
      const int8_t* row = w + (group * columns + n) * depth;
      const int64_t tile = group * tiles + n / kPairWidth, line = n % kPairWidth;
      for (int64_t step = 0; step < steps; ++step) {
        int8_t* to = packed.data() + ((tile * steps + step) * kPairWidth + line) * kStep;
        for (int64_t piece = 0; piece < kStep / kChunk; ++piece) {
          const int8_t* from = row + step * kStep + piece * kChunk;
          std::copy(from, from + kChunk, to + (piece ^ (line & 7)) * kChunk);
        }
      }
    }
  }
  return packed;
}

}  // namespace graphopt::int8

extern "C" {
// 1 where the tiles of wgmma were compiled.
int graphopt_cuda_int8_has_wide();
int graphopt_cuda_int8_product(const graphopt::int8::Product* product, int tile, void* stream);
// Needs w_tiles, and a device for which `has_wide` holds.
int graphopt_cuda_int8_pair(const graphopt::int8::Product* product, void* stream);
int graphopt_cuda_int8_rearrange(const graphopt::int8::Rearrange* rearrange, void* stream);
int graphopt_cuda_int8_direct(const graphopt::int8::Direct* direct, void* stream);
}
