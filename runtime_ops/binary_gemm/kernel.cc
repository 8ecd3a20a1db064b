// Products of signs on the CPU: BinaryGemm (float out, scale and bias) and BinaryGemmSign (int8 out, thresholds).
//
// The weights are the panels (32 output channels side by side), the rows of x, packed in every call, the rows of tiles.
// A unit of work is 32 rows by 4 panels: its part of the weights stays in the second cache, a panel in the first.

#include <algorithm>
#include <cstring>

#include "binary_signs.h"
#include "binary_weights.h"
#include "cpu.h"
#include "schema.h"

namespace graphopt {
namespace {

using namespace binary;

constexpr int64_t kRowsOfUnit = 32;
constexpr int64_t kPanelsOfUnit = 4;
constexpr int64_t kLine = 64;  // bytes of memory that come together

struct ToFloat {
  using Out = float;
  const float* scale;
  const float* bias;

  GRAPHOPT_INLINE void operator()(const int32_t* differ, int32_t bits, int64_t first, int64_t count, float* out) const {
    for (int64_t l = 0; l < count; ++l) {
      out[l] = static_cast<float>(bits - 2 * differ[l]) * scale[first + l] + bias[first + l];
    }
  }
};

struct ToSign {
  using Out = int8_t;
  const float* threshold;

