#include "sparse_slices.h"

#include <algorithm>
#include <cstring>
#include <numeric>

#include "cpu.h"

namespace graphopt {
namespace {

constexpr int kRows = SparseSlices::kRows;

template <int W>
struct Wide {
  typedef float Type __attribute__((vector_size(W * sizeof(float)), aligned(4), may_alias));
};

// Compiled into each of the functions below, for their instructions.
template <int W>
[[gnu::always_inline]] inline void slices(const SparseSlices& matrix, int64_t first, int64_t last, const float* x,
                                          int64_t count, const float* bias, Activation activation, float* out,
                                          int64_t out_stride) {
  using V = typename Wide<W>::Type;
  for (int64_t s = first; s < last; ++s) {
    const int32_t* row = matrix.row.data() + s * kRows;
    const float* value = matrix.value.data() + matrix.begin[s] * kRows;
    const float* end = matrix.value.data() + matrix.begin[s + 1] * kRows;
    const uint16_t* column = matrix.column.data() + matrix.begin[s] * kRows;
    V sum[kRows];
    for (int u = 0; u < kRows; ++u) sum[u] = V{} + (row[u] < 0 ? 0.0f : bias[row[u]]);
    for (; value != end; value += kRows, column += kRows) {
#pragma GCC unroll 8
      for (int u = 0; u < kRows; ++u) {
        sum[u] += *reinterpret_cast<const V*>(x + static_cast<size_t>(column[u]) * W) * value[u];
      }
    }
    for (int u = 0; u < kRows; ++u) {
      if (row[u] < 0) continue;
      float found[W];
      std::memcpy(found, &sum[u], sizeof found);
      for (int64_t j = 0; j < count; ++j) {
        out[j * out_stride + row[u]] = activation == Activation::kRelu && found[j] < 0.0f ? 0.0f : found[j];
      }
    }
  }
}

// One position: plain numbers.
[[gnu::always_inline]] inline void slices_of_one(const SparseSlices& matrix, int64_t first, int64_t last,
                                                 const float* x, const float* bias, Activation activation, float* out) {
  for (int64_t s = first; s < last; ++s) {
    const int32_t* row = matrix.row.data() + s * kRows;
    const float* value = matrix.value.data() + matrix.begin[s] * kRows;
    const float* end = matrix.value.data() + matrix.begin[s + 1] * kRows;
    const uint16_t* column = matrix.column.data() + matrix.begin[s] * kRows;
    float sum[kRows];
    for (int u = 0; u < kRows; ++u) sum[u] = row[u] < 0 ? 0.0f : bias[row[u]];
    for (; value != end; value += kRows, column += kRows) {
#pragma GCC unroll 8
      for (int u = 0; u < kRows; ++u) sum[u] += x[column[u]] * value[u];
    }
    for (int u = 0; u < kRows; ++u) {
      if (row[u] >= 0) out[row[u]] = activation == Activation::kRelu && sum[u] < 0.0f ? 0.0f : sum[u];
    }
  }
}

#define GRAPHOPT_SLICES(name, attribute)                                                                            \
  attribute void name(const SparseSlices& m, int64_t first, int64_t last, const float* x, int64_t count,            \
                      const float* bias, Activation a, float* out, int64_t out_stride) {                            \
    if (count == 1) return slices_of_one(m, first, last, x, bias, a, out);                                          \
    if (count <= 4) return slices<4>(m, first, last, x, count, bias, a, out, out_stride);                           \
    if (count <= 8) return slices<8>(m, first, last, x, count, bias, a, out, out_stride);                           \
    slices<16>(m, first, last, x, count, bias, a, out, out_stride);                                                 \
  }

GRAPHOPT_SLICES(portable, )
#if GRAPHOPT_X86
GRAPHOPT_SLICES(avx2, GRAPHOPT_AVX2)
GRAPHOPT_SLICES(avx512, GRAPHOPT_AVX512)
#endif

}  // namespace

SparseSlices::SparseSlices(const SparseRows& matrix, int64_t columns) {
  require(columns <= kMostColumns, "too many columns for slices");
  const int64_t rows = matrix.rows();
  const auto length = [&](int32_t r) { return matrix.begin[r + 1] - matrix.begin[r]; };
  row.resize(static_cast<size_t>(rows));
  std::iota(row.begin(), row.end(), 0);
  for (int64_t first = 0; first < rows; first += kSorted) {
    std::stable_sort(row.begin() + first, row.begin() + std::min(rows, first + kSorted),
                     [&](int32_t a, int32_t b) { return length(a) > length(b); });
  }
  row.resize(static_cast<size_t>((rows + kRows - 1) / kRows * kRows), -1);
  for (size_t s = 0; s < row.size(); s += kRows) begin.push_back(begin.back() + length(row[s]));
  value.assign(static_cast<size_t>(begin.back() * kRows), 0.0f);
  column.assign(value.size(), static_cast<uint16_t>(columns));
  for (size_t i = 0; i < row.size(); ++i) {
    if (row[i] < 0) continue;
    size_t at = static_cast<size_t>(begin[i / kRows]) * kRows + i % kRows;
    for (int64_t n = matrix.begin[row[i]]; n < matrix.begin[row[i] + 1]; ++n, at += kRows) {
      value[at] = matrix.nonzeros[n].value;
      column[at] = static_cast<uint16_t>(matrix.nonzeros[n].column);
    }
  }
}

std::vector<int64_t> SparseSlices::cut(int64_t parts) const {
  constexpr int64_t kTogether = kSorted / kRows;
  std::vector<int64_t> limits{0};
  for (int64_t part = 1; part < parts; ++part) {
    const auto found = std::lower_bound(begin.begin(), begin.end() - 1, begin.back() * part / parts) - begin.begin();
    limits.push_back((found + kTogether / 2) / kTogether * kTogether);
  }
  limits.push_back(slices());
  return limits;
}

int64_t slice_width(int64_t count) { return count == 1 ? 1 : count <= 4 ? 4 : count <= 8 ? 8 : 16; }

void multiply(const SparseSlices& matrix, int64_t first, int64_t last, const float* x, int64_t count, const float* bias,
              Activation activation, float* out, int64_t out_stride) {
  auto run = portable;
#if GRAPHOPT_X86
  if (cpu() >= Cpu::kAvx2) run = avx2;
  if (cpu() >= Cpu::kAvx512) run = avx512;
#endif
  run(matrix, first, last, x, count, bias, activation, out, out_stride);
}

}  // namespace graphopt
