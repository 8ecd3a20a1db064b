#include "int8_product.h"

#include <algorithm>
#include <cstring>

#if defined(GRAPHOPT_X86)
#include <immintrin.h>
#endif

namespace graphopt::int8 {
namespace {

#define GRAPHOPT_ALWAYS __attribute__((always_inline)) inline

// --- tiles -----------------------------------------------------------------------------------------------------------

void tile_portable(const uint8_t* const* rows, const int64_t* segments, int64_t count, int64_t length,
                   const int8_t* panel, int32_t* sums) {
  std::fill_n(sums, kRows * kColumns, 0);
  for (int64_t s = 0; s < count; ++s) {
    for (int64_t k = 0; k < length; k += 4, panel += kColumns * 4) {
      for (int r = 0; r < kRows; ++r) {
        const uint8_t* a = rows[r] + segments[s] + k;
        int32_t* out = sums + r * kColumns;
        for (int c = 0; c < kColumns; ++c) {
          const int8_t* b = panel + c * 4;
          const int32_t sum = a[0] * b[0] + a[1] * b[1] + a[2] * b[2] + a[3] * b[3];
          out[c] = static_cast<int32_t>(static_cast<uint32_t>(out[c]) + static_cast<uint32_t>(sum));
        }
      }
    }
  }
}

#if defined(GRAPHOPT_X86)

GRAPHOPT_ALWAYS int32_t four(const uint8_t* bytes) {
  int32_t word;
  std::memcpy(&word, bytes, 4);
  return word;
}

// 4 rows by 16 columns in 16-bit products: `vpmaddubsw`, which multiplies bytes, saturates.
GRAPHOPT_AVX2 void tile_avx2(const uint8_t* const* rows, const int64_t* segments, int64_t count, int64_t length,
                             const int8_t* panel, int32_t* sums) {
  const __m256i low_byte = _mm256_set1_epi16(0x00FF);
  for (int part = 0; part < kColumns / 16; ++part) {
    for (int first = 0; first < kRows; first += 4) {
      __m256i sum[4][2];
      for (auto& row : sum) row[0] = row[1] = _mm256_setzero_si256();
      const int8_t* b = panel + part * 64;
      for (int64_t s = 0; s < count; ++s) {
        for (int64_t k = 0; k < length; k += 4, b += kColumns * 4) {
          __m256i even[2], odd[2];
          for (int j = 0; j < 2; ++j) {
            const __m256i bytes = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(b) + j);
            even[j] = _mm256_srai_epi16(_mm256_slli_epi16(bytes, 8), 8);
            odd[j] = _mm256_srai_epi16(bytes, 8);
          }
          for (int r = 0; r < 4; ++r) {
            const __m256i a = _mm256_set1_epi32(four(rows[first + r] + segments[s] + k));
            const __m256i a_even = _mm256_and_si256(a, low_byte), a_odd = _mm256_srli_epi16(a, 8);
            for (int j = 0; j < 2; ++j) {
              const __m256i products =
                  _mm256_add_epi32(_mm256_madd_epi16(a_even, even[j]), _mm256_madd_epi16(a_odd, odd[j]));
              sum[r][j] = _mm256_add_epi32(sum[r][j], products);
            }
          }
        }
      }
      for (int r = 0; r < 4; ++r) {
        for (int j = 0; j < 2; ++j) {
          _mm256_storeu_si256(reinterpret_cast<__m256i*>(sums + (first + r) * kColumns + part * 16) + j, sum[r][j]);
        }
      }
    }
  }
}

// The same, 6 rows by 32 columns.
GRAPHOPT_AVX512 void tile_avx512(const uint8_t* const* rows, const int64_t* segments, int64_t count, int64_t length,
                                 const int8_t* panel, int32_t* sums) {
  const __m512i low_byte = _mm512_set1_epi16(0x00FF);
  for (int first = 0; first < kRows; first += 6) {
    __m512i sum[6][2];
    for (auto& row : sum) row[0] = row[1] = _mm512_setzero_si512();
    const int8_t* b = panel;
    for (int64_t s = 0; s < count; ++s) {
      for (int64_t k = 0; k < length; k += 4, b += kColumns * 4) {
        __m512i even[2], odd[2];
        for (int j = 0; j < 2; ++j) {
          const __m512i bytes = _mm512_loadu_si512(b + j * 64);
          even[j] = _mm512_srai_epi16(_mm512_slli_epi16(bytes, 8), 8);
          odd[j] = _mm512_srai_epi16(bytes, 8);
        }
#pragma GCC unroll 6
        for (int r = 0; r < 6; ++r) {
          const __m512i a = _mm512_set1_epi32(four(rows[first + r] + segments[s] + k));
          const __m512i a_even = _mm512_and_si512(a, low_byte), a_odd = _mm512_srli_epi16(a, 8);
          for (int j = 0; j < 2; ++j) {
            const __m512i products =
                _mm512_add_epi32(_mm512_madd_epi16(a_even, even[j]), _mm512_madd_epi16(a_odd, odd[j]));
            sum[r][j] = _mm512_add_epi32(sum[r][j], products);
          }
        }
      }
    }
    for (int r = 0; r < 6; ++r) {
      for (int j = 0; j < 2; ++j) _mm512_storeu_si512(sums + (first + r) * kColumns + j * 16, sum[r][j]);
    }
  }
}

GRAPHOPT_AVX512_VNNI void tile_vnni(const uint8_t* const* rows, const int64_t* segments, int64_t count, int64_t length,
                                    const int8_t* panel, int32_t* sums) {
  __m512i sum[kRows][2];
#pragma GCC unroll 12
  for (int r = 0; r < kRows; ++r) sum[r][0] = sum[r][1] = _mm512_setzero_si512();
  for (int64_t s = 0; s < count; ++s) {
    const int64_t from = segments[s];
    for (int64_t k = 0; k < length; k += 4, panel += kColumns * 4) {
      const __m512i b0 = _mm512_loadu_si512(panel), b1 = _mm512_loadu_si512(panel + 64);
#pragma GCC unroll 12
      for (int r = 0; r < kRows; ++r) {
        const __m512i a = _mm512_set1_epi32(four(rows[r] + from + k));
        sum[r][0] = _mm512_dpbusd_epi32(sum[r][0], a, b0);
        sum[r][1] = _mm512_dpbusd_epi32(sum[r][1], a, b1);
      }
    }
  }
#pragma GCC unroll 12
  for (int r = 0; r < kRows; ++r) {
    _mm512_storeu_si512(sums + r * kColumns, sum[r][0]);
    _mm512_storeu_si512(sums + r * kColumns + 16, sum[r][1]);
  }
}

#endif

// --- requantization --------------------------------------------------------------------------------------------------

// The compiler writes this with the instructions of the function that it becomes a part of.
GRAPHOPT_ALWAYS void finish_row(const int32_t* sums, const float* scale, const int32_t* bias, const Requantize& how,
                                const int8_t* residual, int8_t* out) {
  const float zero = static_cast<float>(how.y_zero_point);
  const float low = static_cast<float>(how.low) - zero, high = static_cast<float>(how.high) - zero;
  const float factor = how.residual_scale;
  const auto residual_zero = static_cast<int32_t>(how.residual_zero_point);
  const auto shift = static_cast<int32_t>(how.y_zero_point);
  constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: adding it rounds small numbers to whole ones, halves to even
  float value[kColumns];
  for (int c = 0; c < kColumns; ++c) {
    const auto whole = static_cast<int32_t>(static_cast<uint32_t>(sums[c]) + static_cast<uint32_t>(bias[c]));
    value[c] = static_cast<float>(whole) * scale[c];
  }
  if (residual != nullptr) {
    for (int c = 0; c < kColumns; ++c) value[c] = value[c] + static_cast<float>(residual[c] - residual_zero) * factor;
  }
  for (int c = 0; c < kColumns; ++c) {
    // The bounds are whole numbers, so that what is clipped first is rounded to the same.
    float v = value[c] < low ? low : value[c];
    v = v > high ? high : v;
    v = (v + kRound) - kRound;
    out[c] = static_cast<int8_t>(static_cast<int32_t>(v) + shift);
  }
}

GRAPHOPT_ALWAYS void finish_tile(const int32_t* sums, int64_t rows, int64_t columns, const float* scale,
                                 const int32_t* bias, const Requantize& how, const Place& place) {
  int8_t out[kRows][kColumns], residual[kColumns] = {};
  for (int64_t r = 0; r < rows; ++r) {
    if (place.residual != nullptr) {
      const int8_t* from = place.residual + r * place.row_step;
      for (int64_t c = 0; c < columns; ++c) residual[c] = from[c * place.column_step];
    }
    finish_row(sums + r * kColumns, scale, bias, how, place.residual != nullptr ? residual : nullptr, out[r]);
  }
  if (place.column_step == 1) {
    for (int64_t r = 0; r < rows; ++r) std::memcpy(place.y + r * place.row_step, out[r], columns);
  } else {
    for (int64_t c = 0; c < columns; ++c) {
      for (int64_t r = 0; r < rows; ++r) place.y[r * place.row_step + c * place.column_step] = out[r][c];
    }
  }
}

GRAPHOPT_ALWAYS void depthwise_sums(const uint8_t* bytes, const int64_t* offsets, const int8_t* w, int64_t taps,
                                    int64_t w_step, int64_t count, int32_t* sums) {
  if (count == kColumns) {
    int32_t sum[kColumns] = {};
    for (int64_t t = 0; t < taps; ++t) {
      const uint8_t* a = bytes + offsets[t];
      const int8_t* b = w + t * w_step;
      for (int c = 0; c < kColumns; ++c) sum[c] += a[c] * b[c];
    }
    std::memcpy(sums, sum, sizeof sum);
    return;
  }
  std::fill_n(sums, kColumns, 0);
  for (int64_t t = 0; t < taps; ++t) {
    const uint8_t* a = bytes + offsets[t];
    const int8_t* b = w + t * w_step;
    for (int64_t c = 0; c < count; ++c) sums[c] += a[c] * b[c];
  }
}

#if defined(GRAPHOPT_X86)
#define GRAPHOPT_VARIANTS(variant)                                                                                  \
  variant(_avx2, GRAPHOPT_AVX2) variant(_avx512, GRAPHOPT_AVX512)
#else
#define GRAPHOPT_VARIANTS(variant)
#endif

#define GRAPHOPT_FINISH(suffix, target)                                                                             \
  target void finish##suffix(const int32_t* sums, int64_t rows, int64_t columns, const float* scale,                \
                             const int32_t* bias, const Requantize& how, const Place& place) {                      \
    finish_tile(sums, rows, columns, scale, bias, how, place);                                                      \
  }                                                                                                                 \
  target void depthwise##suffix(const uint8_t* bytes, const int64_t* offsets, const int8_t* w, int64_t taps,        \
                                int64_t w_step, int64_t count, int32_t* sums) {                                     \
    depthwise_sums(bytes, offsets, w, taps, w_step, count, sums);                                                   \
  }

