// SparseConv on the CPU: a nonzero weight is multiplied by contiguous pixels.
//
// The padded image is laid out so that what a tap of the kernel reads is one run of memory for all output pixels: with a
// stride s, as s planes of every s-th row and column (its phases), so that neighbours in the output are neighbours in a
// phase. Output pixel (y, x) is position y * width + x of a plane, a tap (c, ky, kx) reads it at a constant distance,
// and the sums run over all positions of a plane. Those between two rows of the output are computed and thrown away.

#include <algorithm>
#include <atomic>
#include <cstring>
#include <memory>
#include <mutex>
#include <vector>

#include "kernel.h"
#include "lines.h"
#include "sparse_rows.h"

namespace graphopt {
namespace {

constexpr int64_t kCache = 96 << 10;    // floats that a tile reads: within the second-level cache
constexpr int64_t kTogether = 1 << 20;  // floats of the images that are laid out at once
constexpr int64_t kPart = 1 << 13;      // multiply-adds of whole registers that are worth a thread's start
constexpr int64_t kReads = 8;           // of a plane, for which it is worth a copy
constexpr int64_t kRows = 16;           // output channels between two turns

// What a thread has laid out of an image, for itself. Were it shared, the lines of the cache that one thread has read
// would be slow to write for another: two threads took five times as long as one.
struct Planes {
  Lines memory;
  uint64_t call = 0;         // whose
  int64_t from = 0, to = 0;  // the rows that are there
};

int64_t floor_divided(int64_t a, int64_t b) { return a / b - (a % b < 0); }

// Copies a row of an image, mostly a short one: without a call, and the end once more with the last whole piece.
inline void copy(const float* from, int64_t count, float* to) {
  constexpr int64_t kWide = 8, kNarrow = 4;
  int64_t i = 0;
  if (count >= kWide) {
    for (; i + kWide <= count; i += kWide) std::memcpy(to + i, from + i, kWide * sizeof(float));
    std::memcpy(to + count - kWide, from + count - kWide, kWide * sizeof(float));
  } else if (count >= kNarrow) {
    std::memcpy(to, from, kNarrow * sizeof(float));
    std::memcpy(to + count - kNarrow, from + count - kNarrow, kNarrow * sizeof(float));
  } else {
    for (; i < count; ++i) to[i] = from[i];
  }
}

// The two axes of an image; one that it does not have has size 1.
struct Axis {
  int64_t kernel = 1, stride = 1, before = 0, after = 0, dilation = 1;

  int64_t output(int64_t size) const {
    return floor_divided(size + before + after - dilation * (kernel - 1) - 1, stride) + 1;
  }
  int64_t reach() const { return (kernel - 1) * dilation / stride; }  // in positions of a phase
};

// Where everything lies for images of one size.
struct Layout {
  int64_t images = 0, height = 0, width = 0;  // images: laid out together
  int64_t out_height = 0, out_width = 0;
  int64_t rows = 0, columns = 0;  // of a phase
  int64_t phase = 0, channel = 0;  // floats
  bool plain = false;   // no stride, no padding: a plane is an image's
  bool direct = false;  // the image is read where it lies
  std::vector<std::pair<int64_t, int64_t>> phases;
  SparseRows matrix;

  int64_t positions() const { return ((images - 1) * rows + out_height - 1) * columns + out_width; }
};

// Output pixels that lie together in a tile.
struct Run {
  int64_t image, from, to, length;
};

class SparseConv : public Kernel {
 public:
  explicit SparseConv(const Info& info) {
    const std::vector<int64_t> shape = info.integers("shape");
    require(shape.size() == 3 || shape.size() == 4, "shape: must be the weight's, [M, C/group, kH, kW] or [M, C/group, k]");
    for (const int64_t size : shape) require(size > 0, "shape: a size is not positive");
    const size_t spatial = shape.size() - 2;
    const auto strides = attribute(info, "strides", spatial, 1, 1);
    const auto dilations = attribute(info, "dilations", spatial, 1, 1);
    const auto pads = attribute(info, "pads", 2 * spatial, 0, 0);
    group_ = info.integer("group", 1);
    require(group_ > 0 && shape[0] % group_ == 0, "group: does not divide the output channels");
    relu_ = info.integer("relu", 0) != 0;
    spatial_ = spatial;
    out_channels_ = shape[0];
    in_channels_ = shape[1] * group_;
    for (size_t i = 0; i < spatial; ++i) {
      axes_[2 - spatial + i] = {shape[2 + i], strides[i], pads[i], pads[spatial + i], dilations[i]};
    }
    const int64_t taps = axes_[0].kernel * axes_[1].kernel, row = shape[1] * taps;
    require(in_channels_ * taps <= INT32_MAX, "shape: too large");
    const std::vector<Entry> entries = decode(info.constant(1), info.constant(2), out_channels_ * row);
    matrix_.begin.assign(static_cast<size_t>(out_channels_) + 1, 0);
    matrix_.nonzeros.reserve(entries.size());
    for (const Entry& e : entries) {
      const int64_t m = e.position / row, first = m / (out_channels_ / group_) * row;
      ++matrix_.begin[m + 1];
      matrix_.nonzeros.push_back({e.value, static_cast<int32_t>(first + e.position % row)});
    }
    for (int64_t m = 0; m < out_channels_; ++m) matrix_.begin[m + 1] += matrix_.begin[m];
  }

