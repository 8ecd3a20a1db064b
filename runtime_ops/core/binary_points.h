// Pointwise convolutions of signs: a window of one tap without padding, so that an output pixel is one pixel of the
// input under every filter. There is little to multiply and much to read and write: only the pixels that the strides
// keep are packed, into words that lie as the product reads them, and each sum is scaled and written from its register.

#pragma once

#include <cstdint>

#include "binary.h"

namespace graphopt::binary {

using Half = uint32_t;  // of a word: as wide as the float that becomes of its count

constexpr int64_t kHalfBits = 32;
constexpr int64_t kPoints = 16;  // output pixels in a register

inline int64_t halves(int64_t bits) { return (bits + kHalfBits - 1) / kHalfBits; }

// Output pixel p is pixel (p / out_width * down, p % out_width * across) of an image with rows of `width`.
struct Grid {
  int64_t width, out_width, down, across;
};

// Channels of a pixel, 32 to a half: half h of output pixel p is out[h * stride + p - first], first <= p < last. Nothing
// else is written. Channels lie `plane` numbers apart.
template <class T>
using PackPoints = void (*)(const T* x, int64_t plane, int64_t channels, const Grid& grid, int64_t first, int64_t last,
                            Half* out, int64_t stride);

// What becomes of a sum: float(sum) * scale[m] + bias[m], or 1 where float(sum) > threshold[m] and -1 elsewhere.
struct Scaled {
  using Out = float;
  const float* scale;
  const float* bias;
  Scaled from(int64_t channel) const { return {scale + channel, bias + channel}; }
};
struct Compared {
  using Out = int8_t;
  const float* threshold;
  Compared from(int64_t channel) const { return {threshold + channel}; }
};

// out[m * plane + p] for filters m < filters and p < count. Filter m is weights[m * pitch] and on; what is packed is
// read up to the next multiple of kPoints.
template <class To>
using Pointwise = void (*)(const To& to, const Half* packed, int64_t stride, int64_t count, const Word* weights,
                           int64_t pitch, int64_t filters, int64_t channels, typename To::Out* out, int64_t plane);

// Those of this processor; null where it has none (they need VPOPCNTDQ).
template <class T>
PackPoints<T> pack_points();
template <class To>
Pointwise<To> pointwise();

}  // namespace graphopt::binary
