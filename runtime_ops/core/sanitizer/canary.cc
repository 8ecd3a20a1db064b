// An operator that commits, on request, what the sanitizers are to find. It is in no library but theirs.

#include <cstdint>
#include <vector>

#include "kernel.h"

namespace graphopt {
namespace {

class Canary : public Kernel {
 public:
  explicit Canary(const Info& info) : fault_(info.text("fault", "none")) {}

  void compute(Call& call) override {
    const Tensor in = call.input(0);
    const Tensor out = call.output(0, in.shape);
    const int64_t count = in.count();
    const auto* x = in.as<int32_t>();
    auto* y = out.to<int32_t>();
    for (int64_t i = 0; i < count; ++i) y[i] = x[i];
    if (fault_ == "read") y[0] = x[count];                 // behind the input
    if (fault_ == "write") *(y + count) = 1;               // behind the output
    if (fault_ == "overflow") y[0] = x[0] + INT32_MAX;     // of a signed number
    if (fault_ == "misaligned") y[0] = *reinterpret_cast<const int32_t*>(in.as<char>() + 1);
    if (fault_ == "race") {  // long enough for the other thread to wake up
      call.parallel(1 << 24, 1, [&](int64_t first, int64_t last) {
        volatile int32_t* sum = y;
        for (int64_t i = first; i < last; ++i) *sum = *sum ^ 1;
      });
    }
    if (fault_ == "none") {
      std::vector<int32_t> sums(1 << 12);
      call.parallel(1 << 12, 1, [&](int64_t first, int64_t last) {
        for (int64_t i = first; i < last; ++i) sums[i] = y[0];
      });
      y[0] = sums[7];
    }
  }

 private:
  std::string fault_;
};

void infer(Inference& inference) { inference.output(0, inference.input(0)); }

const Register canary({"Canary", kCpu, {{kInt32}}, {{kInt32}}, make<Canary>, infer});

}  // namespace
}  // namespace graphopt
