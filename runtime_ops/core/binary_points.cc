#include "binary_points.h"

#include <algorithm>
#include <cstring>

#include "cpu.h"

#if defined(GRAPHOPT_X86)
#include <immintrin.h>
#endif

namespace graphopt::binary {
namespace {

#if defined(GRAPHOPT_X86)

constexpr int64_t kTogether = 4;  // registers of pixels whose bits are collected at once: rows of memory in one piece

inline __mmask16 lanes(int64_t count) { return static_cast<__mmask16>((1u << count) - 1); }

// Bits of up to 16 pixels `step` apart: x > 0. Nothing behind the last pixel is read.
GRAPHOPT_AVX512_VNNI inline __mmask16 positive(const float* x, int64_t step, int64_t count) {
  const __m512 zero = _mm512_setzero_ps();
  if (step == 1) return _mm512_cmp_ps_mask(_mm512_maskz_loadu_ps(lanes(count), x), zero, _CMP_GT_OQ);
  if (step == 2) {
    const int64_t read = 2 * count - 1;
    const __m512i even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    const __m512 low = _mm512_maskz_loadu_ps(lanes(std::min<int64_t>(read, kPoints)), x);
    __m512 high = zero;
    if (read > kPoints) high = _mm512_maskz_loadu_ps(lanes(read - kPoints), x + kPoints);
    return _mm512_cmp_ps_mask(_mm512_permutex2var_ps(low, even, high), zero, _CMP_GT_OQ);
  }
  uint32_t found = 0;
  for (int64_t i = 0; i < count; ++i) found |= static_cast<uint32_t>(x[i * step] > 0) << i;
  return static_cast<__mmask16>(found);
}

GRAPHOPT_AVX512_VNNI inline __mmask16 positive(const int8_t* x, int64_t step, int64_t count) {
  if (step == 1) return _mm_cmpgt_epi8_mask(_mm_maskz_loadu_epi8(lanes(count), x), _mm_setzero_si128());
  if (step == 2) {
    const auto read = static_cast<__mmask32>((uint64_t{1} << (2 * count - 1)) - 1);
    const __m256i even = _mm256_and_si256(_mm256_maskz_loadu_epi8(read, x), _mm256_set1_epi16(0xff));
    return _mm_cmpgt_epi8_mask(_mm256_cvtepi16_epi8(even), _mm_setzero_si128());
  }
  uint32_t found = 0;
  for (int64_t i = 0; i < count; ++i) found |= static_cast<uint32_t>(x[i * step] > 0) << i;
  return static_cast<__mmask16>(found);
}

// Pixels of one row: `count` from `x` on. kStep: a stride that the compiler knows, or 0.
template <int kStep, class T>
GRAPHOPT_AVX512_VNNI void pack_run(const T* x, int64_t plane, int64_t channels, int64_t across, int64_t count,
                                   Half* out, int64_t stride) {
  const int64_t step = kStep == 0 ? across : kStep;
  for (int64_t h = 0; h < channels; h += kHalfBits, x += kHalfBits * plane, out += stride) {
    const int64_t held = std::min(kHalfBits, channels - h);
    int64_t at = 0;
    for (; at + kTogether * kPoints <= count; at += kTogether * kPoints) {
      __m512i bits[kTogether];
      for (auto& some : bits) some = _mm512_setzero_si512();
      __m512i bit = _mm512_set1_epi32(1);
      for (int64_t c = 0; c < held; ++c, bit = _mm512_add_epi32(bit, bit)) {
#pragma GCC unroll 4
        for (int64_t i = 0; i < kTogether; ++i) {
          const __mmask16 ones = positive(x + c * plane + (at + i * kPoints) * step, step, kPoints);
          bits[i] = _mm512_mask_or_epi32(bits[i], ones, bits[i], bit);
        }
      }
      for (int64_t i = 0; i < kTogether; ++i) _mm512_storeu_si512(out + at + i * kPoints, bits[i]);
    }
    for (; at < count; at += kPoints) {
      __m512i bits = _mm512_setzero_si512(), bit = _mm512_set1_epi32(1);
      const int64_t some = std::min(kPoints, count - at);
      for (int64_t c = 0; c < held; ++c, bit = _mm512_add_epi32(bit, bit)) {
        bits = _mm512_mask_or_epi32(bits, positive(x + c * plane + at * step, step, some), bits, bit);
      }
      _mm512_mask_storeu_epi32(out + at, lanes(some), bits);
    }
  }
}

template <class T>
void pack(const T* x, int64_t plane, int64_t channels, const Grid& grid, int64_t first, int64_t last, Half* out,
          int64_t stride) {
  while (first < last) {
    const int64_t column = first % grid.out_width, count = std::min(last - first, grid.out_width - column);
    const T* from = x + first / grid.out_width * grid.down * grid.width + column * grid.across;
    const auto run = grid.across == 1 ? pack_run<1, T> : grid.across == 2 ? pack_run<2, T> : pack_run<0, T>;
    run(from, plane, channels, grid.across, count, out, stride);
    first += count;
    out += count;
  }
}

// R filters at V times 16 pixels; of the last register, the pixels in `mask`. kHeld: how many halves, if the compiler
// shall know it, or 0.
template <int kHeld, int R, int V, class To>
GRAPHOPT_AVX512_VNNI inline void points(const To& to, const Half* packed, int64_t stride, const Word* weights,
                                        int64_t pitch, int64_t held, __m512 all, int64_t m, typename To::Out* out,
                                        int64_t plane, __mmask16 mask) {
  if (kHeld != 0) held = kHeld;
  __m512i differ[R][V];
#pragma GCC unroll 4
  for (int64_t h = 0; h < held; ++h) {
    __m512i pixels[V];
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) pixels[v] = _mm512_loadu_si512(packed + h * stride + v * kPoints);
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) {
      int half;  // x86 is little-endian: halves lie in a word as channels do
      const auto* row = reinterpret_cast<const char*>(weights + r * pitch);
      std::memcpy(&half, row + h * static_cast<int64_t>(sizeof half), sizeof half);
      const __m512i filter = _mm512_set1_epi32(half);
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) {
        const __m512i count = _mm512_popcnt_epi32(_mm512_xor_si512(pixels[v], filter));
        differ[r][v] = h == 0 ? count : _mm512_add_epi32(differ[r][v], count);
      }
    }
  }
