// Int8Conv and Int8ConvAdd on the CPU.
//
// An image is copied once into a padded one, [group][row][column][channel] with the channels a multiple of 4, so that no
// tap needs a look at the borders and the taps of a row follow each other. A row of the product is a position of the
// output: its bytes are one segment a row of taps (or one a tap, where taps are spread), at the same distances for every
// position.

#include <algorithm>
#include <cstring>

#include "int8_product.h"
#include "int8_window.h"
#include "schema.h"

namespace graphopt {
namespace {

using int8::kColumns;
using int8::kRows;
using int8::Sizes;
using int8::Window;

constexpr int64_t kChunk = 8 * kRows;        // positions of a part of the work
constexpr int64_t kImages = 8 << 20;         // bytes of padded images at once: what the caches hold
constexpr int64_t kStrip = 4;                // panels of a part of the work

// Weights in the order of the padded image: taps, then channels.
int8::Weights packed(const Tensor& w, int64_t group) {
  const int64_t filters = w.shape[0], channels = w.shape[1], taps = product(w.shape, 2);
  require(filters % group == 0, "the filters of w are no multiple of group");
  const int64_t wide = (channels + 3) / 4 * 4, columns = filters / group;
  int8::Weights weights(group, columns, taps * wide);
  const int8_t* from = w.as<int8_t>();
  for (int64_t n = 0; n < filters; ++n) {
    for (int64_t c = 0; c < channels; ++c) {
      for (int64_t t = 0; t < taps; ++t) weights.set(n / columns, n % columns, t * wide + c, *from++);
    }
  }
  return weights;
}

// The padded images, and where taps lie in them.
struct Images {
  int64_t wide, height, width, groups, channels;  // numbers of a position, padded sizes, groups and channels of a group
  std::vector<int64_t> segments;
  int64_t length;

  Images(const Sizes& s, const Window& window, bool depthwise)
      : wide(((depthwise ? s.groups : s.channels) + 3) / 4 * 4),
        height(s.height + window.pad_top + window.pad_bottom),
        width(s.width + window.pad_left + window.pad_right),
        groups(depthwise ? 1 : s.groups),
        channels(depthwise ? s.groups : s.channels) {
    const bool joined = window.dilation_width == 1 && !depthwise;
    length = joined ? s.kernel_width * wide : wide;
    for (int64_t r = 0; r < s.kernel_height; ++r) {
      for (int64_t c = 0; c < (joined ? 1 : s.kernel_width); ++c) {
        segments.push_back((r * window.dilation_height * width + c * window.dilation_width) * wide);
      }
    }
  }

  int64_t bytes_of_group() const { return height * width * wide; }
  int64_t bytes() const { return groups * bytes_of_group(); }
};

// Copies one padded row of one group: x + 128, and the zero point where there is no x.
void pad_row(const int8_t* x, const Sizes& s, const Window& window, const Images& images, int64_t group, int64_t row,
             uint8_t zero, uint8_t* to) {
  std::memset(to, zero, images.width * images.wide);
  const int64_t h = row - window.pad_top;
  if (h < 0 || h >= s.height) return;
  to += window.pad_left * images.wide;
  const int64_t channels = images.channels, all = s.groups * s.channels, first = group * channels;
  if (window.input_nhwc) {
    const auto* from = reinterpret_cast<const uint8_t*>(x) + h * s.width * all + first;
    for (int64_t w = 0; w < s.width; ++w, from += all, to += images.wide) {
      for (int64_t c = 0; c < channels; ++c) to[c] = from[c] ^ 0x80;
    }
    return;
  }
  const int64_t plane = s.height * s.width;
  const auto* from = reinterpret_cast<const uint8_t*>(x) + first * plane + h * s.width;
  for (int64_t c = 0; c < channels; c += 4, from += 4 * plane) {
    if (c + 4 <= channels) {
      for (int64_t w = 0; w < s.width; ++w) {
        const uint8_t four[4] = {from[w], from[w + plane], from[w + 2 * plane], from[w + 3 * plane]};
        uint32_t word;
        std::memcpy(&word, four, 4);
        word ^= 0x80808080u;
        std::memcpy(to + w * images.wide + c, &word, 4);
      }
    } else {
      for (int64_t rest = c; rest < channels; ++rest) {
        const uint8_t* plane_row = from + (rest - c) * plane;
        for (int64_t w = 0; w < s.width; ++w) to[w * images.wide + rest] = plane_row[w] ^ 0x80;
      }
    }
  }
}

class Int8Conv : public Kernel {
 public:
  Int8Conv(const Info& info, bool residual) : window_(info), how_(info, residual) {
    if (const Tensor w = info.constant(1); w.present()) {
      require(static_cast<int64_t>(w.rank()) == window_.spatial + 2, "w has another rank than the attributes say");
      weights_ = packed(w, window_.group);
      constant_ = true;
    }
  }

