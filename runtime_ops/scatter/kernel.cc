// Scatter with fill, on the CPU: a gather by the inverse of the indices, which is made once where they are constant.

#include "axis.h"
#include "schema.h"
#include "spread.h"

namespace graphopt {
namespace {

class Scatter : public Kernel {
 public:
  explicit Scatter(const Info& info) : axis_(info.integer("axis", 0)) {
    const Tensor indices = info.constant(1), fill = info.constant(2);
    if (!indices.present() || !fill.present()) return;
    check_flat(indices, "indices");
    check_flat(fill, "fill");
    map_ = places(indices.as<int64_t>(), indices.count(), fill.count());
    count_ = indices.count();
  }

  void compute(Call& call) override {
    const Tensor updates = call.input(0), indices = call.input(1), fill = call.input(2);
    const Around in = around(updates.shape, axis_, "updates");
    check_flat(indices, "indices");
    check_flat(fill, "fill");
    const int64_t to = fill.count();
    if (indices.count() != in.size) {
      throw Error("updates has " + std::to_string(in.size) + " positions and indices " +
                  std::to_string(indices.count()));
    }
    std::vector<int64_t> now;
    if (count_ < 0) now = places(indices.as<int64_t>(), in.size, to);
    Shape shape = updates.shape;
    shape[static_cast<size_t>(in.axis)] = to;
    const Tensor out = call.output(0, shape);
    spread(call, {updates.data, out.data, count_ < 0 ? now.data() : map_.data(), fill.data, to, in.outer, in.size, to,
                  in.inner, bytes_of(updates.type)});
  }

 private:
  int64_t axis_;
  int64_t count_ = -1;  // of constant indices
  std::vector<int64_t> map_;
};

const Register of_float(describe(kCpu, kFloat, make<Scatter>));
const Register of_double(describe(kCpu, kDouble, make<Scatter>));
const Register of_float16(describe(kCpu, kFloat16, make<Scatter>));
const Register of_bfloat16(describe(kCpu, kBfloat16, make<Scatter>));
const Register of_int8(describe(kCpu, kInt8, make<Scatter>));
const Register of_uint8(describe(kCpu, kUint8, make<Scatter>));
const Register of_int32(describe(kCpu, kInt32, make<Scatter>));
const Register of_int64(describe(kCpu, kInt64, make<Scatter>));

}  // namespace
}  // namespace graphopt
