// Convolutions of signs on the CPU: BinaryConv (float out, scale and bias) and BinaryConvSign (int8 out, thresholds).
//
// x is packed once a call, the channels of a pixel and group side by side. Panels are 32 output pixels of an image: what
// the window covers is gathered into one, with a mask of the places that lie in the padding if there are any, so that
// these count in nothing. Rows of tiles are the output channels, whose results lie along the image as the output does.
// Windows of one tap (the shortcuts of residual nets) have a way of their own, where there is one: see binary_points.h.

#include <algorithm>
#include <cstring>

#include "binary_points.h"
#include "binary_shape.h"
#include "binary_signs.h"
#include "binary_weights.h"
#include "cpu.h"
#include "schema.h"

namespace graphopt {
namespace {

using namespace binary;

constexpr int64_t kChannelsOfUnit = 64;  // fewer would gather panels too often
constexpr int64_t kAhead = 2 * kRows;    // of the rows that are written, their place in memory is asked for
constexpr int64_t kLine = 64;            // bytes of memory that come together
constexpr int64_t kFinish = 8;           // instructions that make outputs of a register of counts
constexpr int64_t kShare = 1 << 13;      // instructions that are worth a thread's while
constexpr int64_t kRead = 1 << 14;       // numbers whose packing is
constexpr int64_t kUnits = 8;            // that are wanted, so that threads have something to do

struct ToFloat : Scaled {
  using Form = Scaled;
  GRAPHOPT_INLINE void operator()(const int32_t* differ, const int32_t* valid, int64_t channel, int64_t count,
                                  float* out) const {
    const float by = scale[channel], plus = bias[channel];
    for (int64_t l = 0; l < count; ++l) out[l] = static_cast<float>(valid[l] - 2 * differ[l]) * by + plus;
  }
};

struct ToSign : Compared {
  using Form = Compared;
  GRAPHOPT_INLINE void operator()(const int32_t* differ, const int32_t* valid, int64_t channel, int64_t count,
                                  int8_t* out) const {
    const float limit = threshold[channel];
    int64_t l = 0;
    for (; l + kSide <= count; l += kSide) {
      Integers sums, unequal;
      std::memcpy(&unequal, differ + l, sizeof unequal);
      std::memcpy(&sums, valid + l, sizeof sums);
      sums -= 2 * unequal;
      GRAPHOPT_STORE_SIGNS(__builtin_convertvector(sums, Floats) > limit, out + l);
    }
    for (; l < count; ++l) out[l] = static_cast<float>(valid[l] - 2 * differ[l]) > limit ? 1 : -1;
  }
};

// Channels of a tile: `out` is the first one's number for the first pixel of the panel, the next one's is `plane` on.
template <class To>
GRAPHOPT_INLINE void finish(const To& to, const int32_t* differ, const int32_t* valid, int64_t rows, int64_t channel,
                            int64_t count, typename To::Out* out, int64_t plane) {
  for (int64_t r = 0; r < rows; ++r) {
    if (count == kLanes) {  // a size that the compiler knows
      to(differ + r * kLanes, valid, channel + r, kLanes, out + r * plane);
    } else {
      to(differ + r * kLanes, valid, channel + r, count, out + r * plane);
    }
  }
}

template <class To>
using Finish = void (*)(const To&, const int32_t*, const int32_t*, int64_t, int64_t, int64_t, typename To::Out*,
                        int64_t);

template <class To>
void finish_portable(const To& to, const int32_t* differ, const int32_t* valid, int64_t rows, int64_t channel,
                     int64_t count, typename To::Out* out, int64_t plane) {
  finish(to, differ, valid, rows, channel, count, out, plane);
}

#if defined(GRAPHOPT_X86)
template <class To>
GRAPHOPT_AVX2 void finish_avx2(const To& to, const int32_t* differ, const int32_t* valid, int64_t rows,
                               int64_t channel, int64_t count, typename To::Out* out, int64_t plane) {
  finish(to, differ, valid, rows, channel, count, out, plane);
}

template <class To>
GRAPHOPT_AVX512 void finish_avx512(const To& to, const int32_t* differ, const int32_t* valid, int64_t rows,
                                   int64_t channel, int64_t count, typename To::Out* out, int64_t plane) {
  finish(to, differ, valid, rows, channel, count, out, plane);
}
#endif

template <class To>
Finish<To> finisher() {
#if defined(GRAPHOPT_X86)
  if (cpu() >= Cpu::kAvx512) return finish_avx512<To>;
  if (cpu() >= Cpu::kAvx2) return finish_avx2<To>;
#endif
  return finish_portable<To>;
}

// The sizes of one call.
struct Image {
  int64_t batch, height, width;          // of the input
  int64_t out_height, out_width;         // of the output
  int64_t pixels() const { return height * width; }
  int64_t out_pixels() const { return out_height * out_width; }
};

// What a thread gathers into; kept from call to call.
struct Gathered {
  std::vector<Word> words;
  std::vector<uint32_t> mask;
  int32_t valid[kLanes] = {};
  bool whole;  // no place lies in the padding
};

// A model's input 0 is [B, C, H, W] (float or int8), input 1 the bits [M, kH, kW, ceil(C / group / 8)].
template <class T, class To>
class BinaryConv : public Kernel {
 public:
  explicit BinaryConv(const Info& info) : window_(Window::of(info)) {
    const Tensor weights = packed_weights(info, 4, window_.channels, "channels");
    filters_ = weights.shape[0];
    down_ = weights.shape[1];
    across_ = weights.shape[2];
    require(filters_ % window_.group == 0, "weights (input 1): the number of filters is no multiple of group");
    require(down_ >= 1 && across_ >= 1, "weights (input 1): the window is empty");
    per_tap_ = words(window_.channels);
    bits_.resize(filters_ * down_ * across_ * per_tap_);
    for (int64_t tap = 0; tap < filters_ * down_ * across_; ++tap) {
      load_bits(weights.as<uint8_t>() + tap * weights.shape[3], window_.channels, bits_.data() + tap * per_tap_);
    }
  }

