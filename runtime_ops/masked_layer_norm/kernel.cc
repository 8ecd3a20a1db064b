// MaskedLayerNorm on the CPU: a row after the other, in float whatever its type is.

#include <algorithm>

#include "kernel.h"
#include "rows.h"
#include "schema.h"
#include "widen.h"

namespace graphopt {
namespace {

using namespace norm;

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
    const Normalize normalize = normalize_for_this_processor();
    const float* scale = parameter(call.input(1), size, "scale (input 1) must be [K] or [1]", parameters.data());
    const float* bias = parameter(call.input(2), size, "bias (input 2) must be [K] or [1]", parameters.data() + size);
    const int64_t grain = std::max<int64_t>(1, (1 << 14) / size);
    if (x.type == kFloat) {
      call.parallel(rows, grain, [&](int64_t first, int64_t last) {
        for (int64_t row = first; row < last; ++row) {
          normalize(x.as<float>() + row * size, size, rest_, scale, bias, y.to<float>() + row * size);
        }
      });
      return;
    }
    const Widening halves = widening(x.type);
    call.parallel(rows, grain, [&](int64_t first, int64_t last) {
      static thread_local std::vector<float> wide;
      if (wide.size() < static_cast<size_t>(size)) wide.resize(size);
      for (int64_t row = first; row < last; ++row) {
        halves.widen(x.as<uint16_t>() + row * size, size, wide.data());
        normalize(wide.data(), size, rest_, scale, bias, wide.data());
        halves.narrow(wide.data(), size, y.to<uint16_t>() + row * size);
      }
    });
  }

 private:
  // As floats, one for each position: where they lie if they are that, else in `memory`.
  static const float* parameter(const Tensor& given, int64_t size, const char* wrong, float* memory) {
    require(given.count() == size || given.count() == 1, wrong);
    if (given.count() == size && given.type == kFloat) return given.as<float>();
    if (given.type == kFloat) {
      memory[0] = *given.as<float>();
    } else {
      widening(given.type).widen(given.as<uint16_t>(), given.count(), memory);
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