  GRAPHOPT_INLINE void operator()(const int32_t* differ, int32_t bits, int64_t first, int64_t count, int8_t* out) const {
    int64_t l = 0;
    for (; l + kSide <= count; l += kSide) {
      Integers sums, unequal;
      Floats limits;
      std::memcpy(&unequal, differ + l, sizeof unequal);
      std::memcpy(&limits, threshold + first + l, sizeof limits);
      sums = bits - 2 * unequal;
      GRAPHOPT_STORE_SIGNS(__builtin_convertvector(sums, Floats) > limits, out + l);
    }
    for (; l < count; ++l) out[l] = static_cast<float>(bits - 2 * differ[l]) > threshold[first + l] ? 1 : -1;
  }
};

// Rows of a tile: `first` is the first channel of the panel, `out` the first row's number for it.
template <class To>
GRAPHOPT_INLINE void finish(const To& to, const int32_t* differ, int32_t bits, int64_t rows, int64_t first,
                            int64_t count, typename To::Out* out, int64_t stride) {
  for (int64_t r = 0; r < rows; ++r) {
    if (count == kLanes) {  // a size that the compiler knows
      to(differ + r * kLanes, bits, first, kLanes, out + r * stride);
    } else {
      to(differ + r * kLanes, bits, first, count, out + r * stride);
    }
  }
}

template <class To>
using Finish = void (*)(const To&, const int32_t*, int32_t, int64_t, int64_t, int64_t, typename To::Out*, int64_t);

template <class To>
void finish_portable(const To& to, const int32_t* differ, int32_t bits, int64_t rows, int64_t first, int64_t count,
                     typename To::Out* out, int64_t stride) {
  finish(to, differ, bits, rows, first, count, out, stride);
}

#if defined(GRAPHOPT_X86)
template <class To>
GRAPHOPT_AVX2 void finish_avx2(const To& to, const int32_t* differ, int32_t bits, int64_t rows, int64_t first,
                               int64_t count, typename To::Out* out, int64_t stride) {
  finish(to, differ, bits, rows, first, count, out, stride);
}

template <class To>
GRAPHOPT_AVX512 void finish_avx512(const To& to, const int32_t* differ, int32_t bits, int64_t rows, int64_t first,
                                   int64_t count, typename To::Out* out, int64_t stride) {
  finish(to, differ, bits, rows, first, count, out, stride);
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

// A model's input 0 is [..., K] (float or int8), input 1 the bits [N, ceil(K / 8)].
template <class T, class To>
class BinaryGemm : public Kernel {
 public:
  explicit BinaryGemm(const Info& info) : bits_(info.integer("k", -1)) {
    const Tensor weights = packed_weights(info, 2, bits_, "k");
    channels_ = weights.shape[0];
    length_ = words(bits_);
    std::vector<Word> row(length_);
    panels_.resize(length_ * round_up(channels_, kStep));
    for (int64_t n = 0; n < channels_; ++n) {
      load_bits(weights.as<uint8_t>() + n * weights.shape[1], bits_, row.data());
      const int64_t first = n / kLanes * kLanes, width = width_of(first);
      for (int64_t w = 0; w < length_; ++w) panels_[first * length_ + w * width + n - first] = row[w];
    }
  }

  void compute(Call& call) override {
    const Tensor x = call.input(0);
    require(x.rank() >= 1, "x (input 0) must have an axis");
    if (x.shape.back() != bits_) {
      throw Error("x (input 0) has " + std::to_string(x.shape.back()) + " numbers in its last axis, the weights " +
                  std::to_string(bits_));
    }
    Shape shape = x.shape;
    shape.back() = channels_;
    const int64_t rows = product(x.shape, 0, x.rank() - 1);
    const To to = epilogue(call);
    const Tensor out = call.output(0, shape);
    if (out.count() == 0) return;
    static thread_local std::vector<Word> kept;  // the other threads read it while this one waits
    if (static_cast<int64_t>(kept.size()) < rows * length_) kept.resize(rows * length_);
    Word* packed = kept.data();
    call.parallel(rows, std::max<int64_t>(1, (1 << 16) / (bits_ + 1)), [&](int64_t first, int64_t last) {
      for (int64_t r = first; r < last; ++r) pack_row(x.as<T>() + r * bits_, bits_, packed + r * length_);
    });
    const int64_t across = (channels_ + kLanes * kPanelsOfUnit - 1) / (kLanes * kPanelsOfUnit);
    const int64_t down = (rows + kRowsOfUnit - 1) / kRowsOfUnit;
    const int64_t work = std::min(rows, kRowsOfUnit) * std::min(channels_, kLanes * kPanelsOfUnit) * (length_ + 1);
    call.parallel(across * down, std::max<int64_t>(1, (1 << 17) / work), [&](int64_t first, int64_t last) {
      for (int64_t u = first; u < last; ++u) {
        unit(to, packed, u / across * kRowsOfUnit, rows, u % across * kLanes * kPanelsOfUnit,
             out.to<typename To::Out>());
      }
    });
  }

 private:
  To epilogue(const Call& call) const {
    if constexpr (std::is_same_v<To, ToFloat>) {
      return {channels_of(call, 2, channels_, "scale"), channels_of(call, 3, channels_, "bias")};
    } else {
      return {channels_of(call, 2, channels_, "threshold")};
    }
  }

  int64_t width_of(int64_t first) const { return std::min(kLanes, round_up(channels_ - first, kStep)); }

  void unit(const To& to, const Word* packed, int64_t row, int64_t rows, int64_t channel,
            typename To::Out* out) const {
    const int64_t end = std::min(rows, row + kRowsOfUnit);
    const int64_t behind = std::min(channels_, channel + kLanes * kPanelsOfUnit);
    alignas(64) int32_t differ[kRows * kLanes];
    for (int64_t n = channel; n < behind; n += kLanes) {
      const Panel panel{panels_.data() + n * length_, width_of(n), nullptr, 1, length_};
      for (int64_t r = row; r < end; r += kRows) {
        const int64_t count = std::min(kRows, end - r);
        for (int64_t ahead = r + kRows; ahead < std::min(end, r + 2 * kRows); ++ahead) {  // where they will be written
          const auto* row = out + ahead * channels_ + n;
          for (int64_t at = 0; at < kLanes; at += kLine / static_cast<int64_t>(sizeof *row)) __builtin_prefetch(row + at, 1);
        }
        tile_(packed + r * length_, length_, count, panel, differ);
        finish_(to, differ, static_cast<int32_t>(bits_), count, n, std::min(kLanes, channels_ - n),
                out + r * channels_ + n, channels_);
      }
    }
  }

  int64_t bits_, channels_ = 0, length_ = 0;
  std::vector<Word> panels_;
  Tile tile_ = tile();
  Finish<To> finish_ = finisher<To>();
};

const Register of_float(describe(kCpu, kFloat, make<BinaryGemm<float, ToFloat>>));
const Register of_int8(describe(kCpu, kInt8, make<BinaryGemm<int8_t, ToFloat>>));
const Register sign_of_float(describe_sign(kCpu, kFloat, make<BinaryGemm<float, ToSign>>));
const Register sign_of_int8(describe_sign(kCpu, kInt8, make<BinaryGemm<int8_t, ToSign>>));

}  // namespace
}  // namespace graphopt