  void compute(Call& call) override {
    const Tensor x = call.input(0), bias = call.input(3);
    require(x.rank() == spatial_ + 2, "x: must have as many axes as the weight");
    require(x.shape[1] == in_channels_, "x: its channels do not fit the weight");
    require(bias.rank() == 1 && bias.count() == out_channels_, "bias: must have one number an output channel");
    const int64_t images = x.shape[0], height = spatial_ == 2 ? x.shape[2] : 1, width = x.shape.back();
    const int64_t out_height = axes_[0].output(height), out_width = axes_[1].output(width);
    require(out_height > 0 && out_width > 0, "x: smaller than the kernel");
    Shape shape{images, out_channels_};
    if (spatial_ == 2) shape.push_back(out_height);
    shape.push_back(out_width);
    const Tensor out = call.output(0, shape);
    if (images == 0) return;
    const std::shared_ptr<const Layout> layout = laid_out(images, height, width);
    for (int64_t first = 0; first < images; first += layout->images) {
      const int64_t some = std::min(layout->images, images - first);
      multiply(call, *layout, x.as<float>() + first * in_channels_ * height * width, some, bias.as<float>(),
               out.to<float>() + first * out_channels_ * out_height * out_width);
    }
  }

 private:
  static std::vector<int64_t> attribute(const Info& info, const char* name, size_t size, int64_t otherwise, int64_t least) {
    std::vector<int64_t> found = info.integers(name);
    if (found.empty()) found.assign(size, otherwise);
    if (found.size() != size) throw Error(std::string(name) + ": must have " + std::to_string(size) + " numbers");
    for (const int64_t one : found) {
      if (one < least) throw Error(std::string(name) + ": must not be below " + std::to_string(least));
    }
    return found;
  }

  // The layout for images of a size. It is kept: most models see one size only.
  std::shared_ptr<const Layout> laid_out(int64_t images, int64_t height, int64_t width) {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (layout_ && asked_ == images && layout_->height == height && layout_->width == width) return layout_;
    auto layout = std::make_shared<Layout>();
    Layout& l = *layout;
    const Axis &down = axes_[0], &across = axes_[1];
    l.height = height;
    l.width = width;
    l.out_height = down.output(height);
    l.out_width = across.output(width);
    // Planes that do not begin where a line of the cache does cost twice the loads: they are copied, unless hardly read.
    const bool aligned = height * width % 16 == 0 || matrix_.count() < kReads * in_channels_;
    l.plain = down.stride == 1 && across.stride == 1 &&
              down.before + down.after + across.before + across.after == 0;
    l.direct = aligned && l.plain;
    l.rows = l.out_height + down.reach();
    l.columns = l.out_width + across.reach();
    const int64_t taps = down.kernel * across.kernel;
    std::vector<int64_t> phase(taps), shift(taps);
    std::vector<bool> used(taps);
    for (const Nonzero& n : matrix_.nonzeros) used[n.column % taps] = true;
    for (int64_t tap = 0; tap < taps; ++tap) {
      if (!used[tap]) continue;
      const int64_t y = tap / across.kernel * down.dilation, x = tap % across.kernel * across.dilation;
      const std::pair<int64_t, int64_t> one{y % down.stride, x % across.stride};
      phase[tap] = std::find(l.phases.begin(), l.phases.end(), one) - l.phases.begin();
      if (phase[tap] == static_cast<int64_t>(l.phases.size())) l.phases.push_back(one);
      shift[tap] = y / down.stride * l.columns + x / across.stride;
    }
    if (l.direct) {
      l.images = 1;
      l.channel = l.phase = height * width;
    } else {
      const int64_t image = l.rows * l.columns;
      const auto planes = static_cast<int64_t>(l.phases.size());
      l.images = std::clamp<int64_t>(kTogether / (image * in_channels_ * std::max<int64_t>(planes, 1)), 1, images);
      // An odd number of lines: planes that are a power of two apart would share a few places in the caches.
      l.phase = (((l.images * image + 15) / 16) | 1) * 16;
      l.channel = l.phase * planes;
    }
    require(l.channel * in_channels_ <= INT32_MAX, "x: an image is too large");
    l.matrix = matrix_;
    for (Nonzero& n : l.matrix.nonzeros) {
      const int64_t tap = n.column % taps;
      n.column = static_cast<int32_t>(n.column / taps * l.channel + phase[tap] * l.phase + shift[tap]);
    }
    asked_ = images;
    layout_ = layout;
    return layout;
  }

