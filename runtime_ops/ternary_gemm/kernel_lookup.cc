// See lookup.h. The sums of three ternary weights times three bytes are made by two products of byte pairs.

#include "lookup.h"

#include <algorithm>
#include <cstring>

#include "cpu.h"

#if defined(GRAPHOPT_X86)
#include <immintrin.h>
#endif

namespace graphopt {
namespace ternary {

Lookup::Lookup(const std::vector<uint8_t>& digits, int64_t outputs, int64_t columns)
    : columns_(columns),
      groups_((columns + 2) / 3),
      blocks_((outputs + kBlock - 1) / kBlock),
      strips_((blocks_ + kStrip - 1) / kStrip),
      index_(groups_ * blocks_ * kBlock, 13) {  // 13: three zeros
  for (int64_t from = 0; from < groups_; from += kChunk) {
    const int64_t count = std::min<int64_t>(kChunk, groups_ - from);
    uint16_t* to = index_.data() + from * blocks_ * kBlock;
    for (int64_t strip = 0; strip < strips_; ++strip) {
      const int64_t start = first_output(strip), width = first_output(strip + 1) - start;
      for (int64_t group = from; group < from + count; ++group, to += width) {
        for (int64_t n = start; n < std::min(start + width, outputs); ++n) {
          const auto digit = [&](int64_t k) { return k < columns ? digits[n * columns + k] : uint8_t{1}; };
          to[n - start] = static_cast<uint16_t>(digit(3 * group) + 3 * digit(3 * group + 1) + 9 * digit(3 * group + 2));
        }
      }
    }
  }
}

#if defined(GRAPHOPT_X86)
namespace {

// For sum i of the 27, and of a table's 32 places: the weights in it, for pairs of bytes as they lie (a0 a1 a2 a3), and
// with the pairs exchanged; and what the activations' 128 has added to it.
struct Sums {
  alignas(64) int8_t as_is[64] = {};
  alignas(64) int8_t exchanged[64] = {};
  alignas(64) int16_t excess[32] = {};

