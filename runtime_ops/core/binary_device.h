// The constants of a binary kernel on the GPU, and what is common to its calls.

#pragma once

#include <vector>

#include "binary_cuda.h"
#include "binary_weights.h"
#include "device.h"

namespace graphopt::binary {

// Filters [group][filters of a group][words], and the table of set bits that zero padding asks for.
class DeviceFilters {
 public:
  // `bytes`: [filters, down, across, ceil(channels / 8)].
  DeviceFilters(const uint8_t* bytes, int64_t filters, int64_t down, int64_t across, int64_t channels) {
    const int64_t taps = down * across, per_tap = (channels + 31) / 32, each = (channels + 7) / 8;
    words = padded_words(taps * per_tap);
    std::vector<uint32_t> packed(filters * words);
    std::vector<int32_t> counts((down + 1) * (across + 1) * filters);
    std::vector<Word> row(binary::words(channels));
    const auto count = [&](int64_t y, int64_t x, int64_t m) -> int32_t& {
      return counts[(y * (across + 1) + x) * filters + m];
    };
    for (int64_t m = 0; m < filters; ++m) {
      for (int64_t y = 0; y < down; ++y) {
        for (int64_t x = 0; x < across; ++x) {
          const int64_t tap = y * across + x;
          load_bits(bytes + (m * taps + tap) * each, channels, row.data());
          int32_t set = 0;
          for (int64_t w = 0; w < per_tap; ++w) {
            const auto word = static_cast<uint32_t>(row[w / 2] >> (w % 2 * 32));
            packed[m * words + tap * per_tap + w] = word;
            set += __builtin_popcount(word);
          }
          count(y + 1, x + 1, m) = set + count(y, x + 1, m) + count(y + 1, x, m) - count(y, x, m);
        }
      }
    }
    filters_ = DeviceCopy(packed);
    counts_ = DeviceCopy(counts);
  }

  const uint32_t* filters() const { return filters_.as<uint32_t>(); }
  const int32_t* counts() const { return counts_.as<int32_t>(); }

  int64_t words = 0;  // of a filter

 private:
  DeviceCopy filters_, counts_;
};

// Points a product to its epilogue: scale and bias (inputs 2 and 3), or thresholds (input 2).
inline void set_epilogue(const Call& call, int64_t filters, bool signs, Product& product) {
  product.scale = signs ? nullptr : channels_of(call, 2, filters, "scale");
  product.bias = signs ? nullptr : channels_of(call, 3, filters, "bias");
  product.threshold = signs ? channels_of(call, 2, filters, "threshold") : nullptr;
}

}  // namespace graphopt::binary