#pragma GCC unroll 4
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) {
      // Integers below 2^24: exact.
      const __m512 sum = _mm512_fnmadd_ps(_mm512_set1_ps(2.0f), _mm512_cvtepi32_ps(differ[r][v]), all);
      auto* at = out + r * plane + v * kPoints;
      if constexpr (sizeof(*at) == sizeof(float)) {
        const __m512 scaled = _mm512_mul_ps(sum, _mm512_set1_ps(to.scale[m + r]));
        const __m512 y = _mm512_add_ps(scaled, _mm512_set1_ps(to.bias[m + r]));
        if (v == V - 1) {
          _mm512_mask_storeu_ps(at, mask, y);
        } else {
          _mm512_storeu_ps(at, y);
        }
      } else {
        const __mmask16 above = _mm512_cmp_ps_mask(sum, _mm512_set1_ps(to.threshold[m + r]), _CMP_GT_OQ);
        const __m128i signs = _mm_mask_blend_epi8(above, _mm_set1_epi8(-1), _mm_set1_epi8(1));
        _mm_mask_storeu_epi8(at, v == V - 1 ? mask : lanes(kPoints), signs);
      }
    }
}

template <int kHeld, int R, class To>
GRAPHOPT_AVX512_VNNI void rows(const To& to, const Half* packed, int64_t stride, int64_t count, const Word* weights,
                               int64_t pitch, int64_t held, __m512 all, int64_t m, typename To::Out* out,
                               int64_t plane) {
  int64_t at = 0;
  for (; at + 2 * kPoints <= count; at += 2 * kPoints) {
    points<kHeld, R, 2>(to, packed + at, stride, weights, pitch, held, all, m, out + at, plane, lanes(kPoints));
  }
  for (; at < count; at += kPoints) {
    const __mmask16 mask = lanes(std::min(kPoints, count - at));
    points<kHeld, R, 1>(to, packed + at, stride, weights, pitch, held, all, m, out + at, plane, mask);
  }
}

template <int kHeld, class To>
GRAPHOPT_AVX512_VNNI void all_rows(const To& to, const Half* packed, int64_t stride, int64_t count, const Word* weights,
                                   int64_t pitch, int64_t filters, int64_t channels, typename To::Out* out,
                                   int64_t plane) {
  const __m512 all = _mm512_set1_ps(static_cast<float>(channels));
  const int64_t held = halves(channels);
  int64_t m = 0;
  for (; m + 4 <= filters; m += 4) {
    rows<kHeld, 4>(to, packed, stride, count, weights + m * pitch, pitch, held, all, m, out + m * plane, plane);
  }
  for (; m < filters; ++m) {
    rows<kHeld, 1>(to, packed, stride, count, weights + m * pitch, pitch, held, all, m, out + m * plane, plane);
  }
}

template <class To>
void product(const To& to, const Half* packed, int64_t stride, int64_t count, const Word* weights, int64_t pitch,
             int64_t filters, int64_t channels, typename To::Out* out, int64_t plane) {
  const auto run = halves(channels) == 2 ? all_rows<2, To> : halves(channels) == 4 ? all_rows<4, To> : all_rows<0, To>;
  run(to, packed, stride, count, weights, pitch, filters, channels, out, plane);
}

#endif  // GRAPHOPT_X86

}  // namespace

template <class T>
PackPoints<T> pack_points() {
#if defined(GRAPHOPT_X86)
  if (cpu() >= Cpu::kAvx512Vnni) return pack<T>;
#endif
  return nullptr;
}

template <class To>
Pointwise<To> pointwise() {
#if defined(GRAPHOPT_X86)
  if (cpu() >= Cpu::kAvx512Vnni) return product<To>;
#endif
  return nullptr;
}

template PackPoints<float> pack_points();
template PackPoints<int8_t> pack_points();
template Pointwise<Scaled> pointwise();
template Pointwise<Compared> pointwise();

}  // namespace graphopt::binary