  void compute(Call& call) override {
    const Tensor x = call.input(0), w = call.input(1);
    const Sizes s = window_.sizes(x.shape, w.shape);
    int8::Weights of_this_call;
    if (!constant_) of_this_call = packed(w, window_.group);
    const int8::Weights& weights = constant_ ? weights_ : of_this_call;
    int8::Columns columns;
    columns.set(call.input(2), call.input(3), weights, how_.x_zero_point);
    const Shape shape = window_.output(s);
    Tensor residual;
    if (how_.residual) {
      residual = call.input(4);
      require(residual.shape == shape, "the residual must have the shape of y");
    }
    const Tensor y = call.output(0, shape);
    if (y.count() == 0) return;
    const bool depthwise = s.channels == 1 && s.columns == 1;
    const Images images(s, window_, depthwise);
    Step step{s, images, weights, columns, cpu(), {}, {}};
    if (depthwise) step.prepare(w.as<int8_t>(), columns);
    thread_local std::vector<uint8_t> kept;  // of the thread that calls; the others write and read it meanwhile
    const int64_t at_once = std::max<int64_t>(1, kImages / std::max<int64_t>(images.bytes(), 1));
    const int64_t of_x = x.count() / s.batch, of_y = y.count() / s.batch;
    for (int64_t first = 0; first < s.batch; first += at_once) {
      const int64_t count = std::min(at_once, s.batch - first);
      kept.resize(count * images.bytes());
      uint8_t* bytes = kept.data();
      pad(call, x.as<int8_t>() + first * of_x, of_x, count, step, bytes);
      const int8_t* added = how_.residual ? residual.as<int8_t>() + first * of_y : nullptr;
      if (depthwise) {
        spread(call, bytes, count, step, y.to<int8_t>() + first * of_y, added);
      } else {
        multiply(call, bytes, count, step, y.to<int8_t>() + first * of_y, added);
      }
    }
  }

 private:
  struct Step {
    const Sizes& s;
    const Images& images;
    const int8::Weights& weights;
    const int8::Columns& columns;
    Cpu level;
    // Of a depthwise convolution: weights as [tap][channel]; scales and biases without gaps.
    std::vector<int8_t> taps;
    int8::Columns dense;

    void prepare(const int8_t* w, const int8::Columns& from) {
      const int64_t count = s.kernel_height * s.kernel_width, width = (s.groups + kColumns - 1) / kColumns * kColumns;
      taps.assign(count * s.groups, 0);
      dense.scale.assign(width, 0);
      dense.bias.assign(width, 0);
      for (int64_t c = 0; c < s.groups; ++c) {
        for (int64_t t = 0; t < count; ++t) taps[t * s.groups + c] = w[c * count + t];
        dense.scale[c] = from.scale[c * kColumns];
        dense.bias[c] = from.bias[c * kColumns];
      }
    }
  };

  void pad(Call& call, const int8_t* x, int64_t of_x, int64_t count, const Step& step, uint8_t* bytes) const {
    const Images& images = step.images;
    const auto zero = static_cast<uint8_t>(how_.x_zero_point + 128);
    const int64_t row = images.width * images.wide, rows = count * images.groups * images.height;
    call.parallel(rows, std::max<int64_t>(1, (1 << 16) / std::max<int64_t>(row, 1)), [&](int64_t first, int64_t last) {
      for (int64_t at = first; at < last; ++at) {
        const int64_t image = at / (images.groups * images.height), group = at / images.height % images.groups;
        pad_row(x + image * of_x, step.s, window_, images, group, at % images.height, zero, bytes + at * row);
      }
    });
  }

  // Where a position of an image lies in y.
  int8::Place place(const Sizes& s, int8_t* y, const int8_t* residual, int64_t image, int64_t position,
                    int64_t column) const {
    const int64_t positions = s.out_height * s.out_width, all = s.groups * s.columns;
    const int64_t row_step = window_.output_nhwc ? all : 1, column_step = window_.output_nhwc ? 1 : positions;
    const int64_t at = image * positions * all + position * row_step + column * column_step;
    return {y + at, residual == nullptr ? nullptr : residual + at, row_step, column_step};
  }

