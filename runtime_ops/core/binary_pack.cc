// Packs signs into words: along rows (a matrix) and across planes (the channels of an image).

#include <algorithm>
#include <cstring>

#include "binary.h"
#include "cpu.h"

#if defined(GRAPHOPT_X86)
#include <immintrin.h>
#endif

#define GRAPHOPT_INLINE inline __attribute__((always_inline))

namespace graphopt::binary {
namespace {

template <class T>
Word pack_word(const T* x, int64_t count) {
  Word word = 0;
  for (int64_t i = 0; i < count; ++i) word |= static_cast<Word>(x[i] > 0) << i;
  return word;
}

template <class T>
void rows_portable(const T* x, int64_t count, Word* out) {
  for (int64_t at = 0; at < count; at += kBits) *out++ = pack_word(x + at, std::min(kBits, count - at));
}

// --- pixels: the compiler's own vectors, so that one text serves every processor -------------------------------------

constexpr int64_t kBlock = 16;  // pixels at a time
constexpr int64_t kAhead = 2;   // blocks
constexpr int64_t kLine = 64;   // bytes of memory that come together

template <class T>
struct Vectors;
template <>
struct Vectors<float> {
  using Bits = uint32_t;  // a lane is as wide as the number: a comparison gives what it masks
  typedef float Numbers __attribute__((vector_size(kBlock * sizeof(float))));
  typedef uint32_t Lanes __attribute__((vector_size(kBlock * sizeof(uint32_t))));
};
template <>
struct Vectors<int8_t> {
  using Bits = uint8_t;
  typedef int8_t Numbers __attribute__((vector_size(kBlock)));
  typedef uint8_t Lanes __attribute__((vector_size(kBlock)));
};

// 16 pixels, up to 64 channels: one word each.
template <class T>
GRAPHOPT_INLINE void block(const T* x, int64_t plane, int64_t channels, Word* out, int64_t stride) {
  using V = Vectors<T>;
  constexpr int64_t kHeld = sizeof(typename V::Bits) * 8;
  Word packed[kBlock] = {};
  for (int64_t first = 0; first < channels; first += kHeld) {
    const int64_t held = std::min(kHeld, channels - first);
    typename V::Lanes bits = {};
    for (int64_t c = 0; c < held; ++c) {
      typename V::Numbers numbers;
      const T* at = x + (first + c) * plane;
      if (sizeof numbers == kLine) __builtin_prefetch(at + kAhead * kBlock);  // planes are too many to be foreseen
      std::memcpy(&numbers, at, sizeof numbers);
      const auto bit = static_cast<typename V::Bits>(1u << c);  // named: sanitizers make an int of the expression
      bits |= reinterpret_cast<typename V::Lanes>(numbers > 0) & bit;
    }
    typename V::Bits lanes[kBlock];
    std::memcpy(lanes, &bits, sizeof lanes);
    for (int64_t p = 0; p < kBlock; ++p) packed[p] |= static_cast<Word>(lanes[p]) << first;
  }
  for (int64_t p = 0; p < kBlock; ++p) out[p * stride] = packed[p];
}

template <class T>
GRAPHOPT_INLINE void pixels(const T* x, int64_t plane, int64_t channels, int64_t first, int64_t last, Word* out,
                            int64_t stride) {
  for (int64_t c = 0; c < channels; c += kBits, x += kBits * plane, ++out) {
    const int64_t held = std::min(kBits, channels - c);
    if (last - first < kBlock) {
      for (int64_t p = first; p < last; ++p) {
        Word word = 0;
        for (int64_t i = 0; i < held; ++i) word |= static_cast<Word>(x[i * plane + p] > 0) << i;
        out[p * stride] = word;
      }
      continue;
    }
    for (int64_t p = first; p < last; p += kBlock) {
      const int64_t at = std::min(p, last - kBlock);  // the last block goes over some pixels again
      block(x + at, plane, held, out + at * stride, stride);
    }
  }
}

#if defined(GRAPHOPT_X86)

template <class T>
GRAPHOPT_AVX512 void pixels_avx512(const T* x, int64_t plane, int64_t channels, int64_t first, int64_t last, Word* out,
                                   int64_t stride) {
  pixels(x, plane, channels, first, last, out, stride);
}

template <class T>
GRAPHOPT_AVX2 void pixels_avx2(const T* x, int64_t plane, int64_t channels, int64_t first, int64_t last, Word* out,
                               int64_t stride) {
  pixels(x, plane, channels, first, last, out, stride);
}

GRAPHOPT_AVX512 void rows_avx512(const float* x, int64_t count, Word* out) {
  const __m512 zero = _mm512_setzero_ps();
  int64_t at = 0;
  for (; at + kBits <= count; at += kBits) {
    const Word a = _mm512_cmp_ps_mask(_mm512_loadu_ps(x + at), zero, _CMP_GT_OQ);
    const Word b = _mm512_cmp_ps_mask(_mm512_loadu_ps(x + at + 16), zero, _CMP_GT_OQ);
    const Word c = _mm512_cmp_ps_mask(_mm512_loadu_ps(x + at + 32), zero, _CMP_GT_OQ);
    const Word d = _mm512_cmp_ps_mask(_mm512_loadu_ps(x + at + 48), zero, _CMP_GT_OQ);
    *out++ = a | b << 16 | c << 32 | d << 48;
  }
  if (at < count) *out = pack_word(x + at, count - at);
}

GRAPHOPT_AVX512 void rows_avx512(const int8_t* x, int64_t count, Word* out) {
  int64_t at = 0;
  for (; at + kBits <= count; at += kBits) {
    *out++ = _mm512_cmpgt_epi8_mask(_mm512_loadu_si512(x + at), _mm512_setzero_si512());
  }
  if (at < count) *out = pack_word(x + at, count - at);
}

GRAPHOPT_AVX2 void rows_avx2(const float* x, int64_t count, Word* out) {
  const __m256 zero = _mm256_setzero_ps();
  int64_t at = 0;
  for (; at + kBits <= count; at += kBits) {
    Word word = 0;
    for (int i = 0; i < 8; ++i) {
      const int mask = _mm256_movemask_ps(_mm256_cmp_ps(_mm256_loadu_ps(x + at + i * 8), zero, _CMP_GT_OQ));
      word |= static_cast<Word>(static_cast<unsigned>(mask)) << (i * 8);
    }
    *out++ = word;
  }
  if (at < count) *out = pack_word(x + at, count - at);
}

GRAPHOPT_AVX2 void rows_avx2(const int8_t* x, int64_t count, Word* out) {
  const __m256i zero = _mm256_setzero_si256();
  int64_t at = 0;
  for (; at + kBits <= count; at += kBits) {
    const auto* both = reinterpret_cast<const __m256i*>(x + at);
    const auto low = static_cast<unsigned>(_mm256_movemask_epi8(_mm256_cmpgt_epi8(_mm256_loadu_si256(both), zero)));
    const auto high = static_cast<unsigned>(_mm256_movemask_epi8(_mm256_cmpgt_epi8(_mm256_loadu_si256(both + 1), zero)));
    *out++ = low | static_cast<Word>(high) << 32;
  }
  if (at < count) *out = pack_word(x + at, count - at);
}

#endif  // GRAPHOPT_X86

}  // namespace

template <class T>
void pack_row(const T* x, int64_t count, Word* out) {
#if defined(GRAPHOPT_X86)
  if (cpu() >= Cpu::kAvx512) return rows_avx512(x, count, out);
  if (cpu() >= Cpu::kAvx2) return rows_avx2(x, count, out);
#endif
  rows_portable(x, count, out);
}

template <class T>
void pack_pixels(const T* x, int64_t plane, int64_t channels, int64_t first, int64_t last, Word* out, int64_t stride) {
#if defined(GRAPHOPT_X86)
  if (cpu() >= Cpu::kAvx512) return pixels_avx512(x, plane, channels, first, last, out, stride);
  if (cpu() >= Cpu::kAvx2) return pixels_avx2(x, plane, channels, first, last, out, stride);
#endif
  pixels(x, plane, channels, first, last, out, stride);
}

template void pack_row(const float*, int64_t, Word*);
template void pack_row(const int8_t*, int64_t, Word*);
template void pack_pixels(const float*, int64_t, int64_t, int64_t, int64_t, Word*, int64_t);
template void pack_pixels(const int8_t*, int64_t, int64_t, int64_t, int64_t, Word*, int64_t);

}  // namespace graphopt::binary
