// Rows in plain C++, with AVX2, and with AVX-512. Three runs over a row that lies in the L1 cache after the first: its
// sum, the squared distances from the mean, the result. Sums go into as many parts as there are lanes, times four.

#include <cmath>

#include "cpu.h"
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

Normalize normalize_for_this_processor() {
#if defined(GRAPHOPT_X86)
  if (cpu() >= Cpu::kAvx512) return normalize_avx512;
  if (cpu() >= Cpu::kAvx2) return normalize_avx2;
#endif
  return normalize;
}

}  // namespace norm
}  // namespace graphopt
