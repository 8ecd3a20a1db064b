// TernaryGemm on the CPU: weights of a few levels stay two or four bits in memory; 8-bit activations; exact 32-bit sums.
//
// Activations are made unsigned (int8 gets 128 added), and columns behind the last one hold the zero point, so that
// whatever code stands there adds nothing:  sum (a - z) w = sum a w - z sum w.

#include <algorithm>
#include <cstring>
#include <mutex>
#include <thread>

#include "cpu.h"
#include "four_russians.h"
#include "kernel.h"
#include "lookup.h"
#include "schema.h"
#include "tiles.h"

namespace graphopt {
namespace {

using namespace ternary;

const Kernels& kernels() {
  switch (cpu()) {
    case Cpu::kAvx512Vnni:
      return vnni();
    case Cpu::kAvx512:
    case Cpu::kAvx2:
      return avx2();
    default:
      return portable();
  }
}

int64_t round_up(int64_t size, int64_t unit) { return (size + unit - 1) / unit * unit; }

// Memory that a thread keeps from call to call, on whole cache lines.
template <class T>
T* kept(std::vector<T>& memory, int64_t count) {
  constexpr size_t kLine = 64;
  if (memory.size() < count + kLine) memory.resize(count + kLine);
  const auto at = reinterpret_cast<uintptr_t>(memory.data());
  return reinterpret_cast<T*>((at + kLine - 1) / kLine * kLine);
}

class TernaryGemm : public Kernel {
 public:
  explicit TernaryGemm(const Info& info)
      : bits_(static_cast<int>(info.integer("bits", 2))), stored_(info.integer("stored", 0) != 0) {
    require(bits_ == 2 || bits_ == 4, "bits must be 2 or 4");
    const Tensor codes = info.constant(1), levels = info.constant(2);
    require(codes.present(), "codes (input 1) must be an initializer: they are packed when the session is made");
    require(levels.present(), "levels (input 2) must be an initializer");
    require(codes.rank() == 2, "codes (input 1) must be [N, ceil(K * bits / 8)]");
    require(levels.rank() == 1 && levels.count() == 1 << bits_, "levels (input 2) must be [2 ** bits]");
    outputs_ = codes.shape[0];
    bytes_ = codes.shape[1];
    set_levels(levels.as<int8_t>());
    pack(codes.as<uint8_t>(), levels.as<int8_t>());
  }

  void compute(Call& call) override {
    const Tensor x = call.input(0), zero = call.input(6);
    require(x.rank() >= 1, "x (input 0) must be [..., K]");
    require((x.type == kFloat) != stored_, stored_ ? "x (input 0) must be quantized where `stored` is 1"
                                                   : "x (input 0) must be float32 where `stored` is 0");
    const int64_t columns = x.shape.back(), each = 8 / bits_;
    require((columns + each - 1) / each == bytes_, "codes (input 1) must have ceil(K * bits / 8) columns");
    Shape shape = x.shape;
    shape.back() = outputs_;
    const Tensor y = call.output(0, shape);
    const int64_t rows = product(x.shape, 0, x.rank() - 1);
    if (rows == 0 || outputs_ == 0) return;

    const Tensor scale = call.input(3), bias = call.input(4), step = call.input(5);
    require(scale.count() == 1 || scale.count() == outputs_, "scale (input 3) must be [N] or [1]");
    require(bias.count() == 1 || bias.count() == outputs_, "bias (input 4) must be [N] or [1]");
    require(step.count() == 1, "x_scale (input 5) must be a scalar");
    require(zero.count() == 1, "x_zero_point (input 6) must be a scalar");
    require(!stored_ || x.type == zero.type, "x (input 0) must be of x_zero_point's type where `stored` is 1");

    const int shift = zero.type == kInt8 ? 128 : 0;
    Job job;
    job.zero = shift + (zero.type == kInt8 ? *zero.as<int8_t>() : *zero.as<uint8_t>());
    job.step = *step.as<float>();
    job.scale = scale.as<float>();
    job.one_scale = scale.count() == 1;
    job.bias = bias.as<float>();
    job.one_bias = bias.count() == 1;
    job.rows = rows;
    job.y = y.to<float>();
    activations(call, x, columns, shift, job);
    if (looks_up(rows)) {
      run_lookup(call, job);
    } else if (has_tables(rows)) {
      run_tables(call, job);
    } else {
      run(call, job);
    }
  }