  void compute(Call& call) override {
    const Tensor x = call.input(0);
    require(x.rank() == 4, "x (input 0) must have four axes");
    if (x.shape[1] != window_.channels * window_.group) {
      throw Error("x (input 0) has " + std::to_string(x.shape[1]) + " channels, the weights want " +
                  std::to_string(window_.channels * window_.group));
    }
    const Image image{x.shape[0], x.shape[2], x.shape[3], window_.out(0, x.shape[2], down_),
                      window_.out(1, x.shape[3], across_)};
    const To to = epilogue(call);
    const Tensor out = call.output(0, {image.batch, filters_, image.out_height, image.out_width});
    if (out.count() == 0) return;
    if (points_ != nullptr && down_ * across_ == 1 && window_.pads == Shape{0, 0, 0, 0}) {
      return pointwise(call, to, x.as<T>(), image, out.to<typename To::Out>());
    }
    static thread_local std::vector<Word> kept;  // the other threads read it while this one waits
    const int64_t stride = window_.group * per_tap_;
    const int64_t needed = image.batch * image.pixels() * stride;
    if (static_cast<int64_t>(kept.size()) < needed) kept.resize(needed);
    Word* packed = kept.data();
    pack(call, x.as<T>(), image, packed);

    // A unit is a panel of an image and group, and all of the group's filters or, where there are few panels, some.
    const int64_t filters = filters_ / window_.group;
    const int64_t panels = (image.out_pixels() + kLanes - 1) / kLanes;
    const int64_t least = image.batch * window_.group * panels;
    const int64_t parts = std::max<int64_t>(1, std::min(filters / kChannelsOfUnit, kUnits / std::max<int64_t>(least, 1)));
    const int64_t part = round_up((filters + parts - 1) / parts, kRows);
    const int64_t work = part * kLanes * (down_ * across_ * per_tap_ + 1);
    call.parallel(least * parts, std::max<int64_t>(1, (1 << 17) / work), [&](int64_t first, int64_t last) {
      static thread_local Gathered gathered;
      int64_t present = -1;
      for (int64_t u = first; u < last; ++u) {
        const int64_t which = u / parts, from = u % parts * part;
        const int64_t panel = which % panels, group = which / panels % window_.group, item = which / panels / window_.group;
        if (which != present) gather(packed + item * image.pixels() * stride + group * per_tap_, image, panel, gathered);
        present = which;
        const int64_t start = group * filters + from, end = group * filters + std::min(filters, from + part);
        unit(to, gathered, image, panel, start, end,
             out.to<typename To::Out>() + (item * filters_ + start) * image.out_pixels() + panel * kLanes);
      }
    });
  }

 private:
  To epilogue(const Call& call) const {
    if constexpr (std::is_same_v<To, ToFloat>) {
      return {channels_of(call, 2, filters_, "scale"), channels_of(call, 3, filters_, "bias")};
    } else {
      return {channels_of(call, 2, filters_, "threshold")};
    }
  }

