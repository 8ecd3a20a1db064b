// The inner loops of binary products: xor and population count, for the newest processors, for AVX2, and for any.

#include "binary.h"
#include "cpu.h"

#if defined(GRAPHOPT_X86)
#include <immintrin.h>
#endif

namespace graphopt::binary {
namespace {

int64_t ones(Word x) {
#if defined(__aarch64__)
  return __builtin_popcountll(x);  // two instructions there; a call of a function on x86-64 without extensions
#endif
  x -= (x >> 1) & 0x5555555555555555;
  x = (x & 0x3333333333333333) + ((x >> 2) & 0x3333333333333333);
  return static_cast<int64_t>(((x + (x >> 4)) & 0x0f0f0f0f0f0f0f0f) * 0x0101010101010101 >> 56);
}

void portable(const Word* rows, int64_t stride, int64_t count, const Panel& panel, int32_t* out) {
  for (int64_t r = 0; r < count; ++r) {
    int32_t* sums = out + r * kLanes;
    for (int64_t l = 0; l < panel.width; ++l) sums[l] = 0;
    const Word* row = rows + r * stride;
    const Word* column = panel.words;
    for (int64_t tap = 0; tap < panel.taps; ++tap) {
      const uint32_t mask = panel.mask == nullptr ? ~0u : panel.mask[tap];
      for (int64_t k = 0; k < panel.words_per_tap; ++k, ++row, column += panel.width) {
        for (int64_t l = 0; l < panel.width; ++l) {
          const Word counts = Word{0} - (mask >> l & 1);
          sums[l] += static_cast<int32_t>(ones((*row ^ column[l]) & counts));
        }
      }
    }
  }
}

#if defined(GRAPHOPT_X86)

// R rows and V times 8 lanes. Three instructions for 512 places: xor (which takes the mask, too), count, add.
template <int R, int V, bool kMasked>
GRAPHOPT_AVX512_VNNI void tile512(const Word* rows, int64_t stride, const Panel& panel, int32_t* out) {
  __m512i sums[R][V];
#pragma GCC unroll 4
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) sums[r][v] = _mm512_setzero_si512();
  const Word* column = panel.words;
  const Word* row = rows;
  auto* bytes = reinterpret_cast<unsigned char*>(const_cast<uint32_t*>(panel.mask));  // which the intrinsic wants
  for (int64_t tap = 0; tap < panel.taps; ++tap) {
    __mmask8 mask[V];
    if (kMasked) {
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) mask[v] = _load_mask8(reinterpret_cast<__mmask8*>(bytes + tap * 4 + v));
    }
    for (int64_t k = 0; k < panel.words_per_tap; ++k, ++row, column += V * 8) {
      __m512i columns[V];
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) columns[v] = _mm512_loadu_si512(column + v * 8);
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r) {
        const __m512i all = _mm512_set1_epi64(static_cast<long long>(row[r * stride]));
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) {
          const __m512i differ =
              kMasked ? _mm512_maskz_xor_epi64(mask[v], all, columns[v]) : _mm512_xor_si512(all, columns[v]);
          sums[r][v] = _mm512_add_epi64(sums[r][v], _mm512_popcnt_epi64(differ));
        }
      }
    }
  }
#pragma GCC unroll 4
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v)
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + r * kLanes + v * 8), _mm512_maskz_cvtepi64_epi32(0xff, sums[r][v]));
}

// R rows and 8 lanes. AVX2 counts bits by looking nibbles up; counts of bytes are added up before they can overflow.
template <int R, bool kMasked>
GRAPHOPT_AVX2 void tile256(const Word* rows, int64_t stride, const Panel& panel, int64_t first, int32_t* out) {
  const __m256i nibble = _mm256_set1_epi8(15);
  const __m256i table = _mm256_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4,  //
                                         0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4);
  constexpr int64_t kMost = 31;  // words of 8 bits a byte that fit into a byte
  __m256i sums[R][2], bytes[R][2];
