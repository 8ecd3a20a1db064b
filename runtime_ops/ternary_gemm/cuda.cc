// TernaryGemm in the CUDA provider: everything is read where it lies; nothing is packed, and weights may be computed.

#include "device.h"
#include "problem.h"
#include "schema.h"

namespace graphopt {
namespace {

class TernaryGemm : public Kernel {
 public:
  explicit TernaryGemm(const Info& info)
      : bits_(static_cast<int>(info.integer("bits", 2))), stored_(info.integer("stored", 0) != 0) {
    require(bits_ == 2 || bits_ == 4, "bits must be 2 or 4");
  }

  void compute(Call& call) override {
    const Tensor x = call.input(0), codes = call.input(1), levels = call.input(2), scale = call.input(3);
    const Tensor bias = call.input(4), step = call.input(5), zero = call.input(6);
    require(x.rank() >= 1, "x (input 0) must be [..., K]");
    require((x.type == kFloat) != stored_, stored_ ? "x (input 0) must be quantized where `stored` is 1"
                                                   : "x (input 0) must be float32 where `stored` is 0");
    require(!stored_ || x.type == zero.type, "x (input 0) must be of x_zero_point's type where `stored` is 1");
    require(codes.rank() == 2, "codes (input 1) must be [N, ceil(K * bits / 8)]");
    require(levels.rank() == 1 && levels.count() == 1 << bits_, "levels (input 2) must be [2 ** bits]");
    const int64_t columns = x.shape.back(), outputs = codes.shape[0], bytes = codes.shape[1], each = 8 / bits_;
    require((columns + each - 1) / each == bytes, "codes (input 1) must have ceil(K * bits / 8) columns");
    require(scale.count() == 1 || scale.count() == outputs, "scale (input 3) must be [N] or [1]");
    require(bias.count() == 1 || bias.count() == outputs, "bias (input 4) must be [N] or [1]");
    require(step.count() == 1, "x_scale (input 5) must be a scalar");
    require(zero.count() == 1, "x_zero_point (input 6) must be a scalar");
    Shape shape = x.shape;
    shape.back() = outputs;
    const Tensor y = call.output(0, shape);
    const int64_t rows = product(x.shape, 0, x.rank() - 1);
    if (rows == 0 || outputs == 0) return;

    ternary::Product p{};
    p.x = x.data;
    p.codes = codes.as<uint8_t>();
    p.levels = levels.as<int8_t>();
    p.scale = scale.as<float>();
    p.bias = bias.as<float>();
    p.step = step.as<float>();
    p.zero = zero.data;
    p.y = y.to<float>();
    p.rows = rows;
    p.columns = columns;
    p.outputs = outputs;
    p.bytes = bytes;
    p.scale_step = scale.count() == 1 ? 0 : 1;
    p.bias_step = bias.count() == 1 ? 0 : 1;
    p.bits = bits_;
    p.activation = x.type == kFloat ? ternary::kAsFloat : x.type == kUint8 ? ternary::kAsUint8 : ternary::kAsInt8;
    p.unsigned_zero = zero.type == kUint8;
    p.wide_x = columns % (x.type == kFloat ? 4 : 16) == 0 && reinterpret_cast<uintptr_t>(x.data) % 16 == 0;
    p.wide_codes = bytes % 8 == 0 && reinterpret_cast<uintptr_t>(codes.data) % 8 == 0;
    check_cuda(graphopt_cuda_ternary_gemm(&p, call.stream()), "TernaryGemm");
  }

 private:
  int bits_;
  bool stored_;
};

const Register of_float_and_uint8(describe(kCuda, kFloat, kUint8, make<TernaryGemm>));
const Register of_float_and_int8(describe(kCuda, kFloat, kInt8, make<TernaryGemm>));
const Register of_uint8(describe(kCuda, kUint8, kUint8, make<TernaryGemm>));
const Register of_int8(describe(kCuda, kInt8, kInt8, make<TernaryGemm>));

}  // namespace
}  // namespace graphopt
