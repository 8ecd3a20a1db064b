// SparseGemm on the CPU: rows of x are laid side by side in panels (a transpose), so that every nonzero of the weight is
// multiplied by contiguous numbers; tiles of the result are turned back.

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <memory>
#include <mutex>
#include <vector>

#include "kernel.h"
#include "lines.h"
#include "sparse_rows.h"
#include "sparse_slices.h"

namespace graphopt {
namespace {

constexpr int64_t kCache = 96 << 10;      // floats of one panel: within the second-level cache
constexpr int64_t kPanels = 2 << 20;      // floats of the panels that are kept at once
constexpr int64_t kPart = 1 << 13;        // multiply-adds of whole registers that are worth a thread's start
constexpr int64_t kMoved = 1 << 13;       // floats that are laid side by side, that are
constexpr int64_t kFewPart = 1 << 12;     // nonzeros that are, for one row of x; a quarter of that for sixteen
constexpr int64_t kRows = 16;             // results that are turned back at once: a line of the output

class SparseGemm : public Kernel {
 public:
  explicit SparseGemm(const Info& info) {
    const std::vector<int64_t> shape = info.integers("shape");
    require(shape.size() == 2 && shape[0] >= 0 && shape[1] >= 0, "shape: must be the weight's two sizes, [K, N]");
    require(std::max(shape[0], shape[1]) <= INT32_MAX, "shape: too large");
    k_ = shape[0];
    n_ = shape[1];
    relu_ = info.integer("relu", 0) != 0;
    const std::vector<Entry> entries = decode(info.constant(1), info.constant(2), k_ * n_);
    matrix_.begin.assign(static_cast<size_t>(n_) + 1, 0);
    for (const Entry& e : entries) ++matrix_.begin[e.position % n_ + 1];
    for (int64_t n = 0; n < n_; ++n) matrix_.begin[n + 1] += matrix_.begin[n];
    matrix_.nonzeros.resize(entries.size());
    std::vector<int64_t> next(matrix_.begin.begin(), matrix_.begin.end() - 1);
    for (const Entry& e : entries) {
      matrix_.nonzeros[next[e.position % n_]++] = {e.value, static_cast<int32_t>(e.position / n_)};
    }
  }

  void compute(Call& call) override {
    const Tensor x = call.input(0), bias = call.input(3);
    require(x.rank() >= 2, "x: must have two axes or more");
    require(x.shape.back() == k_, "x: its last axis does not fit the weight");
    require(bias.rank() == 1 && bias.count() == n_, "bias: must have one number a column of the weight");
    Shape shape = x.shape;
    shape.back() = n_;
    const Tensor out = call.output(0, shape);
    const int64_t m = product(x.shape, 0, x.rank() - 1);
    if (m == 0 || n_ == 0) return;
    if (m <= SparseSlices::kMostPositions && k_ <= SparseSlices::kMostColumns) {
      few(call, x.as<float>(), m, bias.as<float>(), out.to<float>());
      return;
    }
    const RowKernel& kernel = row_kernel();
    const int64_t wide = kCache / std::max<int64_t>(k_, 1) / kernel.lanes * kernel.lanes;
    const Tiles tiles(m, std::clamp(wide, std::min(4 * kernel.lanes, kernel.widest), kernel.widest), kernel.lanes);
    const int64_t stride = tiles.size;
    Product p{matrix_, nullptr, stride, bias.as<float>(), relu_ ? Activation::kRelu : Activation::kNone};
    const int64_t panel = k_ * stride;
    const int64_t together = std::clamp<int64_t>(kPanels / std::max<int64_t>(panel, 1), 1, tiles.count());
    static thread_local Lines kept;  // the other threads read it while this one waits
    float* panels = kept.floats(together * panel);
    for (int64_t first = 0; first < tiles.count(); first += together) {
      const int64_t begin = first * tiles.size;
      Tiles some = tiles;
      some.positions = std::min(m - begin, together * tiles.size);
      pack(call, x.as<float>() + begin * k_, some, stride, panels);
      product_of(call, kernel, p, some, panels, out.to<float>() + begin * n_);
    }
  }

 private:
  void pack(Call& call, const float* x, const Tiles& tiles, int64_t stride, float* panels) const {
    constexpr int64_t kColumns = 64;
    const int64_t parts = (k_ + kColumns - 1) / kColumns;
    call.parallel(tiles.count() * parts, std::max<int64_t>(1, kMoved / (stride * kColumns)), [&](int64_t at, int64_t end) {
      for (; at < end; ++at) {
        const int64_t tile = at / parts, k = at % parts * kColumns;
        transpose(x + tile * tiles.size * k_ + k, k_, tiles.length(tile), std::min(kColumns, k_ - k),
                  panels + (tile * k_ + k) * stride, stride);
      }
    });
  }

