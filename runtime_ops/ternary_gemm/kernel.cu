// TernaryGemm on the GPU: int8 tensor cores. The codes stay packed in memory and become bytes on their way into shared
// memory; float activations are quantized on theirs. A block makes a tile of y, 64 columns a step, the next step's
// numbers on their way while this one's are multiplied.
//
// Tensor cores take signed bytes: unsigned ones lose 128, and so does their zero point z.
//   sum (a - z) w = sum a w - z sum w, with sum w counted by the threads that decode w.

#include "problem.h"
#include "tensor_cores.h"

namespace graphopt {
namespace ternary {
namespace {

using gpu::load_matrices;
using gpu::multiply;
using gpu::shared_address;

#if defined(GRAPHOPT_EMULATED)

inline uint32_t permuted(uint32_t low, uint32_t high, uint32_t selector) {
  uint32_t result = 0;
  for (int i = 0; i < 4; ++i) {
    const uint32_t which = selector >> (4 * i) & 7;
    result |= ((which < 4 ? low >> (8 * which) : high >> (8 * (which - 4))) & 255) << (8 * i);
  }
  return result;
}
inline int added_up(uint32_t four, int sum) {
  for (int i = 0; i < 4; ++i) sum += static_cast<int8_t>(four >> (8 * i));
  return sum;
}
inline float times(float a, float b) { return a * b; }
inline float plus(float a, float b) { return a + b; }
inline float over(float a, float b) { return a / b; }

#else

// Byte i is the one that nibble i of the selector names, of the eight of both words.
__device__ __forceinline__ uint32_t permuted(uint32_t low, uint32_t high, uint32_t selector) {
  return __byte_perm(low, high, selector);
}
// The sum of four signed bytes and another.
__device__ __forceinline__ int added_up(uint32_t four, int sum) {
  return __dp4a(static_cast<int>(four), 0x01010101, sum);
}
// Rounded one after the other, as the definition does it.
__device__ __forceinline__ float times(float a, float b) { return __fmul_rn(a, b); }
__device__ __forceinline__ float plus(float a, float b) { return __fadd_rn(a, b); }
__device__ __forceinline__ float over(float a, float b) { return __fdiv_rn(a, b); }

#endif

constexpr int kThreads = 128;
constexpr int kWidth = 64;   // outputs of a block
constexpr int kDepth = 64;   // columns of a step
constexpr int kPitch = 80;   // bytes from row to row in shared memory: eight rows of 16 bytes meet every bank once
constexpr int kShare = kWidth * kDepth / kThreads;  // weights of a step that a thread decodes

struct alignas(16) Sixteen {
  uint32_t word[4];
};
struct alignas(16) FourFloats {
  float at[4];
};
struct alignas(8) Eight {
  uint32_t word[2];
};

// Steps of four columns of a row of x, as signed bytes.
struct Reader {
  const Product& p;
  float step, low, high;
  int zero;  // of the signed bytes

  __device__ explicit Reader(const Product& problem) : p(problem) {
    const auto byte = *static_cast<const uint8_t*>(p.zero);
    zero = p.unsigned_zero ? static_cast<int>(byte) - 128 : static_cast<int>(static_cast<int8_t>(byte));
    step = *p.step;
    low = static_cast<float>(-128 - zero);
    high = static_cast<float>(127 - zero);
  }

  __device__ uint32_t quantized(float x) const {
    const float bounded = fminf(fmaxf(over(x, step), low), high);
    return static_cast<uint32_t>(static_cast<int>(rintf(bounded)) + zero) & 255u;
  }

  // Words columns at a time from column `k` of a row on; zeros outside.
  template <int Words>
  __device__ void read(int64_t row, int64_t k, uint32_t (&to)[Words]) const {
    const uint32_t flip = p.activation == kAsUint8 ? 0x80808080u : 0;
    for (int i = 0; i < Words; ++i) to[i] = 0;
    if (row >= p.rows || k >= p.columns) return;
    const int64_t first = row * p.columns + k;
    if (p.activation == kAsFloat) {
      const float* x = static_cast<const float*>(p.x) + first;
#pragma unroll
      for (int i = 0; i < Words; ++i) {
        if (p.wide_x && k + 4 * i + 4 <= p.columns) {
          const FourFloats four = *reinterpret_cast<const FourFloats*>(x + 4 * i);
          for (int j = 0; j < 4; ++j) to[i] |= quantized(four.at[j]) << (8 * j);
        } else {
          for (int j = 0; j < 4; ++j) {
            if (k + 4 * i + j < p.columns) to[i] |= quantized(x[4 * i + j]) << (8 * j);
          }
        }
      }
      return;
    }
    const uint8_t* x = static_cast<const uint8_t*>(p.x) + first;
    if (Words % 4 == 0 && p.wide_x && k + 4 * Words <= p.columns) {
#pragma unroll
      for (int i = 0; i < Words / 4; ++i) {
        const Sixteen part = *reinterpret_cast<const Sixteen*>(x + 16 * i);
        for (int j = 0; j < 4; ++j) to[4 * i + j] = part.word[j] ^ flip;
      }
      return;
    }
    if (Words == 2 && p.wide_x && k + 8 <= p.columns) {
      const Eight part = *reinterpret_cast<const Eight*>(x);
      for (int i = 0; i < Words; ++i) to[i] = part.word[i % 2] ^ flip;
      return;
    }
#pragma unroll
    for (int i = 0; i < Words; ++i) {
      for (int j = 0; j < 4; ++j) {
        if (k + 4 * i + j < p.columns) to[i] |= static_cast<uint32_t>(x[4 * i + j]) << (8 * j);
      }
      to[i] ^= flip;  // columns outside meet weights of zero
    }
  }
};

// Codes of `kShare` columns of an output, and the bytes that they stand for.
template <int Bits>
struct Decoder {
  static constexpr int kBytes = kShare * Bits / 8;
  uint32_t levels[4];