  // Windows of one tap. Threads share out pixels to pack, and then filters: what each of them writes lies in one piece.
  // Pixels would have lines of the cache written by two threads at once, where planes are small.
  void pointwise(Call& call, const To& to, const T* x, const Image& image, typename To::Out* out) const {
    static thread_local std::vector<Half> kept;  // the other threads read it while this one waits
    const int64_t plane = image.out_pixels(), held = halves(window_.channels), plots = image.batch * window_.group;
    const int64_t stride = round_up(plane, kPoints), of_plot = held * stride;
    if (static_cast<int64_t>(kept.size()) < plots * of_plot) kept.resize(plots * of_plot);
    Half* packed = kept.data();
    const Grid grid{image.width, image.out_width, window_.strides[0], window_.strides[1]};
    const int64_t blocks = stride / kPoints;
    const int64_t read = kRead / (window_.channels * kPoints + 1) + 1;  // blocks
    call.parallel(plots * blocks, read, [&](int64_t first, int64_t last) {
      for (int64_t next; first < last; first = next) {
        const int64_t plot = first / blocks, begin = first % blocks * kPoints;
        next = std::min(last, (plot + 1) * blocks);
        pack_points_(x + plot * window_.channels * image.pixels(), image.pixels(), window_.channels, grid, begin,
                     std::min(plane, (next - plot * blocks) * kPoints), packed + plot * of_plot + begin, stride);
      }
    });
    const int64_t filters = filters_ / window_.group, quads = (filters + kRows - 1) / kRows;
    const int64_t work = kRows * blocks * (3 * held + kFinish);
    call.parallel(plots * quads, kShare / work + 1, [&](int64_t first, int64_t last) {
      for (int64_t next; first < last; first = next) {
        const int64_t plot = first / quads, from = first % quads * kRows;
        next = std::min(last, (plot + 1) * quads);
        const int64_t m = plot % window_.group * filters + from;
        const int64_t count = std::min(filters, (next - plot * quads) * kRows) - from;
        points_(to.from(m), packed + plot * of_plot, stride, plane, bits_.data() + m * per_tap_, per_tap_, count,
                window_.channels, out + (plot * filters + from) * plane, plane);
      }
    });
  }

  // packed[((item * H + y) * W + x) * stride + group * words + w]
  void pack(Call& call, const T* x, const Image& image, Word* packed) const {
    constexpr int64_t kPixels = 256;
    const int64_t plane = image.pixels(), blocks = (plane + kPixels - 1) / kPixels;
    const int64_t stride = window_.group * per_tap_;
    const int64_t grain = std::max<int64_t>(1, (1 << 16) / (kPixels * (window_.channels + 1)));
    call.parallel(image.batch * window_.group * blocks, grain, [&](int64_t first, int64_t last) {
      for (int64_t u = first; u < last; ++u) {
        const int64_t plot = u / blocks, from = u % blocks * kPixels;  // item * group + group
        pack_pixels(x + plot * window_.channels * plane, plane, window_.channels, from,
                    std::min(plane, from + kPixels),
                    packed + plot / window_.group * plane * stride + plot % window_.group * per_tap_, stride);
      }
    });
  }

  // Pixels of a panel that lie in one row of the output: `count` lanes from `lane` on; the first one's window starts at
  // (y, x) of the input.
  struct Run {
    int64_t lane, count, y, x;
  };

  // The words under the window of every pixel of a panel.
  void gather(const Word* source, const Image& image, int64_t panel, Gathered& into) const {
    const int64_t first = panel * kLanes, count = std::min(kLanes, image.out_pixels() - first);
    const int64_t width = round_up(count, kStep), taps = down_ * across_;
    const int64_t stride = window_.group * per_tap_;
    const int64_t high = (down_ - 1) * window_.dilations[0], wide = (across_ - 1) * window_.dilations[1];
    Run runs[kLanes];
    int64_t many = 0;
    into.whole = true;
    for (int64_t lane = 0; lane < count; lane += runs[many++].count) {
      const int64_t y = (first + lane) / image.out_width, x = (first + lane) % image.out_width;
      const Run run{lane, std::min(count - lane, image.out_width - x), y * window_.strides[0] - window_.pads[0],
                    x * window_.strides[1] - window_.pads[1]};
      const int64_t right = run.x + (run.count - 1) * window_.strides[1] + wide;
      into.whole = into.whole && run.y >= 0 && run.y + high < image.height && run.x >= 0 && right < image.width;
      runs[many] = run;
    }
    into.words.resize(std::max<size_t>(into.words.size(), taps * per_tap_ * kLanes));
    if (!into.whole || count < width) std::fill_n(into.words.data(), taps * per_tap_ * width, Word{0});
    into.mask.assign(taps, 0);
    const int64_t skip = window_.strides[1];
    const auto ceiling = [skip](int64_t size) { return skip == 1 ? size : (size + skip - 1) / skip; };  // divides slowly
    int64_t tap = 0;
    for (int64_t ky = 0; ky < down_; ++ky) {
      for (int64_t kx = 0; kx < across_; ++kx, ++tap) {
        Word* words = into.words.data() + tap * per_tap_ * width;
        for (const Run* run = runs; run < runs + many; ++run) {
          const int64_t y = run->y + ky * window_.dilations[0], x = run->x + kx * window_.dilations[1];
          int64_t from = 0, to = run->count;  // of the run's pixels, those whose tap lies in the input
          if (!into.whole) {
            if (y < 0 || y >= image.height || x >= image.width) continue;
            from = x >= 0 ? 0 : ceiling(-x);
            to = std::min(to, ceiling(image.width - x));
            if (from >= to) continue;
            into.mask[tap] |= lanes(run->lane + from, run->lane + to);
          }
          copy(source + (y * image.width + x + from * skip) * stride, stride * skip, to - from,
               words + run->lane + from, width);
        }
      }
    }
    const auto channels = static_cast<int32_t>(window_.channels);
    for (const Run* run = runs; run < runs + many; ++run) {
      const int32_t rows = channels * inside(run->y, down_, window_.dilations[0], image.height);
      for (int64_t i = 0; i < run->count; ++i) {
        into.valid[run->lane + i] = rows * inside(run->x + i * skip, across_, window_.dilations[1], image.width);
      }
    }
  }

