// Gather with fill, on the CPU.

#include "axis.h"
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

void infer(Inference& inference) {
  TypeAndDims out = inference.input(0);
  const TypeAndDims indices = inference.input(1);
  int64_t axis = inference.integer("axis", 0);
  if (axis < 0) axis += static_cast<int64_t>(out.dims.size());
  if (axis < 0 || axis >= static_cast<int64_t>(out.dims.size())) return;
  out.dims[static_cast<size_t>(axis)] = indices.dims.size() == 1 ? indices.dims[0] : Dim();
  inference.output(0, out);
}

Operator describe(OrtElementType type) {
  return {"Gather", kCpu, {{type}, {kInt64}, {type}}, {{type}}, make<Gather>, infer};
}

const Register of_float(describe(kFloat));
const Register of_double(describe(kDouble));
const Register of_float16(describe(kFloat16));
const Register of_bfloat16(describe(kBfloat16));
const Register of_int8(describe(kInt8));
const Register of_uint8(describe(kUint8));
const Register of_int32(describe(kInt32));
const Register of_int64(describe(kInt64));

}  // namespace
}  // namespace graphopt
