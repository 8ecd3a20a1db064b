// MaskedLayerNorm on the CPU: a row after the other, in float whatever its type is.

#include <algorithm>

#include "cpu.h"
#include "kernel.h"
#include "rows.h"
#include "schema.h"

namespace graphopt {
namespace {

using namespace norm;

const Kernels& kernels() {
  switch (cpu()) {
    case Cpu::kPortable:
      return portable();
    case Cpu::kAvx2:
      return avx2();
    default:
      return avx512();
  }
}

class MaskedLayerNorm : public Kernel {
 public:
  explicit MaskedLayerNorm(const Info& info) {
    const int64_t missing = info.integer("missing", 0);
    require(missing >= 0, "missing must not be negative");
    rest_ = {static_cast<float>(missing), info.number("fill", 0), info.number("spread", 0),
             info.number("epsilon", 1e-5f)};
  }

  void compute(Call& call) override {
    const Tensor x = call.input(0);
    require(x.rank() >= 1, "x (input 0) must be [..., K]");
    const Tensor y = call.output(0, x.shape);
    const int64_t size = x.shape.back(), rows = product(x.shape, 0, x.rank() - 1);
    if (rows * size == 0) return;
    static thread_local std::vector<float> parameters;  // of this thread: onnxruntime may run a session in several
    if (parameters.size() < static_cast<size_t>(2 * size)) parameters.resize(2 * size);
    const Kernels& use = kernels();
    const float* scale = parameter(use, call.input(1), size, "scale (input 1) must be [K] or [1]", parameters.data());
    const float* bias =
        parameter(use, call.input(2), size, "bias (input 2) must be [K] or [1]", parameters.data() + size);
    call.parallel(rows, std::max<int64_t>(1, (1 << 14) / size), [&](int64_t first, int64_t last) {
      if (x.type == kFloat) {
        for (int64_t row = first; row < last; ++row) {
          use.normalize(x.as<float>() + row * size, size, rest_, scale, bias, y.to<float>() + row * size);
        }
        return;
      }
      static thread_local std::vector<float> wide;
      if (wide.size() < static_cast<size_t>(size)) wide.resize(size);
      for (int64_t row = first; row < last; ++row) {
        widen(use, x.type, x.as<uint16_t>() + row * size, size, wide.data());
        use.normalize(wide.data(), size, rest_, scale, bias, wide.data());
        (x.type == kFloat16 ? use.to_half : use.to_bfloat16)(wide.data(), size, y.to<uint16_t>() + row * size);
      }
    });
  }

 private:
  static void widen(const Kernels& use, OrtElementType type, const uint16_t* x, int64_t count, float* y) {
    (type == kFloat16 ? use.from_half : use.from_bfloat16)(x, count, y);
  }

  // As floats, one for each position: where they lie if they are that, else in `memory`.
  static const float* parameter(const Kernels& use, const Tensor& given, int64_t size, const char* wrong,
                                float* memory) {
    require(given.count() == size || given.count() == 1, wrong);
    if (given.count() == size && given.type == kFloat) return given.as<float>();
    if (given.type == kFloat) {
      memory[0] = *given.as<float>();
    } else {
      widen(use, given.type, given.as<uint16_t>(), given.count(), memory);
    }
    if (given.count() == 1) std::fill(memory + 1, memory + size, memory[0]);
    return memory;
  }

  Rest rest_;
};

const Register of_float(describe(kCpu, kFloat, make<MaskedLayerNorm>, true));
const Register of_float16(describe(kCpu, kFloat16, make<MaskedLayerNorm>, true));
const Register of_bfloat16(describe(kCpu, kBfloat16, make<MaskedLayerNorm>, true));

}  // namespace
}  // namespace graphopt
