// The product of sparse rows with a tile of positions, once for each kind of processor, and transposes of blocks.

#include <algorithm>
#include <array>
#include <cstring>
#include <utility>

#include "cpu.h"
#include "sparse_rows.h"

#if GRAPHOPT_X86
#include <immintrin.h>
#endif

namespace graphopt {
namespace {

using Run = void (*)(const Product&, int64_t first, int64_t last, const float* x, int64_t count, float* out,
                     int64_t out_stride);

// Sums that do not depend on each other: one multiply-add has to wait four cycles for the one before it, and narrow
// tiles have too few registers to fill that time.
constexpr int chains(int registers) { return registers == 1 ? 4 : registers <= 3 ? 2 : 1; }

// --- portable ----------------------------------------------------------------------------------------------------------

constexpr int kPortableLanes = 4, kPortableRegisters = 8;

template <int J>
void portable_rows(const Product& p, int64_t first, int64_t last, const float* x, int64_t count, float* out,
                   int64_t out_stride) {
  constexpr int kWide = J * kPortableLanes;
  const bool whole = count == kWide;
  for (int64_t r = first; r < last; ++r) {
    float sum[kWide];
    for (int j = 0; j < kWide; ++j) sum[j] = p.bias[r];
    const Nonzero* end = p.matrix.nonzeros.data() + p.matrix.begin[r + 1];
    for (const Nonzero* n = p.matrix.nonzeros.data() + p.matrix.begin[r]; n != end; ++n) {
      const float* from = x + n->column * p.stride;
      const float w = n->value;
      if (whole) {
        for (int j = 0; j < kWide; ++j) sum[j] += w * from[j];
      } else {
        for (int j = 0; j < count; ++j) sum[j] += w * from[j];
      }
    }
    if (p.activation == Activation::kRelu) {
      for (int j = 0; j < kWide; ++j) sum[j] = sum[j] < 0.0f ? 0.0f : sum[j];
    }
    std::memcpy(out + (r - first) * out_stride, sum, static_cast<size_t>(count) * sizeof(float));
  }
}

#if GRAPHOPT_X86

// --- AVX2 --------------------------------------------------------------------------------------------------------------

constexpr int kAvx2Lanes = 8, kAvx2Registers = 12;

template <int J, bool Tail>
GRAPHOPT_AVX2 void avx2_rows(const Product& p, int64_t first, int64_t last, const float* x, int64_t count, float* out,
                             int64_t out_stride) {
  constexpr int U = chains(J);
  const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  const __m256i mask =
      _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(count - (J - 1) * kAvx2Lanes)), lane);
  const Nonzero* all = p.matrix.nonzeros.data();
  const int64_t stride = p.stride;
  for (int64_t r = first; r < last; ++r) {
    const Nonzero* n = all + p.matrix.begin[r];
    const Nonzero* end = all + p.matrix.begin[r + 1];
    __m256 sum[U][J];
    for (int j = 0; j < J; ++j) sum[0][j] = _mm256_set1_ps(p.bias[r]);
    for (int u = 1; u < U; ++u) {
      for (int j = 0; j < J; ++j) sum[u][j] = _mm256_setzero_ps();
    }
    for (; end - n >= U; n += U) {
      for (int u = 0; u < U; ++u) {
        const float* from = x + n[u].column * stride;
        const __m256 w = _mm256_set1_ps(n[u].value);
        for (int j = 0; j < J; ++j) {
          const float* at = from + j * kAvx2Lanes;
          const __m256 v = Tail && j == J - 1 ? _mm256_maskload_ps(at, mask) : _mm256_loadu_ps(at);
          sum[u][j] = _mm256_fmadd_ps(w, v, sum[u][j]);
        }
      }
    }
    for (; n != end; ++n) {
      const float* from = x + n->column * stride;
      const __m256 w = _mm256_set1_ps(n->value);
      for (int j = 0; j < J; ++j) {
        const float* at = from + j * kAvx2Lanes;
        const __m256 v = Tail && j == J - 1 ? _mm256_maskload_ps(at, mask) : _mm256_loadu_ps(at);
        sum[0][j] = _mm256_fmadd_ps(w, v, sum[0][j]);
      }
    }
    float* to = out + (r - first) * out_stride;
    for (int j = 0; j < J; ++j) {
      __m256 s = sum[0][j];
      for (int u = 1; u < U; ++u) s = _mm256_add_ps(s, sum[u][j]);
      if (p.activation == Activation::kRelu) s = _mm256_max_ps(_mm256_setzero_ps(), s);  // keeps what is no number
      if (Tail && j == J - 1) {
        _mm256_maskstore_ps(to + j * kAvx2Lanes, mask, s);
      } else {
        _mm256_storeu_ps(to + j * kAvx2Lanes, s);
      }
    }
  }
}

