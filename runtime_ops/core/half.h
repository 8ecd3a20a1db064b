// The two 16-bit floats, as bits: what compilers before C++23 have no portable type for.

#pragma once

#include <cstdint>
#include <cstring>

namespace graphopt {

struct Half {
  uint16_t bits;
};

struct Bfloat16 {
  uint16_t bits;
};

inline uint32_t bits_of(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  return bits;
}

inline float float_of(uint32_t bits) {
  float x;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}

inline float to_float(Bfloat16 x) { return float_of(static_cast<uint32_t>(x.bits) << 16); }

// Rounds to nearest, ties to even; what is no number stays none.
inline Bfloat16 to_bfloat16(float x) {
  const uint32_t bits = bits_of(x);
  const uint32_t rounded = (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16;
  const uint32_t quiet = bits >> 16 | 0x40u;
  return {static_cast<uint16_t>((bits & 0x7fffffffu) > 0x7f800000u ? quiet : rounded)};
}

inline float to_float(Half x) {
  const uint32_t sign = static_cast<uint32_t>(x.bits & 0x8000u) << 16;
  const uint32_t rest = x.bits & 0x7fffu;
  if (rest >= 0x7c00u) return float_of(sign | 0x7f800000u | (rest & 0x3ffu) << 13 | ((rest & 0x3ffu) != 0 ? 1u << 22 : 0));
  if (rest < 0x400u) {  // subnormal: a multiple of 2^-24
    const float small = static_cast<float>(rest) * 0x1p-24f;
    return float_of(sign | bits_of(small));
  }
  return float_of(sign | ((rest << 13) + ((127u - 15u) << 23)));
}

// Rounds to nearest, ties to even; beyond the range is infinity.
inline Half to_half(float x) {
  const uint32_t bits = bits_of(x);
  const auto sign = static_cast<uint16_t>(bits >> 16 & 0x8000u);
  const uint32_t rest = bits & 0x7fffffffu;
  if (rest > 0x7f800000u) return {static_cast<uint16_t>(sign | 0x7e00u | (rest >> 13 & 0x3ffu))};
  if (rest >= 0x477ff000u) return {static_cast<uint16_t>(sign | 0x7c00u)};  // 65520 and more
  if (rest < 0x38800000u) {  // below the smallest normal: adding 0.5 rounds at the last bit of a subnormal
    const uint32_t rounded = bits_of(float_of(rest) + 0.5f) - bits_of(0.5f);
    return {static_cast<uint16_t>(sign | rounded)};
  }
  const uint32_t rounded = rest + 0xfffu + (rest >> 13 & 1u) - ((127u - 15u) << 23);
  return {static_cast<uint16_t>(sign | rounded >> 13)};
}

}  // namespace graphopt
