// TernaryGemm's inner loop with VNNI: 64 products of bytes an instruction. Weights are decoded in registers, for eight
// rows at a time: few rows are bound by how fast weights come from memory, and two bits are a quarter of the bytes; and
// for many rows it is still faster than decoding once into memory, since shuffles and products use different units.

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

// One or two rows have two sums for each, so that one product need not wait for the one before; more fill the registers.
template <int R, int Bits>
GRAPHOPT_AVX512_VNNI void fused_rows(const uint8_t* a, int64_t stride, const uint8_t* packed, int64_t groups,
                                     const Levels& levels, int32_t* sums) {
  constexpr int kEach = 8 / Bits, kAhead = 8;  // groups that are asked for before they are needed
  constexpr int kSums = R <= 2 ? 2 : 1;
  const __m512i low = table(levels.low), high = table(levels.high);
  const __m512i nibble = _mm512_set1_epi8(15);
  __m512i sum[R][kTiles][kSums];
#pragma GCC unroll 8
  for (int row = 0; row < R; ++row) {
#pragma GCC unroll 3
    for (int tile = 0; tile < kTiles; ++tile) {
      for (int i = 0; i < kSums; ++i) sum[row][tile][i] = _mm512_setzero_si512();
    }
  }
  for (int64_t group = 0; group < groups; ++group, packed += kStep, a += 4 * kEach) {
#pragma GCC unroll 3
    for (int tile = 0; tile < kTiles; ++tile) __builtin_prefetch(packed + kAhead * kStep + 64 * tile);
#pragma GCC unroll 4
    for (int step = 0; step < kEach; ++step) {
      __m512i w[kTiles];
#pragma GCC unroll 3
      for (int tile = 0; tile < kTiles; ++tile) {
        __m512i bytes = _mm512_loadu_si512(packed + 64 * tile);
        if (step >= kEach / 2) bytes = _mm512_srli_epi16(bytes, 4);
        w[tile] = _mm512_shuffle_epi8(step % (kEach / 2) == 0 ? low : high, _mm512_and_si512(bytes, nibble));
      }
#pragma GCC unroll 8
      for (int row = 0; row < R; ++row) {
        const __m512i value = broadcast(a + row * stride + 4 * step);
#pragma GCC unroll 3
        for (int tile = 0; tile < kTiles; ++tile) {
          __m512i& to = sum[row][tile][step % kSums];
          to = _mm512_dpbusd_epi32(to, value, w[tile]);
        }
      }
      asm volatile("" ::: "memory");  // bytes are read again for the next step: there is no register for them
    }
  }
#pragma GCC unroll 8
  for (int row = 0; row < R; ++row) {
#pragma GCC unroll 3
    for (int tile = 0; tile < kTiles; ++tile) {
      __m512i total = sum[row][tile][0];
      if (kSums == 2) total = _mm512_add_epi32(total, sum[row][tile][kSums - 1]);
      _mm512_storeu_si512(sums + row * kOutputs + 16 * tile, total);
    }
  }
}

void fused(const uint8_t* a, int64_t stride, int rows, const uint8_t* packed, int64_t groups, int bits,
           const Levels& levels, int32_t* sums) {
  using Rows = void (*)(const uint8_t*, int64_t, const uint8_t*, int64_t, const Levels&, int32_t*);
  static constexpr Rows kTwo[] = {fused_rows<1, 2>, fused_rows<2, 2>, fused_rows<3, 2>, fused_rows<4, 2>,
                                  fused_rows<5, 2>, fused_rows<6, 2>, fused_rows<7, 2>, fused_rows<8, 2>};
  static constexpr Rows kFour[] = {fused_rows<1, 4>, fused_rows<2, 4>, fused_rows<3, 4>, fused_rows<4, 4>,
                                   fused_rows<5, 4>, fused_rows<6, 4>, fused_rows<7, 4>, fused_rows<8, 4>};
  (bits == 2 ? kTwo : kFour)[rows - 1](a, stride, packed, groups, levels, sums);
}

GRAPHOPT_AVX512_VNNI void finish(const int32_t* sums, const int32_t* offset, const float* factor, const float* bias,
                                 int count, float* y) {
  for (int i = 0; i < count; i += 16) {
    const auto mask = static_cast<__mmask16>(count - i >= 16 ? 0xffff : (1u << (count - i)) - 1);
    const __m512i sum = _mm512_sub_epi32(_mm512_loadu_si512(sums + i), _mm512_loadu_si512(offset + i));
    __m512 product = _mm512_mul_ps(_mm512_cvtepi32_ps(sum), _mm512_loadu_ps(factor + i));
    asm("" : "+v"(product));  // or the compiler joins it with the sum, which the definition rounds apart
    _mm512_mask_storeu_ps(y + i, mask, _mm512_add_ps(product, _mm512_loadu_ps(bias + i)));
  }
}

}  // namespace

const Kernels& vnni() {
  static const Kernels kernels{nullptr, nullptr, fused, avx2().quantize, finish};
  return kernels;
}
#else
const Kernels& vnni() { return portable(); }
#endif

}  // namespace ternary
}  // namespace graphopt
