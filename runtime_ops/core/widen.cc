#include "widen.h"

#include "cpu.h"
#include "half.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace graphopt {
namespace {

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

#endif

}  // namespace

Widening widening(OrtElementType type) {
  require(type == kFloat16 || type == kBfloat16, "these numbers are no 16-bit floats");
#if defined(GRAPHOPT_X86)
  if (cpu() >= Cpu::kAvx2) {
    return type == kFloat16 ? Widening{from_half_avx2, to_half_avx2} : Widening{from_bfloat16_avx2, to_bfloat16_avx2};
  }
#endif
  return type == kFloat16 ? Widening{from_half, to_half} : Widening{from_bfloat16, to_bfloat16};
}

}  // namespace graphopt
