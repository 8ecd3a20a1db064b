// Rows in plain C++, with AVX2, and with AVX-512. Three runs over a row that lies in the L1 cache after the first: its
// sum, the squared distances from the mean, the result. Sums go into as many parts as there are lanes, times four.

#include <cmath>

#include "cpu.h"
#include "half.h"
#include "rows.h"

#if defined(GRAPHOPT_X86)
#include <immintrin.h>
#endif

namespace graphopt {
namespace norm {
namespace {

void normalize(const float* x, int64_t size, const Rest& rest, const float* scale, const float* bias, float* y) {
  constexpr int kParts = 16;
  float parts[kParts] = {};
  for (int64_t i = 0; i < size; ++i) parts[i % kParts] += x[i];
  float sum = 0;
  for (float part : parts) sum += part;
  const float count = static_cast<float>(size), mean = rest.mean(sum, count);
  for (float& part : parts) part = 0;
  for (int64_t i = 0; i < size; ++i) parts[i % kParts] += (x[i] - mean) * (x[i] - mean);
  float squares = 0;
  for (float part : parts) squares += part;
  const float inverse = 1 / std::sqrt(rest.variance(squares, mean, count) + rest.epsilon);
  for (int64_t i = 0; i < size; ++i) y[i] = (x[i] - mean) * inverse * scale[i] + bias[i];
}

void from_half(const uint16_t* x, int64_t count, float* y) {
  for (int64_t i = 0; i < count; ++i) y[i] = to_float(Half{x[i]});
}

void to_half(const float* x, int64_t count, uint16_t* y) {
  for (int64_t i = 0; i < count; ++i) y[i] = graphopt::to_half(x[i]).bits;
}

void from_bfloat16(const uint16_t* x, int64_t count, float* y) {
  for (int64_t i = 0; i < count; ++i) y[i] = to_float(Bfloat16{x[i]});
}

void to_bfloat16(const float* x, int64_t count, uint16_t* y) {
  for (int64_t i = 0; i < count; ++i) y[i] = graphopt::to_bfloat16(x[i]).bits;
}

#if defined(GRAPHOPT_X86)

GRAPHOPT_AVX2 inline float total(__m256 a) {
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

// The first `count` lanes, for masked loads and stores.
GRAPHOPT_AVX2 inline __m256i first(int64_t count) {
  const __m256i lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(count)), lanes);
}

GRAPHOPT_AVX2 void normalize_avx2(const float* x, int64_t size, const Rest& rest, const float* scale,
                                  const float* bias, float* y) {
  const int64_t whole = size / 8 * 8, four = size / 32 * 32;
  const __m256i mask = first(size - whole);
  __m256 part[4];
  for (auto& one : part) one = _mm256_setzero_ps();
  int64_t i = 0;
  for (; i < four; i += 32) {
    for (int j = 0; j < 4; ++j) part[j] = _mm256_add_ps(part[j], _mm256_loadu_ps(x + i + 8 * j));
  }
  for (; i < whole; i += 8) part[0] = _mm256_add_ps(part[0], _mm256_loadu_ps(x + i));
  if (i < size) part[1] = _mm256_add_ps(part[1], _mm256_maskload_ps(x + i, mask));
  const float count = static_cast<float>(size);
  const float mean =
      rest.mean(total(_mm256_add_ps(_mm256_add_ps(part[0], part[1]), _mm256_add_ps(part[2], part[3]))), count);

  const __m256 centre = _mm256_set1_ps(mean);
  for (auto& one : part) one = _mm256_setzero_ps();
  for (i = 0; i < four; i += 32) {
    for (int j = 0; j < 4; ++j) {
      const __m256 off = _mm256_sub_ps(_mm256_loadu_ps(x + i + 8 * j), centre);
      part[j] = _mm256_fmadd_ps(off, off, part[j]);
    }
  }
  for (; i < whole; i += 8) {
    const __m256 off = _mm256_sub_ps(_mm256_loadu_ps(x + i), centre);
    part[0] = _mm256_fmadd_ps(off, off, part[0]);
  }
  if (i < size) {
    const __m256 off = _mm256_sub_ps(_mm256_maskload_ps(x + i, mask), centre);
    part[1] = _mm256_add_ps(part[1], _mm256_and_ps(_mm256_castsi256_ps(mask), _mm256_mul_ps(off, off)));
  }
  const float squares = total(_mm256_add_ps(_mm256_add_ps(part[0], part[1]), _mm256_add_ps(part[2], part[3])));
  const __m256 inverse = _mm256_set1_ps(1 / std::sqrt(rest.variance(squares, mean, count) + rest.epsilon));
  for (i = 0; i < whole; i += 8) {
    const __m256 normal = _mm256_mul_ps(_mm256_sub_ps(_mm256_loadu_ps(x + i), centre), inverse);
    _mm256_storeu_ps(y + i, _mm256_fmadd_ps(normal, _mm256_loadu_ps(scale + i), _mm256_loadu_ps(bias + i)));
  }
  if (i < size) {
    const __m256 normal = _mm256_mul_ps(_mm256_sub_ps(_mm256_maskload_ps(x + i, mask), centre), inverse);
    _mm256_maskstore_ps(y + i, mask, _mm256_fmadd_ps(normal, _mm256_maskload_ps(scale + i, mask),
                                                     _mm256_maskload_ps(bias + i, mask)));
  }
}

GRAPHOPT_AVX2 void from_half_avx2(const uint16_t* x, int64_t count, float* y) {
  int64_t i = 0;
  for (; i + 8 <= count; i += 8) {
    _mm256_storeu_ps(y + i, _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(x + i))));
  }
  from_half(x + i, count - i, y + i);
}