#pragma GCC unroll 2
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 2
    for (int v = 0; v < 2; ++v) sums[r][v] = bytes[r][v] = _mm256_setzero_si256();
  const Word* column = panel.words + first;
  const Word* row = rows;
  int64_t left = kMost;
  const auto flush = [&]() GRAPHOPT_AVX2 {
#pragma GCC unroll 2
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 2
      for (int v = 0; v < 2; ++v) {
        sums[r][v] = _mm256_add_epi64(sums[r][v], _mm256_sad_epu8(bytes[r][v], _mm256_setzero_si256()));
        bytes[r][v] = _mm256_setzero_si256();
      }
    left = kMost;
  };
  for (int64_t tap = 0; tap < panel.taps; ++tap) {
    __m256i mask[2];
    if (kMasked) {
      const __m256i all = _mm256_set1_epi64x(static_cast<long long>(panel.mask[tap] >> first));
      const __m256i low = _mm256_setr_epi64x(1, 2, 4, 8), high = _mm256_setr_epi64x(16, 32, 64, 128);
      mask[0] = _mm256_cmpeq_epi64(_mm256_and_si256(all, low), low);
      mask[1] = _mm256_cmpeq_epi64(_mm256_and_si256(all, high), high);
    }
    for (int64_t k = 0; k < panel.words_per_tap; ++k, ++row, column += panel.width) {
#pragma GCC unroll 2
      for (int v = 0; v < 2; ++v) {
        const __m256i columns = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(column) + v);
#pragma GCC unroll 2
        for (int r = 0; r < R; ++r) {
          __m256i differ = _mm256_xor_si256(_mm256_set1_epi64x(static_cast<long long>(row[r * stride])), columns);
          if (kMasked) differ = _mm256_and_si256(differ, mask[v]);
          const __m256i low = _mm256_shuffle_epi8(table, _mm256_and_si256(differ, nibble));
          const __m256i high = _mm256_shuffle_epi8(table, _mm256_and_si256(_mm256_srli_epi16(differ, 4), nibble));
          bytes[r][v] = _mm256_add_epi8(bytes[r][v], _mm256_add_epi8(low, high));
        }
      }
      if (--left == 0) flush();
    }
  }
  flush();
  const __m256i even = _mm256_setr_epi32(0, 2, 4, 6, 0, 2, 4, 6);
#pragma GCC unroll 2
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 2
    for (int v = 0; v < 2; ++v)
      _mm_storeu_si128(reinterpret_cast<__m128i*>(out + r * kLanes + first + v * 4),
                       _mm256_castsi256_si128(_mm256_permutevar8x32_epi32(sums[r][v], even)));
}

template <int R, bool kMasked>
void of_width(const Word* rows, int64_t stride, const Panel& panel, int32_t* out) {
  switch (panel.width) {
    case 8:
      return tile512<R, 1, kMasked>(rows, stride, panel, out);
    case 16:
      return tile512<R, 2, kMasked>(rows, stride, panel, out);
    case 24:
      return tile512<R, 3, kMasked>(rows, stride, panel, out);
    default:
      return tile512<R, 4, kMasked>(rows, stride, panel, out);
  }
}

template <bool kMasked>
void of_rows(const Word* rows, int64_t stride, int64_t count, const Panel& panel, int32_t* out) {
  switch (count) {
    case 1:
      return of_width<1, kMasked>(rows, stride, panel, out);
    case 2:
      return of_width<2, kMasked>(rows, stride, panel, out);
    case 3:
      return of_width<3, kMasked>(rows, stride, panel, out);
    default:
      return of_width<4, kMasked>(rows, stride, panel, out);
  }
}

void avx512(const Word* rows, int64_t stride, int64_t count, const Panel& panel, int32_t* out) {
  return panel.mask == nullptr ? of_rows<false>(rows, stride, count, panel, out)
                               : of_rows<true>(rows, stride, count, panel, out);
}

template <bool kMasked>
void by_pairs(const Word* rows, int64_t stride, int64_t count, const Panel& panel, int32_t* out) {
  for (int64_t first = 0; first < panel.width; first += kStep) {
    int64_t r = 0;
    for (; r + 2 <= count; r += 2) {
      tile256<2, kMasked>(rows + r * stride, stride, panel, first, out + r * kLanes);
    }
    if (r < count) tile256<1, kMasked>(rows + r * stride, stride, panel, first, out + r * kLanes);
  }
}

void avx2(const Word* rows, int64_t stride, int64_t count, const Panel& panel, int32_t* out) {
  return panel.mask == nullptr ? by_pairs<false>(rows, stride, count, panel, out)
                               : by_pairs<true>(rows, stride, count, panel, out);
}

#endif  // GRAPHOPT_X86

}  // namespace

Tile tile() {
#if defined(GRAPHOPT_X86)
  if (cpu() >= Cpu::kAvx512Vnni) return avx512;
  if (cpu() >= Cpu::kAvx2) return avx2;
#endif
  return portable;
}

}  // namespace graphopt::binary