  void product_of(Call& call, const RowKernel& kernel, const Product& p, const Tiles& tiles, const float* panels,
                float* out) const {
    const int64_t work = (matrix_.count() + 8 * n_) * ((tiles.positions + kernel.lanes - 1) / kernel.lanes);
    const int64_t wanted = std::clamp<int64_t>(work / kPart, 1, 64);
    const int64_t cuts = std::min((wanted + tiles.count() - 1) / tiles.count(), (n_ + kRows - 1) / kRows);
    const std::vector<int64_t> limits = matrix_.cut(cuts, kRows);  // no two threads write to one line
    const int64_t total = tiles.count() * cuts;
    call.parallel(total, std::max<int64_t>(1, total / wanted), [&](int64_t at, int64_t end) {
      alignas(64) float turned[kRows * 256];
      for (; at < end; ++at) {
        const int64_t tile = at / cuts, count = tiles.length(tile);
        const float* from = panels + tile * k_ * p.stride;
        float* to = out + tile * tiles.size * n_;
        for (int64_t n = limits[at % cuts], last = limits[at % cuts + 1]; n < last; n += kRows) {
          const int64_t rows = std::min(kRows, last - n);
          kernel.run(p, n, n + rows, from, count, turned, tiles.size);
          transpose(turned, tiles.size, rows, count, to + n, n_);
        }
      }
    });
  }

  // Few rows of x: all at once, the rows of the matrix side by side.
  void few(Call& call, const float* x, int64_t m, const float* bias, float* out) {
    std::call_once(sliced_, [&] { slices_ = std::make_unique<SparseSlices>(matrix_, k_); });
    static std::atomic<uint64_t> calls{0};
    const uint64_t number = ++calls;
    const int64_t width = slice_width(m);
    const int64_t steps = slices_->begin.back();
    const int64_t part = kFewPart >> (width == 1 ? 0 : width == 4 ? 1 : 2);
    const int64_t parts = std::clamp<int64_t>(steps * SparseSlices::kRows / part, 1, slices_->groups());
    const std::vector<int64_t> limits = slices_->cut(parts);
    call.parallel(parts, 1, [&](int64_t begin, int64_t end) {
      graphopt::multiply(*slices_, limits[begin], limits[end], side_by_side(x, m, width, number), m, bias,
                         relu_ ? Activation::kRelu : Activation::kNone, out, n_);
    });
  }

  // Few rows of x and a column of zeros behind them. Every thread has its own: were it shared, the lines of the cache that
  // one thread has read would be slow to write for another at the next call.
  const float* side_by_side(const float* x, int64_t m, int64_t width, uint64_t call) const {
    static thread_local Lines panel;
    static thread_local uint64_t present = 0;
    float* columns = panel.floats((k_ + 1) * width);
    if (present == call) return columns;
    if (width == 1) {
      std::memcpy(columns, x, static_cast<size_t>(k_) * sizeof(float));
    } else {
      transpose(x, k_, m, k_, columns, width);
    }
    for (int64_t k = 0; k < k_ && m < width; ++k) std::fill(columns + k * width + m, columns + (k + 1) * width, 0.0f);
    std::fill_n(columns + k_ * width, width, 0.0f);
    present = call;
    return columns;
  }

  SparseRows matrix_;  // row n: column n of the weight
  std::once_flag sliced_;
  std::unique_ptr<const SparseSlices> slices_;  // the same, made when few rows of x come
  int64_t k_, n_;
  bool relu_;
};

void infer(Inference& inference) {
  TypeAndDims out = inference.input(0);
  const std::vector<int64_t> shape = inference.integers("shape");
  if (out.dims.empty() || shape.size() != 2) return;
  out.dims.back() = Dim(shape[1]);
  inference.output(0, out);
}

Operator describe(OrtElementType gaps) {
  return {"SparseGemm", kCpu, {{kFloat}, {kFloat}, {gaps}, {kFloat}}, {{kFloat}}, make<SparseGemm>, infer};
}

const Register of_uint8(describe(kUint8));
const Register of_int32(describe(kInt32));
const Register of_int64(describe(kInt64));

}  // namespace
}  // namespace graphopt
