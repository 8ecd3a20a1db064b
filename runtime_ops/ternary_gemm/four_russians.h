// TernaryGemm by the method of four Russians, for AVX-512 with VNNI: four ternary weights (-w, 0, w) choose one of 81 sums of four
// activations. 41 of them (the others are these, subtracted) lie in a table whose lanes are 32 rows, so that one load
// with one addition of 16-bit numbers is 128 products, where VNNI's instruction does 64. Loads and VNNI use different
// units: while sums are looked up for some outputs, VNNI multiplies the others, instruction by instruction.

#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "tiles.h"

namespace graphopt {
namespace ternary {

class FourRussians {
 public:
  static constexpr int kRows = 32;
  static constexpr int kGroup = 4;    // columns of a table
  static constexpr int kTables = 12;  // of a chunk of columns: they fill the first cache
  static constexpr int kSums = 41;    // of a table

  // digits[n * columns + k]: the weight's sign plus one. columns: a multiple of 16.
  FourRussians(const std::vector<uint8_t>& digits, int64_t outputs, int64_t columns);

  // What a product of kRows rows reads and writes. `packed` holds the panels of tiles.h, of zeros and of weights of
  // levels->most, whatever their sign; a pitch is in elements.
  // offset, factor, and bias have room for kOutputs more: y[row][n] = float(sum[row][n] - offset[n]) * factor[n] +
  // bias[n], where the sum is that of (a - 128) weight for outputs that are looked up, and of a weight for the others.
  struct Product {
    const uint8_t* a;
    int64_t a_pitch;
    const uint8_t* packed;
    const Levels* levels;
    const int32_t* offset;
    const float *factor, *bias;
    float* y;
    int64_t y_pitch;
  };
  // memory: `room()` bytes on a line of 64.
  void multiply(const Product& product, uint8_t* memory) const;
  int64_t room() const;

  int64_t multiplied() const { return multiplied_; }  // outputs, from the first one on: VNNI's, whole panels
  int64_t index_bytes() const;                        // that were added to the packed weights

 private:
  struct Chunk {
    std::array<int32_t, kTables + 1> runs{};  // how many outputs subtract 0, 1, ... of their sums
    bool widen = false;                       // first: its sums might not fit into 16 bits beside those so far
  };

  int64_t columns_, multiplied_, looked_up_;
  std::vector<Chunk> chunks_;
  std::vector<uint16_t> places_;  // [chunk][run, output][table]: bytes from the first table on; added ones come first
  std::vector<uint32_t> order_;   // [chunk][run, output]: 64 times the output behind the multiplied ones
};

}  // namespace ternary
}  // namespace graphopt
