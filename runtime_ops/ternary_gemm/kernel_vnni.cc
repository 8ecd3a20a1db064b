// TernaryGemm's inner loops with VNNI: 64 products of bytes an instruction. Few rows are bound by how fast weights come
// from memory, so they are decoded in registers, a quarter of the bytes; for many they are decoded once and stay in L2.

#include "tiles.h"
#include "cpu.h"

#if defined(GRAPHOPT_X86)
#include <immintrin.h>
#endif

namespace graphopt {
namespace ternary {

#if defined(GRAPHOPT_X86)
namespace {

GRAPHOPT_AVX512_VNNI inline __m512i table(const int8_t* levels) {
  return _mm512_maskz_broadcast_i32x4(0xffff,  // plain broadcasts warn in g++ 12
                                      _mm_load_si128(reinterpret_cast<const __m128i*>(levels)));
}

GRAPHOPT_AVX512_VNNI inline __m512i broadcast(const uint8_t* four) {
  int32_t value;
  __builtin_memcpy(&value, four, 4);
  return _mm512_set1_epi32(value);
}

// Four steps (two, if they have four bits each) of a tile.
template <int Bits>
GRAPHOPT_AVX512_VNNI inline void decoded(const uint8_t* packed, __m512i low, __m512i high, __m512i (&steps)[8 / Bits]) {
  const __m512i nibble = _mm512_set1_epi8(15);
  const __m512i bytes = _mm512_loadu_si512(packed);
  const __m512i lower = _mm512_and_si512(bytes, nibble);
  const __m512i upper = _mm512_and_si512(_mm512_srli_epi16(bytes, 4), nibble);
  if constexpr (Bits == 2) {
    steps[0] = _mm512_shuffle_epi8(low, lower);
    steps[1] = _mm512_shuffle_epi8(high, lower);
    steps[2] = _mm512_shuffle_epi8(low, upper);
    steps[3] = _mm512_shuffle_epi8(high, upper);
  } else {
    steps[0] = _mm512_shuffle_epi8(low, lower);
    steps[1] = _mm512_shuffle_epi8(low, upper);
  }
}

template <int Bits>
GRAPHOPT_AVX512_VNNI void decode_all(const uint8_t* packed, int64_t groups, const Levels& levels, int8_t* out) {
  const __m512i low = table(levels.low), high = table(levels.high);
  constexpr int kEach = 8 / Bits;
  for (int64_t group = 0; group < groups; ++group, packed += kStep, out += kStep * kEach) {
    for (int tile = 0; tile < kTiles; ++tile) {
      __m512i steps[kEach];
      decoded<Bits>(packed + 64 * tile, low, high, steps);
      for (int step = 0; step < kEach; ++step) _mm512_storeu_si512(out + step * kStep + 64 * tile, steps[step]);
    }
  }
}

void decode(const uint8_t* packed, int64_t groups, int bits, const Levels& levels, int8_t* out) {
  bits == 2 ? decode_all<2>(packed, groups, levels, out) : decode_all<4>(packed, groups, levels, out);
}

template <int R>
GRAPHOPT_AVX512_VNNI void rows_of(const uint8_t* a, int64_t stride, const int8_t* weights, int64_t steps,
                                  int32_t* sums) {
  __m512i sum[R][kTiles];
#pragma GCC unroll 8
  for (int row = 0; row < R; ++row) {
#pragma GCC unroll 3
    for (int tile = 0; tile < kTiles; ++tile) sum[row][tile] = _mm512_setzero_si512();
  }
  for (int64_t step = 0; step < steps; ++step, weights += kStep, a += 4) {
    __m512i w[kTiles];
#pragma GCC unroll 3
    for (int tile = 0; tile < kTiles; ++tile) w[tile] = _mm512_loadu_si512(weights + 64 * tile);
#pragma GCC unroll 8
    for (int row = 0; row < R; ++row) {
      const __m512i value = broadcast(a + row * stride);
#pragma GCC unroll 3
      for (int tile = 0; tile < kTiles; ++tile) sum[row][tile] = _mm512_dpbusd_epi32(sum[row][tile], value, w[tile]);
    }
  }
#pragma GCC unroll 8
  for (int row = 0; row < R; ++row) {
#pragma GCC unroll 3
    for (int tile = 0; tile < kTiles; ++tile) _mm512_storeu_si512(sums + row * kOutputs + 16 * tile, sum[row][tile]);
  }
}

void multiply(const uint8_t* a, int64_t stride, int rows, const int8_t* weights, int64_t steps, const Levels&,
              int32_t* sums) {
  using Rows = void (*)(const uint8_t*, int64_t, const int8_t*, int64_t, int32_t*);
  static constexpr Rows kBy[kRows + 1] = {nullptr,    rows_of<1>, rows_of<2>, rows_of<3>, rows_of<4>,
                                          rows_of<5>, rows_of<6>, rows_of<7>, rows_of<8>};
  kBy[rows](a, stride, weights, steps, sums);
}

template <int R, int Bits>
GRAPHOPT_AVX512_VNNI void fused_rows(const uint8_t* a, int64_t stride, const uint8_t* packed, int64_t groups,
                                     const Levels& levels, int32_t* sums) {
  constexpr int kEach = 8 / Bits, kAhead = 8;  // groups that are asked for before they are needed
  const __m512i low = table(levels.low), high = table(levels.high);
  __m512i sum[R][kTiles][2];  // two, so that one product need not wait for the one before
#pragma GCC unroll 4
  for (int row = 0; row < R; ++row) {
#pragma GCC unroll 3
    for (int tile = 0; tile < kTiles; ++tile) sum[row][tile][0] = sum[row][tile][1] = _mm512_setzero_si512();
  }
  for (int64_t group = 0; group < groups; ++group, packed += kStep, a += 4 * kEach) {
#pragma GCC unroll 3
    for (int tile = 0; tile < kTiles; ++tile) {
      __builtin_prefetch(packed + kAhead * kStep + 64 * tile);
      __m512i steps[kEach];
      decoded<Bits>(packed + 64 * tile, low, high, steps);
#pragma GCC unroll 4
      for (int step = 0; step < kEach; ++step) {
#pragma GCC unroll 4
        for (int row = 0; row < R; ++row) {
          const __m512i value = broadcast(a + row * stride + 4 * step);
          sum[row][tile][step % 2] = _mm512_dpbusd_epi32(sum[row][tile][step % 2], value, steps[step]);
        }
      }
    }
  }
#pragma GCC unroll 4
  for (int row = 0; row < R; ++row) {
#pragma GCC unroll 3
    for (int tile = 0; tile < kTiles; ++tile) {
      const __m512i total = _mm512_add_epi32(sum[row][tile][0], sum[row][tile][1]);
      _mm512_storeu_si512(sums + row * kOutputs + 16 * tile, total);
    }
  }
}

void fused(const uint8_t* a, int64_t stride, int rows, const uint8_t* packed, int64_t groups, int bits,
           const Levels& levels, int32_t* sums) {
  using Rows = void (*)(const uint8_t*, int64_t, const uint8_t*, int64_t, const Levels&, int32_t*);
  static constexpr Rows kTwo[] = {fused_rows<1, 2>, fused_rows<2, 2>, fused_rows<3, 2>, fused_rows<4, 2>};
  static constexpr Rows kFour[] = {fused_rows<1, 4>, fused_rows<2, 4>, fused_rows<3, 4>, fused_rows<4, 4>};
  (bits == 2 ? kTwo : kFour)[rows - 1](a, stride, packed, groups, levels, sums);
}

}  // namespace

const Kernels& vnni() {
  static const Kernels kernels{decode, multiply, fused, avx2().quantize, avx2().finish};
  return kernels;
}
#else
const Kernels& vnni() { return portable(); }
#endif

}  // namespace ternary
}  // namespace graphopt
