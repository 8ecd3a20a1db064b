// Int8Gemm and Int8GemmAdd in the CUDA provider: rows of 16 bytes are read where they lie, others are copied first.

#include "int8_device.h"
#include "schema.h"

namespace graphopt {
namespace {

using namespace int8;

class Int8Gemm : public Kernel {
 public:
  Int8Gemm(const Info& info, bool residual)
      : how_(info, residual), w_shape_(shape(info)), weights_(upload(info, w_shape_, how_.x_zero_point)) {}

  void compute(Call& call) override {
    const Tensor x = call.input(0);
    const int64_t depth = w_shape_[0], columns = w_shape_[1];
    require(x.rank() >= 1 && x.shape.back() == depth, "the last axis of x and the first of w differ");
    Shape shape = x.shape;
    shape.back() = columns;
    Tensor residual;
    if (how_.residual) {
      residual = call.input(4);
      require(residual.shape == shape, "the residual must have the shape of y");
    }
    const Tensor y = call.output(0, shape);
    if (y.count() == 0) return;
    Product p = weights_.product(how_);
    p.rows = p.batch = narrow(graphopt::product(x.shape, 0, x.rank() - 1), "the rows of x");
    p.columns = narrow(columns, "the columns of w");
    p.x = x.as<int8_t>();
    p.x_step = p.channels;
    p.residual = how_.residual ? residual.as<int8_t>() : nullptr;
    p.y = y.to<int8_t>();
    if (depth == weights_.wide && aligned(p.x)) {
      weights_.multiply(p, call);
      return;
    }
    const Scratch rows(call.context(), static_cast<size_t>(p.rows) * weights_.wide);
    Rearrange copy;
    copy.x = p.x;
    copy.to = static_cast<int8_t*>(rows.data());
    copy.batch = 1;
    copy.positions = p.rows;
    copy.channels = static_cast<int>(depth);
    copy.wide = static_cast<int>(weights_.wide);
    check_cuda(graphopt_cuda_int8_rearrange(&copy, call.stream()), "copying rows");
    p.x = copy.to;
    weights_.multiply(p, call);
  }

 private:
  static Shape shape(const Info& info) {
    const Tensor w = constant(info, 1, "w");
    require(w.rank() == 2, "w must be a matrix");
    narrow(w.shape[0], "the rows of w");
    return w.shape;
  }

  static DeviceWeights upload(const Info& info, const Shape& shape, int64_t x_zero_point) {
    const Tensor w = constant(info, 1, "w");
    const auto* from = w.as<int8_t>();
    const int64_t columns = shape[1];
    return DeviceWeights(info, 1, columns, shape[0], 1, false, x_zero_point,
                         [=](int64_t n, int64_t k, int64_t) { return from[k * columns + n]; });
  }

  Requantize how_;
  Shape w_shape_;
  DeviceWeights weights_;
};

template <bool Residual>
std::unique_ptr<Kernel> create(const Info& info) {
  return std::make_unique<Int8Gemm>(info, Residual);
}

// Weights, scales and biases are read on the host when the kernel is made: onnxruntime need not copy them.
const Register plain(describe(kCuda, create<false>, kMemCpuInput));
const Register with_residual(describe_add(kCuda, create<true>, kMemCpuInput));

}  // namespace
}  // namespace graphopt
