// MaskedLayerNorm in the CUDA provider.

#include "device.h"
#include "schema.h"

extern "C" int graphopt_cuda_masked_layer_norm(int type, const void* x, const void* scale, const void* bias, void* y,
                                               int64_t rows, int64_t size, int64_t scale_step, int64_t bias_step,
                                               float missing, float fill, float spread, float epsilon, void* stream);

namespace graphopt {
namespace {

class MaskedLayerNorm : public Kernel {
 public:
  explicit MaskedLayerNorm(const Info& info)
      : missing_(info.integer("missing", 0)),
        fill_(info.number("fill", 0)),
        spread_(info.number("spread", 0)),
        epsilon_(info.number("epsilon", 1e-5f)) {
    require(missing_ >= 0, "missing must not be negative");
  }

  void compute(Call& call) override {
    const Tensor x = call.input(0), scale = call.input(1), bias = call.input(2);
    require(x.rank() >= 1, "x (input 0) must be [..., K]");
    const Tensor y = call.output(0, x.shape);
    const int64_t size = x.shape.back(), rows = product(x.shape, 0, x.rank() - 1);
    if (rows * size == 0) return;
    require(scale.count() == size || scale.count() == 1, "scale (input 1) must be [K] or [1]");
    require(bias.count() == size || bias.count() == 1, "bias (input 2) must be [K] or [1]");
    const int type = x.type == kFloat ? 0 : x.type == kFloat16 ? 1 : 2;
    check_cuda(graphopt_cuda_masked_layer_norm(type, x.data, scale.data, bias.data, y.data, rows, size,
                                               scale.count() == size, bias.count() == size,
                                               static_cast<float>(missing_), fill_, spread_, epsilon_, call.stream()),
               "MaskedLayerNorm");
  }

 private:
  int64_t missing_;
  float fill_, spread_, epsilon_;
};

const Register of_float(describe(kCuda, kFloat, make<MaskedLayerNorm>, false));
const Register of_float16(describe(kCuda, kFloat16, make<MaskedLayerNorm>, false));
const Register of_bfloat16(describe(kCuda, kBfloat16, make<MaskedLayerNorm>, false));

}  // namespace
}  // namespace graphopt