  // Lays rows first to last of all channels out in phases, zeros around them. Row r is row r % l.rows of image r / l.rows.
  void pack(const Layout& l, const float* x, int64_t first, int64_t last, float* planes) const {
    for (int64_t channel = 0; channel < in_channels_; ++channel, planes += l.channel) {
      for (size_t phase = 0; phase < l.phases.size(); ++phase) {
        float* to = planes + static_cast<int64_t>(phase) * l.phase;
        for (int64_t row = first, next; row < last; row = next) {
          const int64_t image = row / l.rows, from = row % l.rows;
          next = std::min(last, (image + 1) * l.rows);
          place(l, x + (image * in_channels_ + channel) * l.height * l.width, l.phases[phase], from, from + next - row,
                to + row * l.columns);
        }
      }
    }
  }

  // What a tile of positions reads, laid out; a thread that goes through the tiles in turn does no row twice.
  const float* laid(const Layout& l, const float* x, int64_t images, int64_t first, int64_t count, uint64_t call) const {
    static thread_local Planes planes;
    float* data = planes.memory.floats(l.channel * in_channels_);
    const int64_t reach = axes_[0].reach() * l.columns + axes_[1].reach();
    const int64_t from = first / l.columns, to = std::min(images * l.rows, (first + count - 1 + reach) / l.columns + 1);
    if (planes.call != call || from < planes.from || from > planes.to) {
      planes.from = planes.to = from;
      planes.call = call;
    }
    if (to > planes.to) {
      pack(l, x, planes.to, to, data);
      planes.to = to;
    }
    return data;
  }

  // Rows first to last of a phase of a plane.
  void place(const Layout& l, const float* x, std::pair<int64_t, int64_t> phase, int64_t first, int64_t last,
             float* to) const {
    const Axis &down = axes_[0], &across = axes_[1];
    if (l.plain) return copy(x + first * l.width, (last - first) * l.width, to);
    const int64_t step = across.stride, offset = phase.second - across.before;  // column j is pixel j * step + offset
    const int64_t begin = std::clamp<int64_t>((step - 1 - offset) / step, 0, l.columns);
    const int64_t end = std::clamp<int64_t>(floor_divided(l.width - offset + step - 1, step), begin, l.columns);
    for (int64_t i = first; i < last; ++i, to += l.columns) {
      const int64_t y = i * down.stride + phase.first - down.before;
      if (y < 0 || y >= l.height) {
        std::fill(to, to + l.columns, 0.0f);
        continue;
      }
      const float* from = x + y * l.width + offset;
      std::fill(to, to + begin, 0.0f);
      if (step == 1) {
        copy(from + begin, end - begin, to + begin);
      } else if (step == 2) {  // a constant that compilers make vectors of
        for (int64_t j = begin; j < end; ++j) to[j] = from[j * 2];
      } else {
        for (int64_t j = begin; j < end; ++j) to[j] = from[j * step];
      }
      std::fill(to + end, to + l.columns, 0.0f);
    }
  }

