// TernaryGemm by looking sums up, for AVX-512 without VNNI: three ternary weights are one of 27 sums of three activations,
// and one VPERMW looks 32 of them up: 96 products, where VNNI's instruction does 64 and AVX2 needs two for 32. Tables cost
// time, so that it takes many rows and many outputs.

#pragma once

#include <cstdint>
#include <vector>

namespace graphopt {
namespace ternary {

class Lookup {
 public:
  static constexpr int kBlock = 32;    // outputs that one instruction looks up
  static constexpr int kStrip = 6;     // blocks of outputs that stay in registers, for kRows rows
  static constexpr int kRows = 4;
  static constexpr int kChunk = 85;    // groups of three columns whose sums fit into 16 bits: 85 * 3 * 128 <= 32767

  // digits[n * columns + k]: the weight plus one.
  Lookup(const std::vector<uint8_t>& digits, int64_t outputs, int64_t columns);

  int64_t strips() const { return strips_; }
  int64_t first_output(int64_t strip) const { return first_block(strip) * kBlock; }

  // sums[row][output - first output] = sum over the columns of (a[row][column] - 128) weight[output][column], for the
  // strips from `first` to before `last`. sums: [rows rounded up to kRows][outputs of the strips, whole blocks];
  // tables: room for kTables numbers, on a line of 64 bytes, as sums is. Rows of `a` end at `stride` bytes.
  void sum(const uint8_t* a, int64_t stride, int64_t rows, int64_t first, int64_t last, int16_t* tables,
           int32_t* sums) const;
  static constexpr int64_t kTables = int64_t{kChunk} * kRows * kBlock;

 private:
  int64_t first_block(int64_t strip) const { return blocks_ * strip / strips_; }

  int64_t columns_, groups_, blocks_, strips_;
  std::vector<uint16_t> index_;  // chunk, strip, group, output
};

}  // namespace ternary
}  // namespace graphopt
