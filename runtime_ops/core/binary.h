// What operators on single bits share: bits are packed 64 to a word (bit 1 is +1, bit 0 is -1, unused bits are 0), and a
// tile counts in how many places a few rows differ from a panel of columns.
//
// With a and w in {-1, +1}^K and d the number of places where they differ, sum_k a_k w_k = K - 2 d. A place that is
// masked out (zero padding) counts in neither: with v valid places the sum is v - 2 d.

#pragma once

#include <cstdint>

namespace graphopt::binary {

using Word = uint64_t;

constexpr int64_t kBits = 64;   // in a word
constexpr int64_t kRows = 4;    // of a tile
constexpr int64_t kLanes = 32;  // of a panel: columns side by side
constexpr int64_t kStep = 8;    // a narrower panel, the last one, has a multiple of this

inline int64_t words(int64_t bits) { return (bits + kBits - 1) / kBits; }
inline int64_t round_up(int64_t size, int64_t step) { return (size + step - 1) / step * step; }

// Columns that lie side by side: word k of lane l is `words[k * width + l]`. With a mask, `taps` groups of equally many
// words count in lane l if bit l of `mask[tap]` is set.
struct Panel {
  const Word* words;
  int64_t width;  // 8, 16, 24 or 32
  const uint32_t* mask;
  int64_t taps;
  int64_t words_per_tap;
};

// out[r * kLanes + l] = in how many places row r differs from lane l; `count` rows (1 to kRows), `stride` words apart.
using Tile = void (*)(const Word* rows, int64_t stride, int64_t count, const Panel& panel, int32_t* out);
Tile tile();

// A row of numbers: bit k of `out` is x[k] > 0; words(count) words are written.
template <class T>
void pack_row(const T* x, int64_t count, Word* out);

// Pixels first to last of an image whose channels lie `plane` numbers apart: pixel p has bit c = x[c * plane + p] > 0,
// in words(channels) words at out[p * stride].
template <class T>
void pack_pixels(const T* x, int64_t plane, int64_t channels, int64_t first, int64_t last, Word* out, int64_t stride);

}  // namespace graphopt::binary
