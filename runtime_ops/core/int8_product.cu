// Int8 products on tensor cores, as convolutions over NHWC, with requantization fused; see int8_cuda.h.
//
// A block computes a tile of y. It walks over the sum in steps of 128 bytes: rows of x (gathered from the taps) and rows
// of w are copied to shared memory asynchronously, several steps ahead, and multiplied there. A row of 128 bytes holds
// its eight 16-byte pieces exchanged by the row's number modulo 8, so that neither the copies nor `ldmatrix` meet in a
// bank, and as `wgmma` expects it. At the end the tile of int8 results goes through shared memory, for whole lines.

#include "int8_tile.h"

namespace graphopt::int8 {
namespace {

using Tile64x64 = Tile<64, 64, 32, 32, 4, false>;
using Tile128x128 = Tile<128, 128, 64, 32, 3, false>;
using Wide128x64 = Tile<128, 64, 16, 64, 4, true>;
using Wide128x128 = Tile<128, 128, 16, 128, 3, true>;
using Wide128x256 = Tile<128, 256, 16, 256, 4, true>;

template <class T>
__device__ __forceinline__ void run(const Product& p, unsigned char* shared) {
  const int first_row = blockIdx.x * T::height, first_column = blockIdx.y * T::width, group = blockIdx.z;
  const uint32_t base = (shared_address(shared) + 1023) & ~1023u;
  unsigned char* results = shared + (base - shared_address(shared));
  const int total = p.kernel_height * p.kernel_width * p.channels, steps = (total + kStep - 1) / kStep;

  Images<T> images;
  Filters<T> filters;
  images.begin(p, first_row);
  filters.begin(p, first_column, group);
#pragma unroll
  for (int s = 0; s < T::ahead; ++s) {
    if (s < steps) {
      images.step(p, group, base + s * T::stage_bytes);
      filters.step(base + s * T::stage_bytes);
    }
    copies_commit();
  }
  int sums[T::down][T::across][4];
  clear<T>(sums);
  int stage = 0, free_stage = T::ahead;
  for (int s = 0; s < steps; ++s) {
    copies_wait<T::ahead - 1>();
#if defined(GRAPHOPT_WGMMA)
    if (T::wide) publish();
#endif
    __syncthreads();  // this step's copies have come, and what read the free stage has ended
    const uint32_t here = base + stage * T::stage_bytes;
#if defined(GRAPHOPT_WGMMA)
    if constexpr (T::wide) multiply_step_wide<T>(sums, here, s == 0);
#endif
    if (s + T::ahead < steps) {
      images.step(p, group, base + free_stage * T::stage_bytes);
      filters.step(base + free_stage * T::stage_bytes);
    }
    copies_commit();
    if constexpr (T::wide) {
#if defined(GRAPHOPT_WGMMA)
      group_wait<1>();
#endif
    } else {
      multiply_step<T>(sums, here, total - s * kStep);
    }
    stage = stage + 1 == T::stages ? 0 : stage + 1;
    free_stage = free_stage + 1 == T::stages ? 0 : free_stage + 1;
  }
#if defined(GRAPHOPT_WGMMA)
  if constexpr (T::wide) {
    group_wait<0>();
    settle(sums[0]);
  }
#endif
  copies_wait<0>();
  __syncthreads();  // nothing reads or writes the stages any more
  finish<T>(p, sums, results, first_row, first_column, group);
}

template <class T>
__global__ void __launch_bounds__(T::threads) product(const __grid_constant__ Product p) {
  GRAPHOPT_SHARED(shared);
#if !defined(GRAPHOPT_WGMMA)
  if constexpr (T::wide) return;  // never launched: choose_tile
#endif
  run<T>(p, shared);
}

// 64 channels by 64 positions through shared memory, where x has planes.
constexpr int kSquare = 64;

__global__ void __launch_bounds__(256) rearrange(const __grid_constant__ Rearrange p) {
  const int all = p.groups * p.channels, wide_all = p.groups * p.wide;
  const int image = blockIdx.z, first = blockIdx.x * kSquare, first_wide = blockIdx.y * kSquare;
  const int8_t* x = p.x + static_cast<int64_t>(image) * p.positions * all;
  int8_t* to = p.to + static_cast<int64_t>(image) * p.positions * wide_all;
  GRAPHOPT_SHARED(shared);
  constexpr int kRow = kSquare + 4;
  for (int i = threadIdx.x; i < kSquare * kSquare; i += 256) {
    // Neighbours read neighbours.
    const int place = p.planes ? i % kSquare : i / kSquare, channel = p.planes ? i / kSquare : i % kSquare;
    const int position = first + place, c = first_wide + channel;
    const int group = c / p.wide, inside = c % p.wide;
    int8_t value = 0;
    if (position < p.positions && c < wide_all && inside < p.channels) {
      const int from = group * p.channels + inside;
      value = x[p.planes ? static_cast<int64_t>(from) * p.positions + position
                         : static_cast<int64_t>(position) * all + from];
    }
    shared[place * kRow + channel] = static_cast<unsigned char>(value);
  }
  __syncthreads();
  // All sizes are multiples of 4: channels of a group are padded to 16.
  for (int i = threadIdx.x; i < kSquare * kSquare / 4; i += 256) {
    const int place = i / (kSquare / 4), channel = i % (kSquare / 4) * 4;
    if (first + place < p.positions && first_wide + channel < wide_all) {
      *reinterpret_cast<uint32_t*>(to + static_cast<int64_t>(first + place) * wide_all + first_wide + channel) =
          *reinterpret_cast<const uint32_t*>(shared + place * kRow + channel);
    }
  }
}

__global__ void __launch_bounds__(256) direct(const __grid_constant__ Direct d) {
  const Product& p = d.product;
  const int all = p.groups * p.columns, positions = p.out_height * p.out_width;
  const int64_t count = static_cast<int64_t>(p.rows) * all;
  const int zero = static_cast<int8_t>(p.zero & 0xFF);
  for (int64_t at = static_cast<int64_t>(blockIdx.x) * 256 + threadIdx.x; at < count;
       at += static_cast<int64_t>(gridDim.x) * 256) {
    // Neighbours write neighbours.
    const int n = static_cast<int>(p.planes ? at / positions % all : at % all);
    const int position = static_cast<int>(p.planes ? at % positions : at / all % positions);
    const int64_t image = at / (static_cast<int64_t>(all) * positions);
    const int top = position / p.out_width * p.stride_height - p.pad_top;
    const int left = position % p.out_width * p.stride_width - p.pad_left;
    const int8_t* x = p.x + image * d.x_image + static_cast<int64_t>(n / p.columns * p.channels) * d.x_channel;
    const int8_t* w = p.w + n;
    int sum = 0;
    for (int r = 0; r < p.kernel_height; ++r) {
      const int h = top + r * p.dilation_height;
      for (int s = 0; s < p.kernel_width; ++s) {
        const int c = left + s * p.dilation_width;
        const bool there = static_cast<unsigned>(h) < static_cast<unsigned>(p.height) &&
                           static_cast<unsigned>(c) < static_cast<unsigned>(p.width);
        const int8_t* from = x + (static_cast<int64_t>(h) * p.width + c) * d.x_position;
        for (int k = 0; k < p.channels; ++k, w += all) {
          sum += (there ? from[static_cast<int64_t>(k) * d.x_channel] : zero) * *w;
        }
      }
    }
    p.y[at] = requantize(sum, p.scale[n], p.bias[n], p.residual != nullptr, p.residual == nullptr ? 0 : p.residual[at], p);
  }
}

template <class T>
int start(const Product& p, void* stream) {
  const dim3 grid((p.rows + T::height - 1) / T::height, (p.columns + T::width - 1) / T::width, p.groups);
  return launch(product<T>, grid, T::threads, T::bytes, stream, p);
}

}  // namespace
}  // namespace graphopt::int8

