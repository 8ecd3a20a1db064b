// ScatterAdd in the CUDA provider; its indices must be constant: they are turned round once, on the host.

#include <algorithm>

#include "axis.h"
#include "device.h"
#include "schema.h"

extern "C" int graphopt_cuda_scatter_add(int type, const void* data, const void* updates, const void* fill,
                                         const void* floor, void* out, const int32_t* indices, const int32_t* map,
                                         int mapped, int64_t size, int64_t count, int64_t outer, int64_t inner,
                                         int64_t fills, int sparse, void* stream);

namespace graphopt {
namespace {

// Whether adding a number changes no other at all: -0.0, or an integer 0.
bool nothing(const Tensor& fill, int64_t at) {
  switch (fill.type) {
    case kFloat: {
      const float x = fill.as<float>()[at];
      return x == 0 && __builtin_signbit(x);
    }
    case kFloat16:
    case kBfloat16:
      return fill.as<uint16_t>()[at] == 0x8000u;
    default:
      return fill.as<uint8_t>()[at] == 0;
  }
}

class ScatterAdd : public Kernel {
 public:
  explicit ScatterAdd(const Info& info) : axis_(info.integer("axis", 0)) {
    const Tensor indices = info.constant(1), fill = info.constant(3);
    require(indices.present(), "indices must be an initializer in the CUDA provider");
    check_flat(indices, "indices");
    count_ = indices.count();
    const auto* index = indices.as<int64_t>();
    for (int64_t i = 0; i < count_; ++i) mapped_ = std::max(mapped_, index[i] + 1);
    require(mapped_ < INT32_MAX, "an index is beyond 2^31");
    const std::vector<int64_t> map = places(index, count_, mapped_);
    map_ = DeviceCopy(std::vector<int32_t>(map.begin(), map.end()));
    indices_ = DeviceCopy(std::vector<int32_t>(index, index + count_));
    if (!fill.present() || fill.rank() > 1) return;
    untouched_ = true;
    for (int64_t j = 0; j < fill.count(); ++j) {
      const bool read = fill.count() == 1 || j >= mapped_ || map[static_cast<size_t>(j)] < 0;
      untouched_ = untouched_ && (!read || nothing(fill, j));
    }
  }

  void compute(Call& call) override {
    const Tensor data = call.input(0), updates = call.input(2), fill = call.input(3), floor = call.input(4);
    const Around in = around(data.shape, axis_, "data");
    if (in.size < mapped_) {
      throw Error("indices holds " + std::to_string(mapped_ - 1) + ", data has " + std::to_string(in.size) +
                  " positions");
    }
    check_fill(fill, in.size);
    Shape expected = data.shape;
    expected[static_cast<size_t>(in.axis)] = count_;
    require(updates.shape == expected, "updates must be as large as data, with a position for each of the indices");
    require(!floor.present() || floor.count() == 1, "floor must hold one number");
    const Tensor out = call.output(0, data.shape);
    const bool sparse = out.data == data.data && !floor.present() && untouched_;
    check_cuda(graphopt_cuda_scatter_add(data.type, data.data, updates.data, fill.data,
                                         floor.present() ? floor.data : nullptr, out.data, indices_.as<int32_t>(),
                                         map_.as<int32_t>(), static_cast<int>(mapped_), in.size, count_, in.outer,
                                         in.inner, fill.count(), sparse, call.stream()),
               "ScatterAdd");
  }

 private:
  int64_t axis_, count_ = 0, mapped_ = 0;
  bool untouched_ = false;
  DeviceCopy indices_, map_;
};

const Register of_float(describe(kCuda, kFloat, make<ScatterAdd>));
const Register of_float16(describe(kCuda, kFloat16, make<ScatterAdd>));
const Register of_bfloat16(describe(kCuda, kBfloat16, make<ScatterAdd>));
const Register of_int8(describe(kCuda, kInt8, make<ScatterAdd>));
const Register of_uint8(describe(kCuda, kUint8, make<ScatterAdd>));

}  // namespace
}  // namespace graphopt