  int64_t start(const Step& step, int64_t position) const {
    const int64_t h = position / step.s.out_width * window_.stride_height;
    const int64_t w = position % step.s.out_width * window_.stride_width;
    return (h * step.images.width + w) * step.images.wide;
  }

  void multiply(Call& call, const uint8_t* bytes, int64_t count, const Step& step, int8_t* y,
                const int8_t* residual) const {
    const Sizes& s = step.s;
    const int64_t positions = s.out_height * s.out_width, chunks = (positions + kChunk - 1) / kChunk;
    const int64_t panels = step.weights.panels_of_group(), strips = (panels + kStrip - 1) / kStrip;
    const int64_t parts = count * s.groups * chunks * strips;
    const int64_t work = std::min(positions, kChunk) * step.weights.depth * std::min(s.columns, kStrip * kColumns);
    call.parallel(parts, std::max<int64_t>(1, (1 << 18) / std::max<int64_t>(work, 1)), [&](int64_t first, int64_t last) {
      for (int64_t at = first; at < last; ++at) {
        const int64_t strip = at % strips, chunk = at / strips % chunks, group = at / (strips * chunks) % s.groups;
        const int64_t image = at / (strips * chunks * s.groups);
        const uint8_t* from = bytes + image * step.images.bytes() + group * step.images.bytes_of_group();
        const int64_t to = std::min(positions, (chunk + 1) * kChunk);
        for (int64_t panel = strip * kStrip; panel < std::min(panels, (strip + 1) * kStrip); ++panel) {
          const int64_t column = panel * kColumns, padded = group * panels * kColumns + column;
          for (int64_t p = chunk * kChunk; p < to; p += kRows) {
            const int64_t here = std::min<int64_t>(kRows, to - p);
            const uint8_t* rows[kRows];
            for (int64_t i = 0; i < kRows; ++i) rows[i] = from + start(step, p + std::min(i, here - 1));
            alignas(64) int32_t sums[kRows * kColumns];
            int8::tile(step.level, rows, step.images.segments.data(), static_cast<int64_t>(step.images.segments.size()),
                       step.images.length, step.weights.panel(group, panel), sums);
            int8::finish(step.level, sums, here, std::min<int64_t>(kColumns, s.columns - column),
                         step.columns.scale.data() + padded, step.columns.bias.data() + padded, how_,
                         place(s, y, residual, image, p, group * s.columns + column));
          }
        }
      }
    });
  }

  // A channel with itself alone.
  void spread(Call& call, const uint8_t* bytes, int64_t count, const Step& step, int8_t* y,
              const int8_t* residual) const {
    const Sizes& s = step.s;
    const int64_t positions = s.out_height * s.out_width, tiles = (positions + kRows - 1) / kRows;
    const auto taps = static_cast<int64_t>(step.images.segments.size());
    const int64_t grain = std::max<int64_t>(1, (1 << 15) / (kRows * s.groups * taps));
    call.parallel(count * tiles, grain, [&](int64_t first, int64_t last) {
      for (int64_t at = first; at < last; ++at) {
        const int64_t image = at / tiles, p = at % tiles * kRows, here = std::min<int64_t>(kRows, positions - p);
        for (int64_t c = 0; c < s.groups; c += kColumns) {
          const int64_t width = std::min<int64_t>(kColumns, s.groups - c);
          alignas(64) int32_t sums[kRows * kColumns];
          for (int64_t i = 0; i < here; ++i) {
            int8::depthwise(step.level, bytes + image * step.images.bytes() + start(step, p + i) + c,
                            step.images.segments.data(), step.taps.data() + c, taps, s.groups, width,
                            sums + i * kColumns);
          }
          int8::finish(step.level, sums, here, width, step.dense.scale.data() + c, step.dense.bias.data() + c, how_,
                       place(s, y, residual, image, p, c));
        }
      }
    });
  }

  Window window_;
  int8::Requantize how_;
  int8::Weights weights_;
  bool constant_ = false;
};

template <bool Residual>
std::unique_ptr<Kernel> create(const Info& info) {
  return std::make_unique<Int8Conv>(info, Residual);
}

const Register plain(describe(kCpu, create<false>));
const Register with_residual(describe_add(kCpu, create<true>));

}  // namespace
}  // namespace graphopt
