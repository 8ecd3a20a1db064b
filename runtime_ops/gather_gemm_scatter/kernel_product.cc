#include "cpu.h"
#include "product.h"
#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace graphopt {
namespace {

namespace portable {
#define GRAPHOPT_TARGET
#define GRAPHOPT_LANES 4
#define GRAPHOPT_FUSED(x, w, s) ((x) * (w) + (s))
#define GRAPHOPT_ROWS 3
#define GRAPHOPT_PANELS 1
#define GRAPHOPT_FEW_ROWS 1
#define GRAPHOPT_FEW 2
#include "product.inc"
}  // namespace portable

#if defined(GRAPHOPT_X86)
namespace avx2 {
#define GRAPHOPT_TARGET GRAPHOPT_AVX2
#define GRAPHOPT_LANES 8
#define GRAPHOPT_FUSED(x, w, s) _mm256_fmadd_ps(_mm256_set1_ps(x), w, s)
#define GRAPHOPT_ROWS 6
#define GRAPHOPT_PANELS 1
#define GRAPHOPT_FEW_ROWS 2
#define GRAPHOPT_FEW 3
#include "product.inc"
}  // namespace avx2

namespace avx512 {
#define GRAPHOPT_TARGET GRAPHOPT_AVX512
#define GRAPHOPT_LANES 16
#define GRAPHOPT_FUSED(x, w, s) _mm512_fmadd_ps(_mm512_set1_ps(x), w, s)
#define GRAPHOPT_ROWS 14
#define GRAPHOPT_PANELS 2
#define GRAPHOPT_FEW_ROWS 3
#define GRAPHOPT_FEW 8
#include "product.inc"
}  // namespace avx512
#endif

}  // namespace

Product product_for_this_processor() {
#if defined(GRAPHOPT_X86)
  if (cpu() >= Cpu::kAvx512) return avx512::kProduct;
  if (cpu() >= Cpu::kAvx2) return avx2::kProduct;
#endif
  return portable::kProduct;
}

}  // namespace graphopt
