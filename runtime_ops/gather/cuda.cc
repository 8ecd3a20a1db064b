// Gather with fill, in the CUDA provider.
//
// Indices that are computed lie on the device and are not looked at before they are used: one beyond the data stands
// for the fill there. Constant ones are refused, as on the CPU.

#include <algorithm>

#include "axis.h"
#include "device.h"
#include "schema.h"
#include "spread_cuda.h"

namespace graphopt {
namespace {

class Gather : public Kernel {
 public:
  explicit Gather(const Info& info) : axis_(info.integer("axis", 0)) {
    const Tensor indices = info.constant(1);
    if (!indices.present()) return;
    check_flat(indices, "indices");
    std::vector<int32_t> map;
    for (int64_t i = 0; i < indices.count(); ++i) {
      const int64_t index = indices.as<int64_t>()[i];
      require(index < INT32_MAX, "an index is beyond 2^31");
      most_ = std::max(most_, index);
      map.push_back(index < 0 ? -1 : static_cast<int32_t>(index));
    }
    map_ = DeviceCopy(map);
    constant_ = true;
  }

  void compute(Call& call) override {
    const Tensor data = call.input(0), indices = call.input(1), fill = call.input(2);
    const Around in = around(data.shape, axis_, "data");
    check_flat(indices, "indices");
    const int64_t to = indices.count();
    check_fill(fill, to);
    check_gathered(&most_, 1, in.size);
    Shape shape = data.shape;
    shape[static_cast<size_t>(in.axis)] = to;
    const Tensor out = call.output(0, shape);
    const void* map = constant_ ? map_.as<void>() : indices.data;
    check_cuda(graphopt_cuda_spread(static_cast<int>(bytes_of(data.type)), constant_ ? 4 : 8, data.data, map, fill.data,
                                    out.data, in.size, to, in.outer, in.inner, fill.count(), call.stream()),
               "Gather");
  }

 private:
  int64_t axis_;
  int64_t most_ = -1;
  bool constant_ = false;
  DeviceCopy map_;
};

const Register of_float(describe(kCuda, kFloat, make<Gather>));
const Register of_float16(describe(kCuda, kFloat16, make<Gather>));
const Register of_bfloat16(describe(kCuda, kBfloat16, make<Gather>));
const Register of_int8(describe(kCuda, kInt8, make<Gather>));
const Register of_uint8(describe(kCuda, kUint8, make<Gather>));

}  // namespace
}  // namespace graphopt
