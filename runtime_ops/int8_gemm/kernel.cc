// Int8Gemm and Int8GemmAdd on the CPU: y[..., n] = requantize(sum over k of x[..., k] w[k, n] + bias[n]).

#include <algorithm>

#include "int8_product.h"
#include "schema.h"

namespace graphopt {
namespace {

using int8::kColumns;
using int8::kRows;

constexpr int64_t kChunk = 8 * kRows;  // rows that are copied at once: they stay in the first cache

int8::Weights packed(const Tensor& w) {
  require(w.rank() == 2, "w must be a matrix");
  const int64_t depth = w.shape[0], columns = w.shape[1];
  int8::Weights weights(1, columns, (depth + 3) / 4 * 4);
  for (int64_t k = 0; k < depth; ++k) {
    for (int64_t n = 0; n < columns; ++n) weights.set(0, n, k, w.as<int8_t>()[k * columns + n]);
  }
  return weights;
}

class Int8Gemm : public Kernel {
 public:
  Int8Gemm(const Info& info, bool residual) : how_(info, residual) {
    if (const Tensor w = info.constant(1); w.present()) {
      weights_ = packed(w);
      constant_ = true;
    }
  }

  void compute(Call& call) override {
    const Tensor x = call.input(0), w = call.input(1);
    require(x.rank() >= 1, "x must have an axis");
    require(w.rank() == 2, "w must be a matrix");
    const int64_t depth = w.shape[0];
    require(x.shape.back() == depth, "the last axis of x and the first of w differ");
    int8::Weights of_this_call;
    if (!constant_) of_this_call = packed(w);
    const int8::Weights& weights = constant_ ? weights_ : of_this_call;
    int8::Columns columns;
    columns.set(call.input(2), call.input(3), weights, how_.x_zero_point);
    Shape shape = x.shape;
    shape.back() = weights.columns;
    Tensor residual;
    if (how_.residual) {
      residual = call.input(4);
      require(residual.shape == shape, "the residual must have the shape of y");
    }
    const Tensor y = call.output(0, shape);
    if (y.count() == 0) return;
    const int64_t rows = product(x.shape, 0, x.rank() - 1), panels = weights.panels_of_group();
    const int64_t chunks = (rows + kChunk - 1) / kChunk;
    // Few rows: threads share the columns.
    const int64_t strips = std::min<int64_t>(panels, std::max<int64_t>(1, 16 / chunks));
    const int64_t work = std::min(rows, kChunk) * weights.depth * weights.columns / strips;
    const Cpu level = cpu();
    call.parallel(chunks * strips, std::max<int64_t>(1, (1 << 18) / std::max<int64_t>(work, 1)),
                  [&](int64_t first, int64_t last) {
                    for (int64_t at = first; at < last; ++at) {
                      const int64_t row = at / strips * kChunk, strip = at % strips;
                      chunk(level, x.as<int8_t>() + row * depth, std::min(kChunk, rows - row), depth, weights, columns,
                            panels * strip / strips, panels * (strip + 1) / strips, y.to<int8_t>() + row * weights.columns,
                            how_.residual ? residual.as<int8_t>() + row * weights.columns : nullptr);
                    }
                  });
  }

 private:
  void chunk(Cpu level, const int8_t* x, int64_t count, int64_t depth, const int8::Weights& weights,
             const int8::Columns& columns, int64_t first_panel, int64_t last_panel, int8_t* y,
             const int8_t* residual) const {
    thread_local std::vector<uint8_t> bytes;
    bytes.resize(count * weights.depth);
    for (int64_t r = 0; r < count; ++r) {
      uint8_t* row = bytes.data() + r * weights.depth;
      for (int64_t k = 0; k < depth; ++k) row[k] = static_cast<uint8_t>(x[r * depth + k]) ^ 0x80;
      std::fill(row + depth, row + weights.depth, 0);
    }
    const int64_t start = 0;
    for (int64_t panel = first_panel; panel < last_panel; ++panel) {
      const int64_t column = panel * kColumns;
      for (int64_t r = 0; r < count; r += kRows) {
        const uint8_t* rows[kRows];
        const int64_t here = std::min<int64_t>(kRows, count - r);
        for (int64_t i = 0; i < kRows; ++i) rows[i] = bytes.data() + (r + std::min(i, here - 1)) * weights.depth;
        alignas(64) int32_t sums[kRows * kColumns];
        int8::tile(level, rows, &start, 1, weights.depth, weights.panel(0, panel), sums);
        const int64_t to = r * weights.columns + column;
        int8::finish(level, sums, here, std::min<int64_t>(kColumns, weights.columns - column),
                     columns.scale.data() + column, columns.bias.data() + column, how_,
                     {y + to, residual == nullptr ? nullptr : residual + to, weights.columns, 1});
      }
    }
  }

  int8::Requantize how_;
  int8::Weights weights_;
  bool constant_ = false;
};

template <bool Residual>
std::unique_ptr<Kernel> create(const Info& info) {
  return std::make_unique<Int8Gemm>(info, Residual);
}

const Register plain(describe(kCpu, create<false>));
const Register with_residual(describe_add(kCpu, create<true>));

}  // namespace
}  // namespace graphopt
