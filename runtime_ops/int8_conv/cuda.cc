// Int8Conv and Int8ConvAdd in the CUDA provider.
//
// The kernel reads NHWC with 16 channels or more in a group. An image that lies so is read where it lies; others are
// rearranged in scratch memory first, which graphs avoid by keeping NHWC between convolutions. Groups of few channels,
// as in depthwise convolutions, have nothing to multiply matrices with: a plain kernel reads either layout.

#include "int8_device.h"
#include "int8_window.h"
#include "schema.h"

namespace graphopt {
namespace {

using namespace int8;

constexpr int64_t kBorder = 1 << 15;  // positions are signed halves of a word in the kernel

class Int8Conv : public Kernel {
 public:
  Int8Conv(const Info& info, bool residual)
      : window_(info),
        how_(info, residual),
        w_shape_(shape(info, window_)),
        direct_(window_.group > 1 && (w_shape_[1] < kChunk || w_shape_[0] / window_.group < kChunk)),
        weights_(upload(info, w_shape_, window_.group, direct_, how_.x_zero_point)) {}

  void compute(Call& call) override {
    const Tensor x = call.input(0);
    const Sizes s = window_.sizes(x.shape, w_shape_);
    const Shape shape = window_.output(s);
    Tensor residual;
    if (how_.residual) {
      residual = call.input(4);
      require(residual.shape == shape, "the residual must have the shape of y");
    }
    const Tensor y = call.output(0, shape);
    if (y.count() == 0) return;
    require(s.channels > 0, "w has no channels");
    Product p = weights_.product(how_);
    geometry(s, p);
    p.x = x.as<int8_t>();
    p.residual = how_.residual ? residual.as<int8_t>() : nullptr;
    p.y = y.to<int8_t>();
    const int64_t positions = s.height * s.width, all = s.groups * s.channels;
    const bool planes = !window_.input_nhwc && positions != 1;
    if (direct_) {
      Direct d;
      d.product = p;
      d.x_position = planes ? 1 : static_cast<int>(all);
      d.x_channel = planes ? static_cast<int>(positions) : 1;
      d.x_image = positions * all;
      check_cuda(graphopt_cuda_int8_direct(&d, call.stream()), "the convolution");
      return;
    }
    p.x_step = narrow(s.groups * weights_.wide, "the channels of x");
    if (!planes && s.channels == weights_.wide && aligned(p.x)) {
      weights_.multiply(p, call);
      return;
    }
    const Scratch images(call.context(), static_cast<size_t>(s.batch * positions * s.groups * weights_.wide));
    Rearrange copy;
    copy.x = p.x;
    copy.to = static_cast<int8_t*>(images.data());
    copy.batch = p.batch;
    copy.positions = static_cast<int>(positions);
    copy.groups = p.groups;
    copy.channels = static_cast<int>(s.channels);
    copy.wide = static_cast<int>(weights_.wide);
    copy.planes = planes;
    require(copy.batch < 65536, "the batch is too large for the CUDA kernel");
    check_cuda(graphopt_cuda_int8_rearrange(&copy, call.stream()), "rearranging x");
    p.x = copy.to;
    weights_.multiply(p, call);
  }

 private:
  static Shape shape(const Info& info, const Window& window) {
    const Tensor w = constant(info, 1, "w");
    require(static_cast<int64_t>(w.rank()) == window.spatial + 2, "w has another rank than the attributes say");
    require(w.shape[0] % window.group == 0, "the filters of w are no multiple of group");
    require(window.group < 65536, "there are too many groups for the CUDA kernel");
    return w.shape;
  }

  static DeviceWeights upload(const Info& info, const Shape& shape, int64_t group, bool direct, int64_t x_zero_point) {
    const Tensor w = constant(info, 1, "w");
    const auto* from = w.as<int8_t>();
    const int64_t channels = shape[1], taps = graphopt::product(shape, 2);
    return DeviceWeights(info, group, shape[0], channels, taps, direct, x_zero_point,
                         [=](int64_t n, int64_t k, int64_t t) { return from[(n * channels + k) * taps + t]; });
  }

  void geometry(const Sizes& s, Product& p) const {
    narrow(s.batch * s.height * s.width, "the positions of x");
    narrow(s.batch * s.out_height * s.out_width, "the positions of y");
    require(s.height + window_.pad_top < kBorder && s.width + window_.pad_left < kBorder &&
                s.kernel_height * window_.dilation_height < kBorder && s.kernel_width * window_.dilation_width < kBorder &&
                s.out_height * window_.stride_height < kBorder && s.out_width * window_.stride_width < kBorder,
            "the image is too large for the CUDA kernel: 32767 positions a side");
    p.batch = static_cast<int>(s.batch);
    p.height = static_cast<int>(s.height);
    p.width = static_cast<int>(s.width);
    p.out_height = static_cast<int>(s.out_height);
    p.out_width = static_cast<int>(s.out_width);
    p.groups = static_cast<int>(s.groups);
    p.columns = narrow(s.columns, "the filters of w");
    p.kernel_height = static_cast<int>(s.kernel_height);
    p.kernel_width = static_cast<int>(s.kernel_width);
    p.pad_top = static_cast<int>(window_.pad_top);
    p.pad_left = static_cast<int>(window_.pad_left);
    p.stride_height = static_cast<int>(window_.stride_height);
    p.stride_width = static_cast<int>(window_.stride_width);
    p.dilation_height = static_cast<int>(window_.dilation_height);
    p.dilation_width = static_cast<int>(window_.dilation_width);
    p.rows = p.batch * p.out_height * p.out_width;
    p.planes = !window_.output_nhwc && s.out_height * s.out_width != 1;
  }

  Window window_;
  Requantize how_;
  Shape w_shape_;
  bool direct_;
  DeviceWeights weights_;
};

template <bool Residual>
std::unique_ptr<Kernel> create(const Info& info) {
  return std::make_unique<Int8Conv>(info, Residual);
}

// Weights, scales and biases are read on the host when the kernel is made: onnxruntime need not copy them.
const Register plain(describe(kCuda, create<false>, kMemCpuInput));
const Register with_residual(describe_add(kCuda, create<true>, kMemCpuInput));

}  // namespace
}  // namespace graphopt
