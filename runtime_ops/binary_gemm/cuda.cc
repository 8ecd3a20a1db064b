// BinaryGemm and BinaryGemmSign in the CUDA provider: rows are packed, then multiplied; see core/binary_product.cu.

#include "binary_device.h"
#include "schema.h"

namespace graphopt {
namespace {

using namespace binary;

template <bool kSigns>
class BinaryGemm : public Kernel {
 public:
  explicit BinaryGemm(const Info& info)
      : bits_(info.integer("k", -1)), channels_(packed_weights(info, 2, bits_, "k").shape[0]),
        filters_(info.constant(1).as<uint8_t>(), channels_, 1, 1, bits_) {}

  void compute(Call& call) override {
    const Tensor x = call.input(0);
    require(x.rank() >= 1, "x (input 0) must have an axis");
    if (x.shape.back() != bits_) {
      throw Error("x (input 0) has " + std::to_string(x.shape.back()) + " numbers in its last axis, the weights " +
                  std::to_string(bits_));
    }
    Shape shape = x.shape;
    shape.back() = channels_;
    Product product{};
    product.rows = product.windows.batch = graphopt::product(x.shape, 0, x.rank() - 1);
    product.windows.channels = bits_;
    set_epilogue(call, channels_, kSigns, product);
    const Tensor out = call.output(0, shape);
    if (out.count() == 0) return;
    product.words = filters_.words;
    product.columns = channels_;
    product.filters = filters_.filters();
    product.counts = filters_.counts();
    product.out = out.data;
    const Scratch packed(call.context(), std::max<size_t>(16, product.rows * product.words * sizeof(uint32_t)));
    product.activations = static_cast<const uint32_t*>(packed.data());
    check_cuda(graphopt_cuda_binary_rows(x.data, x.type == kInt8, product.rows, bits_, product.words,
                                         static_cast<uint32_t*>(packed.data()), call.stream()),
               "packing");
    check_cuda(graphopt_cuda_binary_product(&product, call.stream()), "the product");
  }

 private:
  int64_t bits_, channels_;
  DeviceFilters filters_;
};

const Register of_float(describe(kCuda, kFloat, make<BinaryGemm<false>>));
const Register of_int8(describe(kCuda, kInt8, make<BinaryGemm<false>>));
const Register sign_of_float(describe_sign(kCuda, kFloat, make<BinaryGemm<true>>));
const Register sign_of_int8(describe_sign(kCuda, kInt8, make<BinaryGemm<true>>));

}  // namespace
}  // namespace graphopt