// --- AVX-512 -----------------------------------------------------------------------------------------------------------

constexpr int kAvx512Lanes = 16, kAvx512Registers = 14;

template <int J, bool Tail>
GRAPHOPT_AVX512 void avx512_rows(const Product& p, int64_t first, int64_t last, const float* x, int64_t count,
                                 float* out, int64_t out_stride) {
  constexpr int U = chains(J);
  const auto mask = static_cast<__mmask16>((1u << (count - (J - 1) * kAvx512Lanes)) - 1u);
  const Nonzero* all = p.matrix.nonzeros.data();
  const int64_t stride = p.stride;
  for (int64_t r = first; r < last; ++r) {
    const Nonzero* n = all + p.matrix.begin[r];
    const Nonzero* end = all + p.matrix.begin[r + 1];
    __m512 sum[U][J];
    for (int j = 0; j < J; ++j) sum[0][j] = _mm512_set1_ps(p.bias[r]);
    for (int u = 1; u < U; ++u) {
      for (int j = 0; j < J; ++j) sum[u][j] = _mm512_setzero_ps();
    }
    for (; end - n >= U; n += U) {
      for (int u = 0; u < U; ++u) {
        const float* from = x + n[u].column * stride;
        const __m512 w = _mm512_set1_ps(n[u].value);
        for (int j = 0; j < J; ++j) {
          const float* at = from + j * kAvx512Lanes;
          const __m512 v = Tail && j == J - 1 ? _mm512_maskz_loadu_ps(mask, at) : _mm512_loadu_ps(at);
          sum[u][j] = _mm512_fmadd_ps(w, v, sum[u][j]);
        }
      }
    }
    for (; n != end; ++n) {
      const float* from = x + n->column * stride;
      const __m512 w = _mm512_set1_ps(n->value);
      for (int j = 0; j < J; ++j) {
        const float* at = from + j * kAvx512Lanes;
        const __m512 v = Tail && j == J - 1 ? _mm512_maskz_loadu_ps(mask, at) : _mm512_loadu_ps(at);
        sum[0][j] = _mm512_fmadd_ps(w, v, sum[0][j]);
      }
    }
    float* to = out + (r - first) * out_stride;
    for (int j = 0; j < J; ++j) {
      __m512 s = sum[0][j];
      for (int u = 1; u < U; ++u) s = _mm512_add_ps(s, sum[u][j]);
      if (p.activation == Activation::kRelu) s = _mm512_maskz_max_ps(0xffff, _mm512_setzero_ps(), s);
      if (Tail && j == J - 1) {
        _mm512_mask_storeu_ps(to + j * kAvx512Lanes, mask, s);
      } else {
        _mm512_storeu_ps(to + j * kAvx512Lanes, s);
      }
    }
  }
}

// Eight rows of eight, in registers.
GRAPHOPT_AVX2 void transpose8(const float* from, int64_t from_stride, float* to, int64_t to_stride) {
  __m256 r[8], t[8];
  for (int i = 0; i < 8; ++i) r[i] = _mm256_loadu_ps(from + i * from_stride);
  for (int i = 0; i < 8; i += 2) {
    t[i] = _mm256_unpacklo_ps(r[i], r[i + 1]);
    t[i + 1] = _mm256_unpackhi_ps(r[i], r[i + 1]);
  }
  for (int i = 0; i < 8; i += 4) {
    r[i] = _mm256_shuffle_ps(t[i], t[i + 2], 0x44);
    r[i + 1] = _mm256_shuffle_ps(t[i], t[i + 2], 0xee);
    r[i + 2] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0x44);
    r[i + 3] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0xee);
  }
  for (int i = 0; i < 4; ++i) {
    _mm256_storeu_ps(to + i * to_stride, _mm256_permute2f128_ps(r[i], r[i + 4], 0x20));
    _mm256_storeu_ps(to + (i + 4) * to_stride, _mm256_permute2f128_ps(r[i], r[i + 4], 0x31));
  }
}

