// From numbers to bins, for every processor. Zeros are most of what comes out of a ReLU: they are left out of the list of
// bins, and whoever counts knows how many there were from its length. Counting them one by one would wait for the same
// counter again and again.

#include <algorithm>
#include <cmath>
#include <limits>

#include "bins.h"
#include "cpu.h"
#include "half.h"

#ifdef GRAPHOPT_X86
#include <immintrin.h>
#endif

namespace graphopt::histogram {
namespace {

template <class T>
Range plain_range(const T* x, int64_t n) {
  T low = std::numeric_limits<T>::infinity(), high = -low;
  bool finite = true;
  for (int64_t i = 0; i < n; ++i) {
    low = x[i] < low ? x[i] : low;
    high = x[i] > high ? x[i] : high;
    finite &= x[i] - x[i] == 0;  // NaN of NaN and of infinities
  }
  return {low, high, finite};
}

template <class T>
int64_t plain_bins(const T* x, int64_t n, T scale, uint16_t* bins) {
  int64_t found = 0;
  for (int64_t i = 0; i < n; ++i) {
    const auto t = static_cast<int32_t>(x[i] * scale);
    bins[found] = static_cast<uint16_t>(t);
    found += t != 0;  // no branch: it would be foreseen half of the time
  }
  return found;
}

// A product with a power of two is exact, or smaller than one either way. Beyond the largest power of two that double
// has, in two steps.
template <class T>
int64_t wide_bins(const T* x, int64_t n, int scale, uint16_t* bins) {
  const double first = std::ldexp(1.0, std::min(scale, 1000)), second = std::ldexp(1.0, std::max(scale - 1000, 0));
  int64_t found = 0;
  for (int64_t i = 0; i < n; ++i) {
    const auto t = static_cast<int32_t>(static_cast<double>(x[i]) * first * second);
    bins[found] = static_cast<uint16_t>(t);
    found += t != 0;
  }
  return found;
}

void portable_half(const uint16_t* x, int64_t n, float* out) {
  for (int64_t i = 0; i < n; ++i) out[i] = to_float(Half{x[i]});
}

Range portable_range(const float* x, int64_t n) { return plain_range(x, n); }
int64_t portable_bins(const float* x, int64_t n, float scale, uint16_t* bins) { return plain_bins(x, n, scale, bins); }

#ifdef GRAPHOPT_X86

constexpr int32_t kSign = INT32_MAX, kInfinity = 0x7f800000;

GRAPHOPT_AVX2 Range avx2_range(const float* x, int64_t n) {
  if (n < 8) return plain_range(x, n);
  const __m256i sign = _mm256_set1_epi32(kSign);
  __m256 low = _mm256_loadu_ps(x), high = low;
  __m256i largest = _mm256_setzero_si256();
  for (int64_t i = 0; i < n; i += 8) {
    const __m256 v = _mm256_loadu_ps(x + std::min(i, n - 8));  // the last ones may come twice
    low = _mm256_min_ps(low, v);
    high = _mm256_max_ps(high, v);
    largest = _mm256_max_epi32(largest, _mm256_and_si256(_mm256_castps_si256(v), sign));
  }
  float lows[8], highs[8];
  int32_t most[8];
  _mm256_storeu_ps(lows, low);
  _mm256_storeu_ps(highs, high);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(most), largest);
  return {*std::min_element(lows, lows + 8), *std::max_element(highs, highs + 8),
          *std::max_element(most, most + 8) < kInfinity};
}

// For each set of lanes, the order that brings them to the front.
struct Order {
  alignas(32) int32_t lanes[256][8] = {};
  Order() {
    for (int set = 0; set < 256; ++set) {
      int at = 0;
      for (int lane = 0; lane < 8; ++lane) {
        if (set >> lane & 1) lanes[set][at++] = lane;
      }
    }
  }
};

GRAPHOPT_AVX2 int64_t avx2_bins(const float* x, int64_t n, float scale, uint16_t* bins) {
  static const Order order;
  const __m256 by = _mm256_set1_ps(scale);
  const __m256i low = _mm256_set1_epi32(0xffff);
  int64_t found = 0, i = 0;
  for (; i + 8 <= n; i += 8) {
    const __m256i t = _mm256_cvttps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x + i), by));
    const __m256i zero = _mm256_cmpeq_epi32(t, _mm256_setzero_si256());
    const int set = ~_mm256_movemask_ps(_mm256_castsi256_ps(zero)) & 0xff;
    const __m256i lanes = _mm256_load_si256(reinterpret_cast<const __m256i*>(order.lanes[set]));
    const __m256i front = _mm256_and_si256(_mm256_permutevar8x32_epi32(t, lanes), low);
    const __m128i packed = _mm_packus_epi32(_mm256_castsi256_si128(front), _mm256_extracti128_si256(front, 1));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(bins + found), packed);
    found += __builtin_popcount(static_cast<unsigned>(set));
  }
  return found + plain_bins(x + i, n - i, scale, bins + found);
}

