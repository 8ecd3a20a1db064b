// Gather with fill, on the CPU.

#include "axis.h"
#include "schema.h"
#include "spread.h"

namespace graphopt {
namespace {

class Gather : public Kernel {
 public:
  explicit Gather(const Info& info) : axis_(info.integer("axis", 0)) {}

  void compute(Call& call) override {
    const Tensor data = call.input(0), indices = call.input(1), fill = call.input(2);
    const Around in = around(data.shape, axis_, "data");
    check_flat(indices, "indices");
    const int64_t to = indices.count();
    check_fill(fill, to);
    check_gathered(indices.as<int64_t>(), to, in.size);
    Shape shape = data.shape;
    shape[static_cast<size_t>(in.axis)] = to;
    const Tensor out = call.output(0, shape);
    spread(call, {data.data, out.data, indices.as<int64_t>(), fill.data, fill.count(), in.outer, in.size, to, in.inner,
                  bytes_of(data.type)});
  }

 private:
  int64_t axis_;
};

const Register of_float(describe(kCpu, kFloat, make<Gather>));
const Register of_double(describe(kCpu, kDouble, make<Gather>));
const Register of_float16(describe(kCpu, kFloat16, make<Gather>));
const Register of_bfloat16(describe(kCpu, kBfloat16, make<Gather>));
const Register of_int8(describe(kCpu, kInt8, make<Gather>));
const Register of_uint8(describe(kCpu, kUint8, make<Gather>));
const Register of_int32(describe(kCpu, kInt32, make<Gather>));
const Register of_int64(describe(kCpu, kInt64, make<Gather>));

}  // namespace
}  // namespace graphopt
