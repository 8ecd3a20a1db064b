#include <type_traits>

#include "add.h"
#include "cpu.h"
#include "half.h"
#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace graphopt {
namespace {

#define GRAPHOPT_INLINE inline __attribute__((always_inline))

// Integers wrap around; sums of 16-bit floats are sums in float32, rounded once, which is the nearest number: 24 bits
// are more than twice 11 and two.
template <class T>
GRAPHOPT_INLINE T plus(T a, T b) {
  if constexpr (std::is_same_v<T, Half>) {
    return to_half(to_float(a) + to_float(b));
  } else if constexpr (std::is_same_v<T, Bfloat16>) {
    return to_bfloat16(to_float(a) + to_float(b));
  } else if constexpr (std::is_integral_v<T>) {
    using Unsigned = std::make_unsigned_t<T>;
    return static_cast<T>(static_cast<Unsigned>(static_cast<Unsigned>(a) + static_cast<Unsigned>(b)));
  } else {
    return a + b;
  }
}

template <class T>
GRAPHOPT_INLINE T lifted(T a, T floor) {
  if constexpr (std::is_same_v<T, Half> || std::is_same_v<T, Bfloat16>) {
    return to_float(a) < to_float(floor) ? floor : a;
  } else {
    return a < floor ? floor : a;
  }
}

// One set of loops a set of instructions: the compiler writes each with what it may use.
#define GRAPHOPT_LOOPS(name, target)                                                              \
  template <class T>                                                                              \
  struct name {                                                                                   \
    target static void rows(void* out, const void* a, const void* b, int64_t count) {             \
      auto* o = static_cast<T*>(out);                                                             \
      const auto* x = static_cast<const T*>(a);                                                   \
      const auto* y = static_cast<const T*>(b);                                                   \
      for (int64_t i = 0; i < count; ++i) o[i] = plus(x[i], y[i]);                                \
    }                                                                                             \
    target static void number(void* out, const void* a, const void* b, int64_t count) {           \
      auto* o = static_cast<T*>(out);                                                             \
      const auto* x = static_cast<const T*>(a);                                                   \
      const T y = *static_cast<const T*>(b);                                                      \
      for (int64_t i = 0; i < count; ++i) o[i] = plus(x[i], y);                                   \
    }                                                                                             \
    target static void lift(void* out, const void* floor, int64_t count) {                        \
      auto* o = static_cast<T*>(out);                                                             \
      const T y = *static_cast<const T*>(floor);                                                  \
      for (int64_t i = 0; i < count; ++i) o[i] = lifted(o[i], y);                                 \
    }                                                                                             \
    target static void places(void* out, const void* b, const int64_t* at, int64_t count) {       \
      auto* o = static_cast<T*>(out);                                                             \
      const auto* y = static_cast<const T*>(b);                                                   \
      for (int64_t i = 0; i < count; ++i) o[at[i]] = plus(o[at[i]], y[i]);                        \
    }                                                                                             \
  };

GRAPHOPT_LOOPS(Portable, )
#if defined(GRAPHOPT_X86)
GRAPHOPT_LOOPS(Avx2, GRAPHOPT_AVX2)
GRAPHOPT_LOOPS(Avx512, GRAPHOPT_AVX512)

// float16, eight numbers at a time: the compiler does not find the instructions that convert it by itself.
GRAPHOPT_AVX2 void half_rows(void* out, const void* a, const void* b, int64_t count) {
  auto* o = static_cast<Half*>(out);
  const auto* x = static_cast<const Half*>(a);
  const auto* y = static_cast<const Half*>(b);
  int64_t i = 0;
  for (; i + 8 <= count; i += 8) {
    const __m256 left = _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(x + i)));
    const __m256 right = _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(y + i)));
    const __m128i sum = _mm256_cvtps_ph(_mm256_add_ps(left, right), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(o + i), sum);
  }
  Avx2<Half>::rows(o + i, x + i, y + i, count - i);
}

GRAPHOPT_AVX2 void half_number(void* out, const void* a, const void* b, int64_t count) {
  auto* o = static_cast<Half*>(out);
  const auto* x = static_cast<const Half*>(a);
  const __m256 right = _mm256_set1_ps(to_float(*static_cast<const Half*>(b)));
  int64_t i = 0;
  for (; i + 8 <= count; i += 8) {
    const __m256 left = _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(x + i)));
    const __m128i sum = _mm256_cvtps_ph(_mm256_add_ps(left, right), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(o + i), sum);
  }
  Avx2<Half>::number(o + i, x + i, b, count - i);
}

GRAPHOPT_AVX2 void half_lift(void* out, const void* floor, int64_t count) {
  auto* o = static_cast<Half*>(out);
  const __m256 least = _mm256_set1_ps(to_float(*static_cast<const Half*>(floor)));
  int64_t i = 0;
  for (; i + 8 <= count; i += 8) {
    const __m256 x = _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(o + i)));
    // The second operand is the result where one is no number: x stays what it was.
    const __m128i most = _mm256_cvtps_ph(_mm256_max_ps(least, x), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(o + i), most);
  }
  Avx2<Half>::lift(o + i, floor, count - i);
}
#endif

template <class T>
bool nothing(const void* number) {
  T x;
  std::memcpy(&x, number, sizeof x);
  if constexpr (std::is_same_v<T, Half> || std::is_same_v<T, Bfloat16>) {
    return x.bits == 0x8000u;
  } else if constexpr (std::is_integral_v<T>) {
    return x == 0;
  } else {
    return x == 0 && __builtin_signbit(x);
  }
}

template <class T>
Adding of() {
#if defined(GRAPHOPT_X86)
  const Cpu level = cpu();
  if constexpr (std::is_same_v<T, Half>) {
    if (level >= Cpu::kAvx2) return {half_rows, half_number, half_lift, Avx2<T>::places, nothing<T>};
  }
  if (level >= Cpu::kAvx512) {
    return {Avx512<T>::rows, Avx512<T>::number, Avx512<T>::lift, Avx512<T>::places, nothing<T>};
  }
  if (level >= Cpu::kAvx2) return {Avx2<T>::rows, Avx2<T>::number, Avx2<T>::lift, Avx2<T>::places, nothing<T>};
#endif
  return {Portable<T>::rows, Portable<T>::number, Portable<T>::lift, Portable<T>::places, nothing<T>};
}

}  // namespace

Adding adding(OrtElementType type) {
  switch (type) {
    case kFloat:
      return of<float>();
    case kDouble:
      return of<double>();
    case kFloat16:
      return of<Half>();
    case kBfloat16:
      return of<Bfloat16>();
    case kInt8:
      return of<int8_t>();
    case kUint8:
      return of<uint8_t>();
    case kInt32:
      return of<int32_t>();
    case kInt64:
      return of<int64_t>();
    default:
      throw Error("ScatterAdd does not add this type");
  }
}

}  // namespace graphopt