 private:
  struct Job {
    const uint8_t* a;
    int64_t stride, rows;
    int zero;
    float step;
    const float *scale, *bias;
    bool one_scale, one_bias;
    float* y;
  };

  void set_levels(const int8_t* levels) {
    levels_.most = 0;
    for (int i = 0; i < 16; ++i) {
      levels_.low[i] = levels[bits_ == 2 ? i & 3 : i];
      levels_.high[i] = levels[bits_ == 2 ? i >> 2 : i];
      levels_.most = std::max(levels_.most, std::abs(static_cast<int>(levels_.low[i])));
    }
    const auto zero_or_most = [&](int8_t level) { return level == 0 || std::abs(static_cast<int>(level)) == levels_.most; };
    three_levels_ = bits_ == 2 && std::all_of(levels, levels + 4, zero_or_most);
  }

  void pack(const uint8_t* codes, const int8_t* levels) {
    const int each = 8 / bits_, mask = (1 << bits_) - 1;
    groups_ = (bytes_ + 3) / 4;  // a group: `each` steps of four columns
    panels_ = (outputs_ + kOutputs - 1) / kOutputs;
    packed_.assign(panels_ * groups_ * kStep, 0);
    sums_.assign(panels_ * kOutputs, 0);
    const int64_t columns = groups_ * 4 * each;
    for (int64_t n = 0; n < panels_ * kOutputs; ++n) {
      uint8_t* panel = packed_.data() + n / kOutputs * groups_ * kStep + n % kOutputs * 4;
      uint32_t sum = 0;
      for (int64_t k = 0; k < columns; ++k) {
        const int64_t byte = k / each;
        const int code = n < outputs_ && byte < bytes_ ? codes[n * bytes_ + byte] >> k % each * bits_ & mask : 0;
        panel[k / (4 * each) * kStep + k % 4] |= static_cast<uint8_t>(code << k / 4 % each * bits_);
        sum += static_cast<uint32_t>(static_cast<int32_t>(levels[code]));
      }
      sums_[n] = sum;
    }
  }

  // Gives the job its rows of bytes: the input itself where it has the form.
  void activations(Call& call, const Tensor& x, int64_t columns, int shift, Job& job) const {
    job.stride = groups_ * 4 * (8 / bits_);
    if (x.type == kUint8 && columns == job.stride) {
      job.a = x.as<uint8_t>();
      return;
    }
    static thread_local std::vector<uint8_t> memory;
    uint8_t* rows = kept(memory, job.rows * job.stride);
    job.a = rows;
    const Kernels& use = kernels();
    call.parallel(job.rows, std::max<int64_t>(1, (1 << 14) / (columns + 1)), [&](int64_t first, int64_t last) {
      for (int64_t row = first; row < last; ++row) {
        uint8_t* out = rows + row * job.stride;
        if (x.type == kFloat) {
          use.quantize(x.as<float>() + row * columns, columns, job.step, job.zero, out);
        } else {
          const auto* from = x.as<uint8_t>() + row * columns;
          for (int64_t k = 0; k < columns; ++k) out[k] = static_cast<uint8_t>(from[k] + shift);
        }
        std::memset(out + columns, job.zero, job.stride - columns);
      }
    });
  }

  void run(Call& call, const Job& job) const {
    const Kernels& use = kernels();
    const bool decoded = use.fused == nullptr;
    // Parts of the rows are for threads when there are few panels. A part decodes its panel anew, which its rows pay for.
    const int64_t block = std::min(round_up(job.rows, kRows), int64_t{96});
    const int64_t blocks = (job.rows + block - 1) / block;
    const int64_t products = block * job.stride * kOutputs;
    const int64_t grain = std::max<int64_t>(1, (1 << 22) / (products + 1));
    call.parallel(panels_ * blocks, grain, [&](int64_t first, int64_t last) {
      int64_t have = -1;
      static thread_local std::vector<int8_t> memory;
      int8_t* weights = decoded ? kept(memory, groups_ * (8 / bits_) * kStep) : nullptr;
      for (int64_t unit = first; unit < last; ++unit) {
        const int64_t panel = unit / blocks, from = unit % blocks * block, to = std::min(from + block, job.rows);
        const uint8_t* packed = packed_.data() + panel * groups_ * kStep;
        if (decoded && have != panel) use.decode(packed, groups_, bits_, levels_, weights);
        have = panel;
        finish(use, job, panel, from, to, [&](const uint8_t* a, int rows, int32_t* sums) {
          if (decoded) {
            use.multiply(a, job.stride, rows, weights, job.stride / 4, levels_, sums);
          } else {
            use.fused(a, job.stride, rows, packed, groups_, bits_, levels_, sums);
          }
        });
      }
    });
  }