  void multiply(Call& call, const Layout& l, const float* x, int64_t images, const float* bias, float* out) const {
    static std::atomic<uint64_t> calls{0};
    const uint64_t number = ++calls;
    const RowKernel& kernel = row_kernel();
    const int64_t positions = l.positions() - (l.images - images) * l.rows * l.columns;
    const int64_t wide = kCache / (in_channels_ * std::max<int64_t>(static_cast<int64_t>(l.phases.size()), 1));
    const int64_t most = std::clamp(wide / kernel.lanes * kernel.lanes, std::min(4 * kernel.lanes, kernel.widest), kernel.widest);
    const Tiles tiles(positions, most, kernel.lanes);
    const int64_t work = (matrix_.count() + 8 * out_channels_) * ((positions + kernel.lanes - 1) / kernel.lanes);
    const int64_t wanted = std::clamp<int64_t>(work / kPart, 1, 64);
    const int64_t cuts = std::min((wanted + tiles.count() - 1) / tiles.count(), out_channels_);
    const std::vector<int64_t> limits = l.matrix.cut(cuts);
    const Product p{l.matrix, x, 1, bias, relu_ ? Activation::kRelu : Activation::kNone};
    const int64_t plane = l.out_height * l.out_width, total = tiles.count() * cuts;
    const bool whole = l.columns == l.out_width && l.images == 1;  // positions are pixels
    call.parallel(total, std::max<int64_t>(1, total / wanted), [&](int64_t at, int64_t end) {
      alignas(64) float sums[kRows * 256];
      std::vector<Run> runs;
      for (; at < end; ++at) {
        const int64_t tile = at / cuts, first = tile * tiles.size, count = tiles.length(tile);
        const int64_t last = limits[at % cuts + 1];
        const float* planes = l.direct ? x : laid(l, x, images, first, count, number);
        if (whole) {
          const int64_t m = limits[at % cuts];
          kernel.run(p, m, last, planes + first, count, out + m * plane + first, plane);
          continue;
        }
        find(l, first, count, runs);
        for (int64_t m = limits[at % cuts]; m < last; m += kRows) {
          const int64_t rows = std::min(kRows, last - m);
          kernel.run(p, m, m + rows, planes + first, count, sums, tiles.size);
          for (int64_t r = 0; r < rows; ++r) {
            for (const Run& run : runs) {
              copy(sums + r * tiles.size + run.from, run.length,
                   out + (run.image * out_channels_ + m + r) * plane + run.to);
            }
          }
        }
      }
    });
  }

  // The output pixels among the positions of a tile.
  static void find(const Layout& l, int64_t first, int64_t count, std::vector<Run>& runs) {
    runs.clear();
    for (int64_t row = first / l.columns; row * l.columns < first + count; ++row) {
      const int64_t y = row % l.rows;
      const int64_t from = std::max(first, row * l.columns);
      const int64_t to = std::min(first + count, row * l.columns + l.out_width);
      if (y >= l.out_height || from >= to) continue;
      runs.push_back({row / l.rows, from - first, y * l.out_width + from - row * l.columns, to - from});
    }
  }

  Axis axes_[2];
  size_t spatial_ = 0;
  int64_t group_ = 1, out_channels_ = 0, in_channels_ = 0;
  bool relu_ = false;
  SparseRows matrix_;  // columns: channel * taps + tap

  std::mutex mutex_;
  std::shared_ptr<const Layout> layout_;
  int64_t asked_ = 0;  // images, when the layout was made
};

void infer(Inference& inference) {
  const TypeAndDims x = inference.input(0);
  const std::vector<int64_t> shape = inference.integers("shape");
  if (shape.size() < 3 || x.dims.size() != shape.size()) return;
  const size_t spatial = shape.size() - 2;
  std::vector<int64_t> strides = inference.integers("strides"), pads = inference.integers("pads");
  std::vector<int64_t> dilations = inference.integers("dilations");
  if (strides.empty()) strides.assign(spatial, 1);
  if (dilations.empty()) dilations.assign(spatial, 1);
  if (pads.empty()) pads.assign(2 * spatial, 0);
  if (strides.size() != spatial || dilations.size() != spatial || pads.size() != 2 * spatial) return;
  TypeAndDims out{x.type, {x.dims[0], Dim(shape[0])}};
  for (size_t i = 0; i < spatial; ++i) {
    const Axis axis{shape[2 + i], strides[i], pads[i], pads[spatial + i], dilations[i]};
    const int64_t size = x.dims[2 + i].size;
    out.dims.push_back(size < 0 || axis.stride < 1 ? Dim() : Dim(std::max<int64_t>(axis.output(size), 0)));
  }
  inference.output(0, out);
}

Operator describe(OrtElementType gaps) {
  return {"SparseConv", kCpu, {{kFloat}, {kFloat}, {gaps}, {kFloat}}, {{kFloat}}, make<SparseConv>, infer};
}

const Register of_uint8(describe(kUint8));
const Register of_int32(describe(kInt32));
const Register of_int64(describe(kInt64));

}  // namespace
}  // namespace graphopt
