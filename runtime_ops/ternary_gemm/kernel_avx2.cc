// TernaryGemm's inner loops with AVX2. It has no product of bytes that adds up in 32 bits, but levels are small: sums of
// pairs stay in 16 bits for as many steps as the largest level allows (64 for ternary), which saves a third of the work.

#include "tiles.h"
#include "cpu.h"

#if defined(GRAPHOPT_X86)
#include <immintrin.h>
#endif

namespace graphopt {
namespace ternary {

#if defined(GRAPHOPT_X86)
namespace {

GRAPHOPT_AVX2 inline __m256i looked_up(const int8_t* table, __m256i nibbles) {
  const __m256i both = _mm256_broadcastsi128_si256(_mm_load_si128(reinterpret_cast<const __m128i*>(table)));
  return _mm256_shuffle_epi8(both, nibbles);
}

GRAPHOPT_AVX2 inline void store(int8_t* out, __m256i value) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), value);
}

GRAPHOPT_AVX2 void decode(const uint8_t* packed, int64_t groups, int bits, const Levels& levels, int8_t* out) {
  const __m256i nibble = _mm256_set1_epi8(15);
  for (int64_t group = 0; group < groups; ++group, packed += kStep, out += kStep * (8 / bits)) {
    for (int i = 0; i < kStep; i += 32) {
      const __m256i bytes = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(packed + i));
      const __m256i low = _mm256_and_si256(bytes, nibble);
      const __m256i high = _mm256_and_si256(_mm256_srli_epi16(bytes, 4), nibble);
      if (bits == 2) {
        store(out + i, looked_up(levels.low, low));
        store(out + kStep + i, looked_up(levels.high, low));
        store(out + 2 * kStep + i, looked_up(levels.low, high));
        store(out + 3 * kStep + i, looked_up(levels.high, high));
      } else {
        store(out + i, looked_up(levels.low, low));
        store(out + kStep + i, looked_up(levels.low, high));
      }
    }
  }
}

// One tile (16 outputs, two registers) of R rows. `most` steps fit into 16 bits.
template <int R>
GRAPHOPT_AVX2 inline void tile(const uint8_t* a, int64_t stride, const int8_t* weights, int64_t steps, int64_t most,
                               int32_t* sums) {
  const __m256i ones = _mm256_set1_epi16(1);
  __m256i sum[R][2];
  for (int row = 0; row < R; ++row) sum[row][0] = sum[row][1] = _mm256_setzero_si256();
  for (int64_t from = 0; from < steps; from += most) {
    const int64_t to = from + most < steps ? from + most : steps;
    __m256i part[R][2];
    for (int row = 0; row < R; ++row) part[row][0] = part[row][1] = _mm256_setzero_si256();
    for (int64_t step = from; step < to; ++step) {
      const auto* w = reinterpret_cast<const __m256i*>(weights + step * kStep);
      const __m256i first = _mm256_loadu_si256(w), second = _mm256_loadu_si256(w + 1);
      for (int row = 0; row < R; ++row) {
        int32_t four;
        __builtin_memcpy(&four, a + row * stride + 4 * step, 4);
        const __m256i value = _mm256_set1_epi32(four);
        part[row][0] = _mm256_add_epi16(part[row][0], _mm256_maddubs_epi16(value, first));
        part[row][1] = _mm256_add_epi16(part[row][1], _mm256_maddubs_epi16(value, second));
      }
    }
    for (int row = 0; row < R; ++row) {
      for (int half = 0; half < 2; ++half) {
        sum[row][half] = _mm256_add_epi32(sum[row][half], _mm256_madd_epi16(part[row][half], ones));
      }
    }
  }
  for (int row = 0; row < R; ++row) {
    auto* out = reinterpret_cast<__m256i*>(sums + row * kOutputs);
    _mm256_storeu_si256(out, sum[row][0]);
    _mm256_storeu_si256(out + 1, sum[row][1]);
  }
}