using graphopt::int8::Direct;
using graphopt::int8::Product;
using graphopt::int8::Rearrange;

extern "C" int graphopt_cuda_int8_has_wide() {
#if defined(GRAPHOPT_SM90A)
  return 1;
#else
  return 0;
#endif
}

extern "C" int graphopt_cuda_int8_product(const Product* p, int tile, void* stream) {
  namespace int8 = graphopt::int8;
  if (p->rows == 0 || p->columns == 0) return 0;
  switch (tile) {
    case int8::kTile128x128:
      return int8::start<int8::Tile128x128>(*p, stream);
    case int8::kWide128x64:
      return int8::start<int8::Wide128x64>(*p, stream);
    case int8::kWide128x128:
      return int8::start<int8::Wide128x128>(*p, stream);
    case int8::kWide128x256:
      return int8::start<int8::Wide128x256>(*p, stream);
    default:
      return int8::start<int8::Tile64x64>(*p, stream);
  }
}

extern "C" int graphopt_cuda_int8_rearrange(const Rearrange* r, void* stream) {
  namespace int8 = graphopt::int8;
  if (r->batch == 0 || r->positions == 0) return 0;
  const dim3 grid((r->positions + int8::kSquare - 1) / int8::kSquare,
                  (r->groups * r->wide + int8::kSquare - 1) / int8::kSquare, r->batch);
  return graphopt::gpu::launch(int8::rearrange, grid, 256, int8::kSquare * (int8::kSquare + 4), stream, *r);
}

extern "C" int graphopt_cuda_int8_direct(const Direct* d, void* stream) {
  namespace int8 = graphopt::int8;
  const int64_t count = static_cast<int64_t>(d->product.rows) * d->product.groups * d->product.columns;
  if (count == 0) return 0;
  const int64_t blocks = (count + 255) / 256;
  return graphopt::gpu::launch(int8::direct, dim3(static_cast<unsigned>(blocks < 65536 ? blocks : 65536)), 256, 0,
                               stream, *d);
}

#if !defined(GRAPHOPT_EMULATED)
extern "C" int graphopt_cuda_int8_processors(int* processors, int* capability) {
  int device = 0, major = 0, minor = 0;
  cudaError_t error = cudaGetDevice(&device);
  if (error == cudaSuccess) error = cudaDeviceGetAttribute(processors, cudaDevAttrMultiProcessorCount, device);
  if (error == cudaSuccess) error = cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
  if (error == cudaSuccess) error = cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device);
  *capability = major * 10 + minor;
  return error;
}
#endif