  // Bits first to last, without the last.
  static uint32_t lanes(int64_t first, int64_t last) {
    return static_cast<uint32_t>((uint64_t{1} << last) - (uint64_t{1} << first));
  }

  // How many of the taps that start at a place lie in an image of a size.
  static int32_t inside(int64_t at, int64_t taps, int64_t dilation, int64_t size) {
    if (at >= 0 && at + (taps - 1) * dilation < size) return static_cast<int32_t>(taps);
    int32_t count = 0;
    for (int64_t tap = 0; tap < taps; ++tap, at += dilation) count += at >= 0 && at < size;
    return count;
  }

  // The words of `count` pixels, `step` words apart, into lanes. Few at a time: vectors would only be in the way.
  __attribute__((noinline, optimize("no-tree-vectorize"))) void copy(const Word* source, int64_t step, int64_t count,
                                                                     Word* out, int64_t width) const {
    if (step == 1) {  // implies one word a pixel
      std::memcpy(out, source, count * sizeof(Word));
      return;
    }
    for (int64_t i = 0; i < count; ++i, source += step, ++out) {
      for (int64_t w = 0; w < per_tap_; ++w) out[w * width] = source[w];
    }
  }

  // Filters start to end of a panel.
  void unit(const To& to, const Gathered& gathered, const Image& image, int64_t which, int64_t start, int64_t end,
            typename To::Out* out) const {
    const int64_t taps = down_ * across_, length = taps * per_tap_;
    const int64_t count = std::min(kLanes, image.out_pixels() - which * kLanes);
    const int64_t width = round_up(count, kStep);
    const Panel panel = gathered.whole
                            ? Panel{gathered.words.data(), width, nullptr, 1, length}
                            : Panel{gathered.words.data(), width, gathered.mask.data(), taps, per_tap_};
    alignas(64) int32_t differ[kRows * kLanes];
    for (int64_t m = start; m < end; m += kRows) {
      const int64_t rows = std::min(kRows, end - m);
      for (int64_t r = m + kAhead; r < std::min(end, m + kAhead + kRows); ++r) {
        const auto* row = out + (r - start) * image.out_pixels();
        for (int64_t at = 0; at < count; at += kLine / static_cast<int64_t>(sizeof *row)) __builtin_prefetch(row + at, 1);
      }
      tile_(bits_.data() + m * length, length, rows, panel, differ);
      finish_(to, differ, gathered.valid, rows, m, count, out + (m - start) * image.out_pixels(), image.out_pixels());
    }
  }

  Window window_;
  int64_t filters_ = 0, down_ = 0, across_ = 0, per_tap_ = 0;
  std::vector<Word> bits_;  // [M, kH, kW, words]
  Tile tile_ = tile();
  Finish<To> finish_ = finisher<To>();
  PackPoints<T> pack_points_ = pack_points<T>();
  Pointwise<typename To::Form> points_ = binary::pointwise<typename To::Form>();
};

const Register of_float(describe(kCpu, kFloat, make<BinaryConv<float, ToFloat>>));
const Register of_int8(describe(kCpu, kInt8, make<BinaryConv<int8_t, ToFloat>>));
const Register sign_of_float(describe_sign(kCpu, kFloat, make<BinaryConv<float, ToSign>>));
const Register sign_of_int8(describe_sign(kCpu, kInt8, make<BinaryConv<int8_t, ToSign>>));

}  // namespace
}  // namespace graphopt
