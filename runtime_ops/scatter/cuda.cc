// Scatter with fill, in the CUDA provider: a gather by the inverse of the indices, which must be constant: they are
// turned round once, on the host.

#include "axis.h"
#include "device.h"
#include "schema.h"
#include "spread_cuda.h"

namespace graphopt {
namespace {

class Scatter : public Kernel {
 public:
  explicit Scatter(const Info& info) : axis_(info.integer("axis", 0)) {
    const Tensor indices = info.constant(1), fill = info.constant(2);
    require(indices.present(), "indices must be an initializer in the CUDA provider");
    require(fill.present(), "fill must be an initializer in the CUDA provider");
    check_flat(indices, "indices");
    check_flat(fill, "fill");
    count_ = indices.count();
    to_ = fill.count();
    require(to_ < INT32_MAX, "fill has 2^31 positions or more");
    const std::vector<int64_t> map = places(indices.as<int64_t>(), count_, to_);
    map_ = DeviceCopy(std::vector<int32_t>(map.begin(), map.end()));
  }

  void compute(Call& call) override {
    const Tensor updates = call.input(0), fill = call.input(2);
    const Around in = around(updates.shape, axis_, "updates");
    if (in.size != count_) {
      throw Error("updates has " + std::to_string(in.size) + " positions and indices " + std::to_string(count_));
    }
    Shape shape = updates.shape;
    shape[static_cast<size_t>(in.axis)] = to_;
    const Tensor out = call.output(0, shape);
    check_cuda(graphopt_cuda_spread(static_cast<int>(bytes_of(updates.type)), 4, updates.data, map_.as<void>(),
                                    fill.data, out.data, in.size, to_, in.outer, in.inner, to_, call.stream()),
               "Scatter");
  }

 private:
  int64_t axis_, count_, to_;
  DeviceCopy map_;
};

const Register of_float(describe(kCuda, kFloat, make<Scatter>));
const Register of_float16(describe(kCuda, kFloat16, make<Scatter>));
const Register of_bfloat16(describe(kCuda, kBfloat16, make<Scatter>));
const Register of_int8(describe(kCuda, kInt8, make<Scatter>));
const Register of_uint8(describe(kCuda, kUint8, make<Scatter>));

}  // namespace
}  // namespace graphopt
