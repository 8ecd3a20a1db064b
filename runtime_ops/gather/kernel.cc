// Gather with fill, on the CPU: copies rows, and writes the fill where an index is negative.

#include <algorithm>
#include <cstring>

#include "kernel.h"

namespace graphopt {
namespace {

// A model's input 0 is [..., n, ...]; everything before the axis is `outer`, everything behind it `inner` numbers.
class Gather : public Kernel {
 public:
  explicit Gather(const Info& info) : axis_(info.integer("axis", 0)) {}

  void compute(Call& call) override {
    const Tensor data = call.input(0), indices = call.input(1), fill = call.input(2);
    const int64_t rank = static_cast<int64_t>(data.rank());
    const int64_t axis = axis_ < 0 ? axis_ + rank : axis_;
    require(axis >= 0 && axis < rank, "axis is outside the data");
    require(indices.rank() == 1, "indices must have one axis");
    Shape shape = data.shape;
    shape[axis] = indices.count();
    const Tensor out = call.output(0, shape);
    const size_t row = product(data.shape, axis + 1) * bytes_of(data.type);
    const int64_t from = data.shape[axis], to = shape[axis], outer = product(data.shape, 0, axis);
    const auto* index = indices.as<int64_t>();
    for (int64_t i = 0; i < to; ++i) require(index[i] < from, "an index is beyond the data");
    if (out.count() == 0) return;
    std::vector<char> filled(row);
    const size_t size = bytes_of(data.type);
    for (size_t at = 0; at < row; at += size) std::memcpy(filled.data() + at, fill.data, size);
    const auto* source = data.as<char>();
    auto* target = out.to<char>();
    const int64_t grain = std::max<int64_t>(1, 1 << 15 >> std::min<size_t>(15, row / 64));
    call.parallel(outer * to, grain, [&](int64_t first, int64_t last) {
      for (int64_t at = first; at < last; ++at) {
        const int64_t i = index[at % to];
        std::memcpy(target + at * row, i < 0 ? filled.data() : source + (at / to * from + i) * row, row);
      }
    });
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
  out.dims[axis] = indices.dims.size() == 1 ? indices.dims[0] : Dim();
  inference.output(0, out);
}

Operator describe(OrtElementType type) {
  return {"Gather", kCpu, {{type}, {kInt64}, {type}}, {{type}}, make<Gather>, infer};
}

const Register of_float(describe(kFloat));
const Register of_int8(describe(kInt8));
const Register of_uint8(describe(kUint8));

}  // namespace
}  // namespace graphopt
