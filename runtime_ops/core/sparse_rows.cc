#include "sparse_rows.h"

#include <algorithm>
#include <string>

namespace graphopt {
namespace {

template <class T>
std::vector<Entry> summed(const Tensor& values, const Tensor& gaps, int64_t size) {
  std::vector<Entry> entries;
  entries.reserve(static_cast<size_t>(values.count()));
  const auto* value = values.as<float>();
  const auto* gap = gaps.as<T>();
  int64_t position = 0;
  for (int64_t i = 0; i < values.count(); ++i) {
    const auto step = static_cast<int64_t>(gap[i]);
    require(step > 0 || (step == 0 && i == 0), "gaps: one behind the first is not positive");
    require(step < size - position, "gaps: they reach beyond the weight");
    position += step;
    if (value[i] != 0.0f) entries.push_back({position, value[i]});
  }
  return entries;
}

}  // namespace

std::vector<Entry> decode(const Tensor& values, const Tensor& gaps, int64_t size) {
  require(values.present(), "values: must be an initializer");
  require(gaps.present(), "gaps: must be an initializer");
  require(values.type == kFloat && values.rank() == 1, "values: must be float32 with one axis");
  require(gaps.rank() == 1 && gaps.count() == values.count(), "gaps: must have one axis, as long as values");
  switch (gaps.type) {
    case kUint8:
      return summed<uint8_t>(values, gaps, size);
    case kInt32:
      return summed<int32_t>(values, gaps, size);
    case kInt64:
      return summed<int64_t>(values, gaps, size);
    default:
      throw Error("gaps: must be uint8, int32 or int64");
  }
}

std::vector<int64_t> SparseRows::cut(int64_t parts, int64_t step) const {
  // A row costs something even where it is empty: it is written. Eight nonzeros is about that much.
  constexpr int64_t kRow = 8;
  const int64_t all = count() + kRow * rows();
  std::vector<int64_t> limits{0};
  for (int64_t part = 1; part < parts; ++part) {
    const int64_t wanted = all * part / parts;
    int64_t low = limits.back(), high = rows();
    while (low < high) {
      const int64_t middle = (low + high) / 2;
      if (begin[middle] + kRow * middle < wanted) {
        low = middle + 1;
      } else {
        high = middle;
      }
    }
    limits.push_back(std::min(rows(), std::max(limits.back(), (low + step / 2) / step * step)));
  }
  limits.push_back(rows());
  return limits;
}

Tiles::Tiles(int64_t positions, int64_t most, int64_t lanes) : positions(positions), size(0) {
  if (positions == 0) return;
  const int64_t registers = (positions + lanes - 1) / lanes;
  const int64_t tiles = (registers + most / lanes - 1) / (most / lanes);
  size = (registers + tiles - 1) / tiles * lanes;
}

}  // namespace graphopt