  // Tables pay where there is no VNNI (with it they are as fast, and not faster), and where enough outputs and rows share
  // them. Their index takes two bytes for three weights.
  bool looks_up(int64_t rows) const {
    constexpr int64_t kLeastRows = 24, kLeastOutputs = 256;
    return cpu() == Cpu::kAvx512 && three_levels_ && levels_.most <= 1 && rows >= kLeastRows && outputs_ >= kLeastOutputs && groups_ > 0;
  }

  // [output][column]: the weight's sign plus one.
  std::vector<uint8_t> digits() const {
    const int64_t columns = groups_ * 16;
    std::vector<uint8_t> found(outputs_ * columns);
    for (int64_t n = 0; n < outputs_; ++n) {
      const uint8_t* panel = packed_.data() + n / kOutputs * groups_ * kStep + n % kOutputs * 4;
      for (int64_t k = 0; k < columns; ++k) {
        const int code = panel[k / 16 * kStep + k % 4] >> k / 4 % 4 * 2 & 3;
        const int level = levels_.low[code];
        found[n * columns + k] = static_cast<uint8_t>((level > 0) - (level < 0) + 1);
      }
    }
    return found;
  }

  const Lookup& lookup() const {
    std::call_once(once_, [&] { lookup_ = std::make_unique<Lookup>(digits(), outputs_, groups_ * 16); });
    return *lookup_;
  }

  void run_lookup(Call& call, const Job& job) const {
    const Kernels& use = kernels();
    const Lookup& table = lookup();
    // Sums of a part, [64 rows][about 1,000 outputs], lie in L2 beside the index of a chunk.
    constexpr int64_t kPart = 64, kStrips = 6;
    const int64_t blocks = (job.rows + kPart - 1) / kPart, across = (table.strips() + kStrips - 1) / kStrips;
    call.parallel(blocks * across, 1, [&](int64_t begin, int64_t end) {
      static thread_local std::vector<int16_t> of_tables;
      static thread_local std::vector<int32_t> of_sums;
      static thread_local std::vector<float> of_outputs;
      for (int64_t unit = begin; unit < end; ++unit) {
        const int64_t from = unit / across * kPart, rows = std::min(kPart, job.rows - from);
        const int64_t first = table.strips() * (unit % across) / across;
        const int64_t last = table.strips() * (unit % across + 1) / across;
        const int64_t start = table.first_output(first), width = table.first_output(last) - start;
        const int count = static_cast<int>(std::min(width, outputs_ - start));
        int32_t* sums = kept(of_sums, (kPart + 1) * width);
        int32_t* offset = sums + kPart * width;
        float* factor = kept(of_outputs, 2 * width);
        float* bias = factor + width;
        for (int i = 0; i < count; ++i) {
          offset[i] = static_cast<int32_t>(sums_[start + i] * static_cast<uint32_t>(job.zero - 128));
          factor[i] = job.step * job.scale[job.one_scale ? 0 : start + i];
          bias[i] = job.bias[job.one_bias ? 0 : start + i];
        }
        table.sum(job.a + from * job.stride, job.stride, rows, first, last, kept(of_tables, Lookup::kTables), sums);
        for (int64_t row = 0; row < rows; ++row) {
          use.finish(sums + row * width, offset, factor, bias, count, job.y + (from + row) * outputs_ + start);
        }
      }
    });
  }

  // Tables of 32 rows beside VNNI pay where enough outputs share them, where enough columns share what every output
  // costs, and where there is a block of rows for every thread (a kernel is not told how many of the processor's there
  // are). Their index takes some 2.4 bits a weight.
  bool has_tables(int64_t rows) const {
    constexpr int64_t kLeastOutputs = 320, kLeastColumns = 384;
    const int64_t threads = std::max(1u, std::thread::hardware_concurrency());
    return cpu() == Cpu::kAvx512Vnni && three_levels_ && outputs_ >= kLeastOutputs && groups_ * 16 >= kLeastColumns &&
           rows >= FourRussians::kRows * threads;
  }