  Sums() {
    for (int i = 0; i < 27; ++i) {
      const int8_t w[3] = {static_cast<int8_t>(i % 3 - 1), static_cast<int8_t>(i / 3 % 3 - 1),
                           static_cast<int8_t>(i / 9 - 1)};
      int8_t* front = i % 2 == 0 ? as_is : exchanged;  // an even place meets a0 a1 as they lie
      int8_t* back = i % 2 == 0 ? exchanged : as_is;
      front[2 * i] = w[0];
      front[2 * i + 1] = w[1];
      back[2 * i] = w[2];
      excess[i] = static_cast<int16_t>(128 * (w[0] + w[1] + w[2]));
    }
  }
};

// tables[group][row][32], for kRows rows.
GRAPHOPT_AVX512 void fill(const uint8_t* const (&a)[Lookup::kRows], int64_t stride, int64_t from, int64_t count,
                          int16_t* tables) {
  static const Sums sums;
  const __m512i as_is = _mm512_load_si512(sums.as_is), exchanged = _mm512_load_si512(sums.exchanged);
  const __m512i excess = _mm512_load_si512(sums.excess);
  for (int64_t group = from; group < from + count; ++group) {
    const int64_t at = 3 * group;
    for (int row = 0; row < Lookup::kRows; ++row, tables += Lookup::kBlock) {
      int32_t four = 0;
      if (at + 4 <= stride) {
        std::memcpy(&four, a[row] + at, 4);
      } else {
        std::memcpy(&four, a[row] + at, stride - at);
      }
      const __m512i bytes = _mm512_set1_epi32(four);
      const __m512i front = _mm512_maddubs_epi16(bytes, as_is);
      const __m512i back = _mm512_maddubs_epi16(_mm512_rol_epi32(bytes, 16), exchanged);
      _mm512_store_si512(tables, _mm512_sub_epi16(_mm512_add_epi16(front, back), excess));
    }
  }
}

template <int Blocks>
GRAPHOPT_AVX512 void look_up(const int16_t* tables, const uint16_t* index, int64_t groups, int32_t* sums,
                             int64_t width, bool begin) {
  constexpr int kRows = Lookup::kRows, kBlock = Lookup::kBlock;
  __m512i sum[kRows][Blocks];
#pragma GCC unroll 4
  for (int row = 0; row < kRows; ++row) {
#pragma GCC unroll 6
    for (int block = 0; block < Blocks; ++block) sum[row][block] = _mm512_setzero_si512();
  }
  for (int64_t group = 0; group < groups; ++group, tables += kRows * kBlock, index += Blocks * kBlock) {
    __m512i table[kRows];
#pragma GCC unroll 4
    for (int row = 0; row < kRows; ++row) table[row] = _mm512_load_si512(tables + row * kBlock);
#pragma GCC unroll 6
    for (int block = 0; block < Blocks; ++block) {
      const __m512i which = _mm512_loadu_si512(index + block * kBlock);
#pragma GCC unroll 4
      for (int row = 0; row < kRows; ++row) {
        sum[row][block] = _mm512_add_epi16(sum[row][block], _mm512_permutexvar_epi16(which, table[row]));
      }
      // One block after the other, or what all of them looked up has to wait in memory.
      asm volatile("" : "+v"(sum[0][block]), "+v"(sum[1][block]), "+v"(sum[2][block]), "+v"(sum[3][block])::"memory");
    }
  }
#pragma GCC unroll 4
  for (int row = 0; row < kRows; ++row) {
#pragma GCC unroll 6
    for (int block = 0; block < Blocks; ++block) {
      int32_t* out = sums + row * width + block * kBlock;
      __m512i low = _mm512_cvtepi16_epi32(_mm512_castsi512_si256(sum[row][block]));
      __m512i high = _mm512_cvtepi16_epi32(_mm512_extracti64x4_epi64(sum[row][block], 1));
      if (!begin) {
        low = _mm512_add_epi32(low, _mm512_loadu_si512(out));
        high = _mm512_add_epi32(high, _mm512_loadu_si512(out + 16));
      }
      _mm512_storeu_si512(out, low);
      _mm512_storeu_si512(out + 16, high);
    }
  }
}

}  // namespace

void Lookup::sum(const uint8_t* a, int64_t stride, int64_t rows, int64_t first, int64_t last, int16_t* tables,
                 int32_t* sums) const {
  using Blocks = void (*)(const int16_t*, const uint16_t*, int64_t, int32_t*, int64_t, bool);
  static constexpr Blocks kBy[kStrip + 1] = {nullptr,    look_up<1>, look_up<2>, look_up<3>,
                                             look_up<4>, look_up<5>, look_up<6>};
  const int64_t start = first_output(first), width = first_output(last) - start;
  for (int64_t from = 0; from < groups_; from += kChunk) {
    const int64_t count = std::min<int64_t>(kChunk, groups_ - from);
    const uint16_t* chunk = index_.data() + from * blocks_ * kBlock;
    for (int64_t row = 0; row < rows; row += kRows) {
      const uint8_t* of_rows[kRows];  // the last row again where there are fewer
      for (int i = 0; i < kRows; ++i) of_rows[i] = a + std::min(row + i, rows - 1) * stride;
      fill(of_rows, stride, from, count, tables);
      for (int64_t strip = first; strip < last; ++strip) {
        const int64_t output = first_output(strip), blocks = first_block(strip + 1) - first_block(strip);
        kBy[blocks](tables, chunk + output * count, count, sums + row * width + output - start, width, from == 0);
      }
    }
  }
}
#else
void Lookup::sum(const uint8_t*, int64_t, int64_t, int64_t, int64_t, int16_t*, int32_t*) const {}
#endif

}  // namespace ternary
}  // namespace graphopt