#endif

// --- choosing ----------------------------------------------------------------------------------------------------------

template <int... J>
constexpr std::array<Run, sizeof...(J)> portable(std::integer_sequence<int, J...>) {
  return {portable_rows<J + 1>...};
}

void run_portable(const Product& p, int64_t first, int64_t last, const float* x, int64_t count, float* out,
                  int64_t out_stride) {
  static constexpr auto table = portable(std::make_integer_sequence<int, kPortableRegisters>{});
  table[(count - 1) / kPortableLanes](p, first, last, x, count, out, out_stride);
}

#if GRAPHOPT_X86

template <bool Tail, int... J>
constexpr std::array<Run, sizeof...(J)> avx2(std::integer_sequence<int, J...>) {
  return {avx2_rows<J + 1, Tail>...};
}

void run_avx2(const Product& p, int64_t first, int64_t last, const float* x, int64_t count, float* out,
              int64_t out_stride) {
  static constexpr auto whole = avx2<false>(std::make_integer_sequence<int, kAvx2Registers>{});
  static constexpr auto tail = avx2<true>(std::make_integer_sequence<int, kAvx2Registers>{});
  (count % kAvx2Lanes == 0 ? whole : tail)[(count - 1) / kAvx2Lanes](p, first, last, x, count, out, out_stride);
}

template <bool Tail, int... J>
constexpr std::array<Run, sizeof...(J)> avx512(std::integer_sequence<int, J...>) {
  return {avx512_rows<J + 1, Tail>...};
}

void run_avx512(const Product& p, int64_t first, int64_t last, const float* x, int64_t count, float* out,
                int64_t out_stride) {
  static constexpr auto whole = avx512<false>(std::make_integer_sequence<int, kAvx512Registers>{});
  static constexpr auto tail = avx512<true>(std::make_integer_sequence<int, kAvx512Registers>{});
  (count % kAvx512Lanes == 0 ? whole : tail)[(count - 1) / kAvx512Lanes](p, first, last, x, count, out, out_stride);
}

#endif

}  // namespace

const RowKernel& row_kernel() {
  static const RowKernel portable{kPortableLanes, kPortableLanes * kPortableRegisters, run_portable};
#if GRAPHOPT_X86
  static const RowKernel avx2{kAvx2Lanes, kAvx2Lanes * kAvx2Registers, run_avx2};
  static const RowKernel avx512{kAvx512Lanes, kAvx512Lanes * kAvx512Registers, run_avx512};
  if (cpu() >= Cpu::kAvx512) return avx512;
  if (cpu() >= Cpu::kAvx2) return avx2;
#endif
  return portable;
}

void transpose(const float* from, int64_t from_stride, int64_t rows, int64_t columns, float* to, int64_t to_stride) {
  int64_t done_rows = 0, done_columns = 0;
#if GRAPHOPT_X86
  if (cpu() >= Cpu::kAvx2) {
    done_rows = rows / 8 * 8;
    done_columns = columns / 8 * 8;
    for (int64_t j = 0; j < done_columns; j += 8) {
      for (int64_t i = 0; i < done_rows; i += 8) {
        transpose8(from + i * from_stride + j, from_stride, to + j * to_stride + i, to_stride);
      }
    }
    for (int64_t j = done_columns; j < columns; ++j) {
      for (int64_t i = 0; i < done_rows; ++i) to[j * to_stride + i] = from[i * from_stride + j];
    }
  }
#endif
  for (int64_t j = 0; j < columns; ++j) {
    for (int64_t i = done_rows; i < rows; ++i) to[j * to_stride + i] = from[i * from_stride + j];
  }
}

}  // namespace graphopt