// Levels beyond 64: two products may not fit into 16 bits, so that all is widened first.
GRAPHOPT_AVX2 void widened(const uint8_t* a, const int8_t* weights, int64_t steps, int32_t* sums) {
  __m256i sum[4];  // each of four outputs, whose four columns are two sums
  for (auto& one : sum) one = _mm256_setzero_si256();
  for (int64_t step = 0; step < steps; ++step) {
    int32_t four;
    __builtin_memcpy(&four, a + 4 * step, 4);
    const __m256i value = _mm256_cvtepu8_epi16(_mm_set1_epi32(four));
    for (int part = 0; part < 4; ++part) {
      const auto* w = reinterpret_cast<const __m128i*>(weights + step * kStep + 16 * part);
      sum[part] = _mm256_add_epi32(sum[part], _mm256_madd_epi16(value, _mm256_cvtepi8_epi16(_mm_loadu_si128(w))));
    }
  }
  for (int part = 0; part < 4; ++part) {
    alignas(32) int32_t pairs[8];
    _mm256_store_si256(reinterpret_cast<__m256i*>(pairs), sum[part]);
    for (int i = 0; i < 4; ++i) {
      sums[4 * part + i] =
          static_cast<int32_t>(static_cast<uint32_t>(pairs[2 * i]) + static_cast<uint32_t>(pairs[2 * i + 1]));
    }
  }
}

GRAPHOPT_AVX2 void multiply(const uint8_t* a, int64_t stride, int rows, const int8_t* weights, int64_t steps,
                            const Levels& levels, int32_t* sums) {
  const int64_t most = 32767 / (2 * 255 * (levels.most > 0 ? levels.most : 1));
  for (int i = 0; i < kTiles; ++i) {
    int row = 0;
    for (; most > 0 && row + 4 <= rows; row += 4) {
      tile<4>(a + row * stride, stride, weights + 64 * i, steps, most, sums + row * kOutputs + 16 * i);
    }
    for (; row < rows; ++row) {
      int32_t* out = sums + row * kOutputs + 16 * i;
      if (most > 0) {
        tile<1>(a + row * stride, stride, weights + 64 * i, steps, most, out);
      } else {
        widened(a + row * stride, weights + 64 * i, steps, out);
      }
    }
  }
}

GRAPHOPT_AVX2 void quantize(const float* x, int64_t count, float scale, int zero, uint8_t* out) {
  const __m256 unit = _mm256_set1_ps(scale);
  const __m256 lowest = _mm256_set1_ps(static_cast<float>(-zero));
  const __m256 highest = _mm256_set1_ps(static_cast<float>(255 - zero));
  const __m256i origin = _mm256_set1_epi32(zero);
  int64_t i = 0;
  for (; i + 8 <= count; i += 8) {
    const __m256 step = _mm256_div_ps(_mm256_loadu_ps(x + i), unit);
    const __m256 bounded = _mm256_min_ps(_mm256_max_ps(step, lowest), highest);
    const __m256i whole = _mm256_add_epi32(_mm256_cvtps_epi32(bounded), origin);
    const __m128i half = _mm_packus_epi32(_mm256_castsi256_si128(whole), _mm256_extracti128_si256(whole, 1));
    _mm_storel_epi64(reinterpret_cast<__m128i*>(out + i), _mm_packus_epi16(half, half));
  }
  if (i < count) portable().quantize(x + i, count - i, scale, zero, out + i);
}

// Without FMA: the compiler may not join a product and a sum that the definition rounds one after the other.
__attribute__((target("avx2"))) void finish(const int32_t* sums, const int32_t* offset, const float* factor,
                                            const float* bias, int count, float* y) {
  int i = 0;
  for (; i + 8 <= count; i += 8) {
    const __m256i sum = _mm256_sub_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(sums + i)),
                                         _mm256_loadu_si256(reinterpret_cast<const __m256i*>(offset + i)));
    const __m256 product = _mm256_mul_ps(_mm256_cvtepi32_ps(sum), _mm256_loadu_ps(factor + i));
    _mm256_storeu_ps(y + i, _mm256_add_ps(product, _mm256_loadu_ps(bias + i)));
  }
  if (i < count) portable().finish(sums + i, offset + i, factor + i, bias + i, count - i, y + i);
}

}  // namespace

const Kernels& avx2() {
  static const Kernels kernels{decode, multiply, nullptr, quantize, finish};
  return kernels;
}
#else
const Kernels& avx2() { return portable(); }
#endif

}  // namespace ternary
}  // namespace graphopt
