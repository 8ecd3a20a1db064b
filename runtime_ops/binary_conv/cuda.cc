// BinaryConv and BinaryConvSign in the CUDA provider: pixels are packed, what lies under each window is gathered (bits
// are few), and multiplied with the filters; see core/binary_pack.cu and core/binary_product.cu.

#include "binary_device.h"
#include "binary_shape.h"
#include "schema.h"

namespace graphopt {
namespace {

using namespace binary;

int narrow(int64_t size) {
  require(size <= INT32_MAX, "a size is beyond 2^31");
  return static_cast<int>(size);
}

DeviceFilters upload(const Info& info, const Window& window) {
  const Tensor weights = packed_weights(info, 4, window.channels, "channels");
  require(weights.shape[0] % window.group == 0, "weights (input 1): the number of filters is no multiple of group");
  require(weights.shape[1] >= 1 && weights.shape[2] >= 1, "weights (input 1): the window is empty");
  return {weights.as<uint8_t>(), weights.shape[0], weights.shape[1], weights.shape[2], window.channels};
}

template <bool kSigns>
class BinaryConv : public Kernel {
 public:
  explicit BinaryConv(const Info& info) : window_(Window::of(info)), filters_(upload(info, window_)) {
    const Shape shape = info.constant(1).shape;
    channels_ = shape[0];
    down_ = shape[1];
    across_ = shape[2];
  }

  void compute(Call& call) override {
    const Tensor x = call.input(0);
    require(x.rank() == 4, "x (input 0) must have four axes");
    if (x.shape[1] != window_.channels * window_.group) {
      throw Error("x (input 0) has " + std::to_string(x.shape[1]) + " channels, the weights want " +
                  std::to_string(window_.channels * window_.group));
    }
    Product product{};
    product.windows = windows(x.shape);
    const Windows& w = product.windows;
    set_epilogue(call, channels_, kSigns, product);
    const Tensor out = call.output(0, {x.shape[0], channels_, w.out_height, w.out_width});
    if (out.count() == 0) return;
    product.rows = w.batch * w.out_height * w.out_width;
    product.words = filters_.words;
    product.columns = channels_ / w.group;
    product.filters = filters_.filters();
    product.counts = filters_.counts();
    product.out = out.data;
    const int64_t pixels = w.batch * w.height * w.width * w.group * ((w.channels + 31) / 32);
    const Scratch packed(call.context(), std::max<size_t>(16, pixels * sizeof(uint32_t)));
    const Scratch gathered(call.context(), std::max<size_t>(16, w.group * product.rows * product.words * sizeof(uint32_t)));
    product.activations = static_cast<const uint32_t*>(gathered.data());
    check_cuda(graphopt_cuda_binary_pixels(x.data, x.type == kInt8, &w, static_cast<uint32_t*>(packed.data()),
                                           call.stream()),
               "packing");
    check_cuda(graphopt_cuda_binary_windows(static_cast<const uint32_t*>(packed.data()), &w, product.words,
                                            static_cast<uint32_t*>(gathered.data()), call.stream()),
               "gathering");
    check_cuda(graphopt_cuda_binary_product(&product, call.stream()), "the product");
  }

 private:
  Windows windows(const Shape& x) const {
    Windows w;
    w.batch = x[0];
    w.channels = window_.channels;
    w.group = window_.group;
    w.height = narrow(x[2]);
    w.width = narrow(x[3]);
    w.out_height = narrow(window_.out(0, x[2], down_));
    w.out_width = narrow(window_.out(1, x[3], across_));
    w.down = narrow(down_);
    w.across = narrow(across_);
    w.stride_down = narrow(window_.strides[0]);
    w.stride_across = narrow(window_.strides[1]);
    w.dilation_down = narrow(window_.dilations[0]);
    w.dilation_across = narrow(window_.dilations[1]);
    w.top = narrow(window_.pads[0]);
    w.left = narrow(window_.pads[1]);
    return w;
  }

  Window window_;
  DeviceFilters filters_;
  int64_t channels_ = 0, down_ = 0, across_ = 0;
};

const Register of_float(describe(kCuda, kFloat, make<BinaryConv<false>>));
const Register of_int8(describe(kCuda, kInt8, make<BinaryConv<false>>));
const Register sign_of_float(describe_sign(kCuda, kFloat, make<BinaryConv<true>>));
const Register sign_of_int8(describe_sign(kCuda, kInt8, make<BinaryConv<true>>));

}  // namespace
}  // namespace graphopt