GRAPHOPT_FINISH(_portable, )
GRAPHOPT_VARIANTS(GRAPHOPT_FINISH)

int64_t small(const Info& info, const char* name, int64_t otherwise) {
  const int64_t found = info.integer(name, otherwise);
  if (found < -128 || found > 127) throw Error(std::string(name) + " is no int8 number");
  return found;
}

}  // namespace

Weights::Weights(int64_t groups_, int64_t columns_, int64_t depth_)
    : columns(columns_), groups(groups_), depth(depth_) {
  panels.assign(groups * panels_of_group() * kColumns * depth, 0);
  sums.assign(groups * columns, 0);
}

Requantize::Requantize(const Info& info, bool with_residual)
    : x_zero_point(small(info, "x_zero_point", 0)),
      y_zero_point(small(info, "y_zero_point", 0)),
      low(small(info, "low", -128)),
      high(small(info, "high", 127)),
      residual_zero_point(with_residual ? small(info, "residual_zero_point", 0) : 0),
      residual_scale(with_residual ? info.number("residual_scale", 1) : 1),
      residual(with_residual) {
  require(low <= high, "low is above high");
}

void Columns::set(const Tensor& scales, const Tensor& biases, const Weights& weights, int64_t x_zero_point) {
  const int64_t total = weights.groups * weights.columns, width = weights.panels_of_group() * kColumns;
  require(scales.rank() == 1 && (scales.count() == total || scales.count() == 1),
          "scale must have one axis, with a number for every output channel or one for all");
  require(biases.rank() == 1 && biases.count() == total, "bias must have one axis, with a number for every output channel");
  scale.assign(weights.groups * width, 0);
  bias.assign(weights.groups * width, 0);
  for (int64_t i = 0; i < total; ++i) {
    const int64_t at = i / weights.columns * width + i % weights.columns;
    scale[at] = scales.as<float>()[scales.count() == 1 ? 0 : i];
    const auto offset = static_cast<uint32_t>(weights.sums[i]) * static_cast<uint32_t>(x_zero_point + 128);
    bias[at] = static_cast<int32_t>(static_cast<uint32_t>(biases.as<int32_t>()[i]) - offset);
  }
}