  const FourRussians& tables() const {
    std::call_once(tables_once_, [&] { tables_ = std::make_unique<FourRussians>(digits(), outputs_, groups_ * 16); });
    return *tables_;
  }

  void run_tables(Call& call, const Job& job) const {
    const FourRussians& tables = this->tables();
    static thread_local std::vector<float> of_outputs;
    const int64_t width = outputs_ + kOutputs;
    float* factor = kept(of_outputs, 3 * width);
    float* bias = factor + width;
    auto* offset = reinterpret_cast<int32_t*>(bias + width);
    for (int64_t n = 0; n < outputs_; ++n) {
      const int zero = n < tables.multiplied() ? job.zero : job.zero - 128;
      offset[n] = static_cast<int32_t>(sums_[n] * static_cast<uint32_t>(zero));
      factor[n] = job.step * job.scale[job.one_scale ? 0 : n];
      bias[n] = job.bias[job.one_bias ? 0 : n];
    }
    const int64_t blocks = job.rows / FourRussians::kRows;
    call.parallel(blocks, 1, [&](int64_t first, int64_t last) {
      static thread_local std::vector<uint8_t> memory;
      uint8_t* room = kept(memory, tables.room());
      for (int64_t block = first; block < last; ++block) {
        const int64_t row = block * FourRussians::kRows;
        tables.multiply({job.a + row * job.stride, job.stride, packed_.data(), &levels_, offset, factor, bias,
                         job.y + row * outputs_, outputs_},
                        room);
      }
    });
    Job rest = job;
    const int64_t row = blocks * FourRussians::kRows;
    rest.a += row * job.stride;
    rest.y += row * outputs_;
    rest.rows -= row;
    if (rest.rows > 0) run(call, rest);
  }

  template <class F>
  void finish(const Kernels& use, const Job& job, int64_t panel, int64_t from, int64_t to, F&& sum) const {
    const int64_t first = panel * kOutputs;
    const int count = static_cast<int>(std::min<int64_t>(kOutputs, outputs_ - first));
    alignas(64) int32_t sums[kRows * kOutputs], offset[kOutputs] = {};
    alignas(64) float factor[kOutputs] = {}, bias[kOutputs] = {};
    for (int i = 0; i < count; ++i) {
      offset[i] = static_cast<int32_t>(sums_[first + i] * static_cast<uint32_t>(job.zero));
      factor[i] = job.step * job.scale[job.one_scale ? 0 : first + i];
      bias[i] = job.bias[job.one_bias ? 0 : first + i];
    }
    for (int64_t row = from; row < to; row += kRows) {
      const int rows = static_cast<int>(std::min<int64_t>(kRows, to - row));
      // What will be written is fetched meanwhile: with few columns it takes as long as the products.
      for (int i = 0; i < rows; ++i) {
        for (int at = 0; at < count; at += 16) __builtin_prefetch(job.y + (row + i) * outputs_ + first + at, 1);
      }
      sum(job.a + row * job.stride, rows, sums);
      for (int i = 0; i < rows; ++i) {
        use.finish(sums + i * kOutputs, offset, factor, bias, count, job.y + (row + i) * outputs_ + first);
      }
    }
  }

  int bits_;
  bool stored_;
  int64_t outputs_ = 0, bytes_ = 0, groups_ = 0, panels_ = 0;
  Levels levels_;
  std::vector<uint8_t> packed_;
  std::vector<uint32_t> sums_;  // of each output's weights
  bool three_levels_ = false;   // two bits, and no level but zero, the largest magnitude, and its opposite
  mutable std::once_flag once_, tables_once_;
  mutable std::unique_ptr<Lookup> lookup_;
  mutable std::unique_ptr<FourRussians> tables_;
};

const Register of_float_and_uint8(describe(kCpu, kFloat, kUint8, make<TernaryGemm>));
const Register of_float_and_int8(describe(kCpu, kFloat, kInt8, make<TernaryGemm>));
const Register of_uint8(describe(kCpu, kUint8, kUint8, make<TernaryGemm>));
const Register of_int8(describe(kCpu, kInt8, kInt8, make<TernaryGemm>));

}  // namespace
}  // namespace graphopt