GRAPHOPT_AVX2 void avx2_half(const uint16_t* x, int64_t n, float* out) {
  int64_t i = 0;
  for (; i + 8 <= n; i += 8) {
    _mm256_storeu_ps(out + i, _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(x + i))));
  }
  portable_half(x + i, n - i, out + i);
}

GRAPHOPT_AVX512 Range avx512_range(const float* x, int64_t n) {
  if (n < 16) return plain_range(x, n);
  const __m512i sign = _mm512_set1_epi32(kSign);
  __m512 low = _mm512_loadu_ps(x), high = low;
  __m512i largest = _mm512_setzero_si512();
  for (int64_t i = 0; i < n; i += 16) {
    const __m512 v = _mm512_loadu_ps(x + std::min(i, n - 16));
    low = _mm512_min_ps(low, v);
    high = _mm512_max_ps(high, v);
    largest = _mm512_max_epi32(largest, _mm512_and_si512(_mm512_castps_si512(v), sign));
  }
  return {_mm512_reduce_min_ps(low), _mm512_reduce_max_ps(high), _mm512_reduce_max_epi32(largest) < kInfinity};
}

GRAPHOPT_AVX512 int64_t avx512_bins(const float* x, int64_t n, float scale, uint16_t* bins) {
  const __m512 by = _mm512_set1_ps(scale);
  int64_t found = 0, i = 0;
  for (; i + 16 <= n; i += 16) {
    const __m512i t = _mm512_cvttps_epi32(_mm512_mul_ps(_mm512_loadu_ps(x + i), by));
    const __mmask16 set = _mm512_test_epi32_mask(t, t);
    const __m256i packed = _mm512_cvtepi32_epi16(_mm512_maskz_compress_epi32(set, t));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(bins + found), packed);
    found += __builtin_popcount(set);
  }
  return found + plain_bins(x + i, n - i, scale, bins + found);
}

#endif  // GRAPHOPT_X86

struct Ways {
  Range (*range)(const float*, int64_t);
  int64_t (*bins)(const float*, int64_t, float, uint16_t*);
  void (*half)(const uint16_t*, int64_t, float*);
};

// Asked for each piece: tests limit the processor while the library is loaded.
Ways ways() {
#ifdef GRAPHOPT_X86
  if (cpu() >= Cpu::kAvx512) return {avx512_range, avx512_bins, avx2_half};
  if (cpu() >= Cpu::kAvx2) return {avx2_range, avx2_bins, avx2_half};
#endif
  return {portable_range, portable_bins, portable_half};
}

}  // namespace

Range range(const float* x, int64_t n) { return ways().range(x, n); }
Range range(const double* x, int64_t n) { return plain_range(x, n); }

int64_t bins(const float* x, int64_t n, int scale, uint16_t* bins) {
  if (scale < -126 || scale > 127) return wide_bins(x, n, scale, bins);  // not a float
  return ways().bins(x, n, std::ldexp(1.0f, scale), bins);
}

int64_t bins(const double* x, int64_t n, int scale, uint16_t* bins) { return wide_bins(x, n, scale, bins); }

void widen_half(const uint16_t* x, int64_t n, float* out) { ways().half(x, n, out); }

void widen_brain(const uint16_t* x, int64_t n, float* out) {
  for (int64_t i = 0; i < n; ++i) out[i] = to_float(Bfloat16{x[i]});
}

}  // namespace graphopt::histogram