void tile(Cpu cpu, const uint8_t* const* rows, const int64_t* segments, int64_t count, int64_t length,
          const int8_t* panel, int32_t* sums) {
#if defined(GRAPHOPT_X86)
  switch (cpu) {
    case Cpu::kAvx512Vnni:
      return tile_vnni(rows, segments, count, length, panel, sums);
    case Cpu::kAvx512:
      return tile_avx512(rows, segments, count, length, panel, sums);
    case Cpu::kAvx2:
      return tile_avx2(rows, segments, count, length, panel, sums);
    default:
      break;
  }
#endif
  (void)cpu;
  tile_portable(rows, segments, count, length, panel, sums);
}

void finish(Cpu cpu, const int32_t* sums, int64_t rows, int64_t columns, const float* scale, const int32_t* bias,
            const Requantize& how, const Place& place) {
#if defined(GRAPHOPT_X86)
  if (cpu >= Cpu::kAvx512) return finish_avx512(sums, rows, columns, scale, bias, how, place);
  if (cpu == Cpu::kAvx2) return finish_avx2(sums, rows, columns, scale, bias, how, place);
#endif
  (void)cpu;
  finish_portable(sums, rows, columns, scale, bias, how, place);
}

void depthwise(Cpu cpu, const uint8_t* bytes, const int64_t* offsets, const int8_t* w, int64_t taps, int64_t w_step,
               int64_t count, int32_t* sums) {
#if defined(GRAPHOPT_X86)
  if (cpu >= Cpu::kAvx512) return depthwise_avx512(bytes, offsets, w, taps, w_step, count, sums);
  if (cpu == Cpu::kAvx2) return depthwise_avx2(bytes, offsets, w, taps, w_step, count, sums);
#endif
  (void)cpu;
  depthwise_portable(bytes, offsets, w, taps, w_step, count, sums);
}

}  // namespace graphopt::int8