  __device__ explicit Decoder(const int8_t* given) {
    for (int i = 0; i < 4; ++i) levels[i] = 0;
    for (int i = 0; i < 1 << Bits; ++i) {
      levels[i / 4] |= static_cast<uint32_t>(static_cast<uint8_t>(given[i])) << (8 * (i % 4));
    }
  }

  __device__ static void read(const Product& p, int64_t output, int64_t k, uint32_t (&to)[kBytes / 4]) {
    for (int i = 0; i < kBytes / 4; ++i) to[i] = 0;
    const int64_t first = k * Bits / 8;
    if (output >= p.outputs || first >= p.bytes) return;
    const uint8_t* codes = p.codes + output * p.bytes + first;
    if (p.wide_codes && first + kBytes <= p.bytes) {
#pragma unroll
      for (int i = 0; i < kBytes / 8; ++i) {
        const Eight part = *reinterpret_cast<const Eight*>(codes + 8 * i);
        to[2 * i] = part.word[0];
        to[2 * i + 1] = part.word[1];
      }
      return;
    }
    for (int i = 0; i < kBytes; ++i) {
      if (first + i < p.bytes) to[i / 4] |= static_cast<uint32_t>(codes[i]) << (8 * (i % 4));
    }
  }

  // The weights of four columns: number `i` of those that were read.
  __device__ uint32_t four(const uint32_t (&codes)[kBytes / 4], int i) const {
    if (Bits == 2) {
      const uint32_t byte = codes[i / 4] >> (8 * (i % 4));
      const uint32_t nibbles = (byte & 3u) | (byte & 12u) << 2 | (byte & 48u) << 4 | (byte & 192u) << 6;
      return permuted(levels[0], 0, nibbles);
    }
    const uint32_t nibbles = codes[i / 2] >> (16 * (i % 2)) & 0xffffu;
    const uint32_t lower = permuted(levels[0], levels[1], nibbles & 0x7777u);
    const uint32_t upper = permuted(levels[2], levels[3], nibbles & 0x7777u);
    const uint32_t which = permuted(0x0000ff00u, 0, nibbles >> 3 & 0x1111u);
    return (lower & ~which) | (upper & which);
  }
};

// What of a word of four columns from `k` on lies inside.
__device__ __forceinline__ uint32_t inside(uint32_t word, int64_t k, int64_t columns) {
  if (k + 4 <= columns) return word;
  return k >= columns ? 0 : word & ((1u << (8 * static_cast<int>(columns - k))) - 1);
}

// Height: rows of a block, 64 or 16.
template <int Height, int Bits>
__global__ void __launch_bounds__(kThreads) product(const Product p) {
  constexpr int kWarpsDown = Height / 32 > 0 ? Height / 32 : 1, kWarpsAcross = 4 / kWarpsDown;
  constexpr int kDown = Height / kWarpsDown / 16, kAcross = kWidth / kWarpsAcross / 8;  // pieces of 16 x 8 of a warp
  constexpr int kWords = Height * kDepth / kThreads / 4;  // of x that a thread reads for a step
  constexpr int kLanes = kDepth / 4 / kWords;             // threads that share a row of x
  constexpr int kStage = (Height + kWidth) * kPitch;
  GRAPHOPT_SHARED(shared);
  const int thread = static_cast<int>(threadIdx.x), lane = thread % 32, warp = thread / 32;
  const int64_t first_row = static_cast<int64_t>(blockIdx.x) * Height;
  const int64_t first_output = static_cast<int64_t>(blockIdx.y) * kWidth;
  const Reader reader(p);
  const Decoder<Bits> decoder(p.levels);

  const int x_row = thread / kLanes, x_k = thread % kLanes * kWords * 4;
  const int w_row = thread / 2, w_k = thread % 2 * kShare;
  uint32_t x_next[kWords], w_next[Decoder<Bits>::kBytes / 4];
  int weights = 0;  // sum of those that this thread decodes
  const auto fetch = [&](int64_t k) {
    reader.read(first_row + x_row, k + x_k, x_next);
    Decoder<Bits>::read(p, first_output + w_row, k + w_k, w_next);
  };
  const auto put = [&](int64_t k, unsigned char* stage) {
    auto* x = reinterpret_cast<uint32_t*>(stage + x_row * kPitch + x_k);
#pragma unroll
    for (int i = 0; i < kWords; ++i) x[i] = x_next[i];
    auto* w = reinterpret_cast<uint32_t*>(stage + (Height + w_row) * kPitch + w_k);
#pragma unroll
    for (int i = 0; i < kShare / 4; ++i) {
      const uint32_t four = inside(decoder.four(w_next, i), k + w_k + 4 * i, p.columns);
      weights = added_up(four, weights);
      w[i] = four;
    }
  };

  int sums[kDown][kAcross][4];
  for (int i = 0; i < kDown; ++i) {
    for (int j = 0; j < kAcross; ++j) {
      for (int k = 0; k < 4; ++k) sums[i][j][k] = 0;
    }
  }
  const int row = warp % kWarpsDown * kDown * 16, output = warp / kWarpsDown * kAcross * 8;  // of this warp
  if (p.columns > 0) {
    fetch(0);
    put(0, shared);
  }
  int stage = 0;
  for (int64_t k = 0; k < p.columns; k += kDepth, stage ^= 1) {
    __syncthreads();  // this stage is written, and nobody reads the other one any more
    const bool more = k + kDepth < p.columns;
    if (more) fetch(k + kDepth);
    const uint32_t base = shared_address(shared) + stage * kStage;
#pragma unroll
    for (int part = 0; part < kDepth; part += 32) {
      uint32_t x[kDown][4];
#pragma unroll
      for (int i = 0; i < kDown; ++i) {
        load_matrices(base + (row + 16 * i + lane % 16) * kPitch + part + lane / 16 * 16, x[i]);
      }
#pragma unroll
      for (int j = 0; j < kAcross; j += 2) {
        uint32_t w[4];  // two pieces of 8 outputs
        load_matrices(base + (Height + output + 8 * j + lane / 16 * 8 + lane % 8) * kPitch + part + lane / 8 % 2 * 16, w);
#pragma unroll
        for (int i = 0; i < kDown; ++i) {
          multiply(sums[i][j], x[i], w[0], w[1]);
          multiply(sums[i][j + 1], x[i], w[2], w[3]);
        }
      }
    }
    if (more) put(k + kDepth, shared + (stage ^ 1) * kStage);
  }

  __syncthreads();  // the stages are free
  auto* totals = reinterpret_cast<int*>(shared);
  totals[thread] = weights;
  __syncthreads();
#pragma unroll
  for (int j = 0; j < kAcross; ++j) {
#pragma unroll
    for (int side = 0; side < 2; ++side) {
      const int local = output + 8 * j + lane % 4 * 2 + side;
      const int64_t n = first_output + local;
      if (n >= p.outputs) continue;
      const auto offset = static_cast<uint32_t>(reader.zero) * static_cast<uint32_t>(totals[2 * local] + totals[2 * local + 1]);
      const float factor = times(reader.step, p.scale[n * p.scale_step]), bias = p.bias[n * p.bias_step];
#pragma unroll
      for (int i = 0; i < kDown; ++i) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const int64_t m = first_row + row + 16 * i + lane / 4 + 8 * half;
          if (m >= p.rows) continue;
          const auto sum = static_cast<int>(static_cast<uint32_t>(sums[i][j][2 * half + side]) - offset);
          p.y[m * p.outputs + n] = plus(times(static_cast<float>(sum), factor), bias);
        }
      }
    }
  }
}

template <int Height, int Bits>
int start(const Product& p, void* stream) {
  const dim3 grid(static_cast<unsigned>((p.rows + Height - 1) / Height),
                  static_cast<unsigned>((p.outputs + kWidth - 1) / kWidth));
  return gpu::launch(product<Height, Bits>, grid, kThreads, 2 * (Height + kWidth) * kPitch, stream, p);
}

}  // namespace
}  // namespace ternary
}  // namespace graphopt

extern "C" int graphopt_cuda_ternary_gemm(const graphopt::ternary::Product* problem, void* stream) {
  namespace ternary = graphopt::ternary;
  const ternary::Product& p = *problem;
  if (p.rows == 0 || p.outputs == 0) return 0;
  if (p.rows <= 16) return p.bits == 2 ? ternary::start<16, 2>(p, stream) : ternary::start<16, 4>(p, stream);
  return p.bits == 2 ? ternary::start<64, 2>(p, stream) : ternary::start<64, 4>(p, stream);
}