GRAPHOPT_AVX2 void to_half_avx2(const float* x, int64_t count, uint16_t* y) {
  int64_t i = 0;
  for (; i + 8 <= count; i += 8) {
    const __m128i halves = _mm256_cvtps_ph(_mm256_loadu_ps(x + i), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(y + i), halves);
  }
  to_half(x + i, count - i, y + i);
}

// The compiler makes vectors of these.
GRAPHOPT_AVX2 void from_bfloat16_avx2(const uint16_t* x, int64_t count, float* y) {
  for (int64_t i = 0; i < count; ++i) y[i] = to_float(Bfloat16{x[i]});
}

GRAPHOPT_AVX2 void to_bfloat16_avx2(const float* x, int64_t count, uint16_t* y) {
  for (int64_t i = 0; i < count; ++i) y[i] = graphopt::to_bfloat16(x[i]).bits;
}

GRAPHOPT_AVX512 inline __m512 loaded(const float* x, int64_t left) {
  if (left >= 16) return _mm512_loadu_ps(x);
  return _mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << left) - 1), x);
}

GRAPHOPT_AVX512 void normalize_avx512(const float* x, int64_t size, const Rest& rest, const float* scale,
                                      const float* bias, float* y) {
  const int64_t four = size / 64 * 64;
  __m512 part[4];
  for (auto& one : part) one = _mm512_setzero_ps();
  int64_t i = 0;
  for (; i < four; i += 64) {
    for (int j = 0; j < 4; ++j) part[j] = _mm512_add_ps(part[j], _mm512_loadu_ps(x + i + 16 * j));
  }
  for (; i < size; i += 16) part[0] = _mm512_add_ps(part[0], loaded(x + i, size - i));
  const float count = static_cast<float>(size);
  const float mean = rest.mean(
      _mm512_reduce_add_ps(_mm512_add_ps(_mm512_add_ps(part[0], part[1]), _mm512_add_ps(part[2], part[3]))), count);

  const __m512 centre = _mm512_set1_ps(mean);
  for (auto& one : part) one = _mm512_setzero_ps();
  for (i = 0; i < four; i += 64) {
    for (int j = 0; j < 4; ++j) {
      const __m512 off = _mm512_sub_ps(_mm512_loadu_ps(x + i + 16 * j), centre);
      part[j] = _mm512_fmadd_ps(off, off, part[j]);
    }
  }
  for (; i < size; i += 16) {
    const auto mask = static_cast<__mmask16>(size - i >= 16 ? 0xffff : (1u << (size - i)) - 1);
    const __m512 off = _mm512_maskz_sub_ps(mask, loaded(x + i, size - i), centre);
    part[0] = _mm512_fmadd_ps(off, off, part[0]);
  }
  const float squares =
      _mm512_reduce_add_ps(_mm512_add_ps(_mm512_add_ps(part[0], part[1]), _mm512_add_ps(part[2], part[3])));
  const __m512 inverse = _mm512_set1_ps(1 / std::sqrt(rest.variance(squares, mean, count) + rest.epsilon));
  for (i = 0; i + 16 <= size; i += 16) {
    const __m512 normal = _mm512_mul_ps(_mm512_sub_ps(_mm512_loadu_ps(x + i), centre), inverse);
    _mm512_storeu_ps(y + i, _mm512_fmadd_ps(normal, _mm512_loadu_ps(scale + i), _mm512_loadu_ps(bias + i)));
  }
  if (i < size) {
    const auto mask = static_cast<__mmask16>((1u << (size - i)) - 1);
    const __m512 normal = _mm512_mul_ps(_mm512_sub_ps(loaded(x + i, size - i), centre), inverse);
    const __m512 scaled = _mm512_fmadd_ps(normal, loaded(scale + i, size - i), loaded(bias + i, size - i));
    _mm512_mask_storeu_ps(y + i, mask, scaled);
  }
}

#endif

}  // namespace

const Kernels& portable() {
  static const Kernels kernels{normalize, from_half, to_half, from_bfloat16, to_bfloat16};
  return kernels;
}

#if defined(GRAPHOPT_X86)
const Kernels& avx2() {
  static const Kernels kernels{normalize_avx2, from_half_avx2, to_half_avx2, from_bfloat16_avx2, to_bfloat16_avx2};
  return kernels;
}

const Kernels& avx512() {
  static const Kernels kernels{normalize_avx512, from_half_avx2, to_half_avx2, from_bfloat16_avx2, to_bfloat16_avx2};
  return kernels;
}
#else
const Kernels& avx2() { return portable(); }
const Kernels& avx512() { return portable(); }
#endif

}  // namespace norm
}  // namespace graphopt
