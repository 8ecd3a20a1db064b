// A product with a 2:4 weight, on the CPU: the weight is made dense once, in float, and lies in panels of columns. Half of
// the multiplications are with zeros: finding the others would cost more. What there is to gain is on the GPU; this is
// here so that a session on the processor, with a library that knows the operator, has a kernel for it.

#include <algorithm>

#include "cpu.h"
#include "half.h"
#include "kernel.h"
#include "schema.h"
#include "weight.h"

namespace graphopt {
namespace {

constexpr int kRows = 4, kColumns = 32;

// `sums` [kRows, kColumns] = rows [kRows, depth] panel [depth, kColumns]
inline __attribute__((always_inline)) void multiply(const float* rows, const float* panel, int64_t depth, float* sums) {
  float kept[kRows][kColumns] = {};
  for (int64_t k = 0; k < depth; ++k) {
    for (int r = 0; r < kRows; ++r) {
      const float x = rows[r * depth + k];
      for (int c = 0; c < kColumns; ++c) kept[r][c] += x * panel[k * kColumns + c];
    }
  }
  std::copy_n(&kept[0][0], kRows * kColumns, sums);
}

void portable(const float* rows, const float* panel, int64_t depth, float* sums) { multiply(rows, panel, depth, sums); }

#ifdef GRAPHOPT_X86
GRAPHOPT_AVX2 void avx2(const float* rows, const float* panel, int64_t depth, float* sums) {
  multiply(rows, panel, depth, sums);
}
GRAPHOPT_AVX512 void avx512(const float* rows, const float* panel, int64_t depth, float* sums) {
  multiply(rows, panel, depth, sums);
}
#endif

template <class T>
T from_float(float x);
template <>
Half from_float<Half>(float x) {
  return to_half(x);
}
template <>
Bfloat16 from_float<Bfloat16>(float x) {
  return to_bfloat16(x);
}

template <class T>
class SparseGemm24 : public Kernel {
 public:
  explicit SparseGemm24(const Info& info) : weight_(info.constant(1), info.constant(2)) {
    const int64_t panels = (weight_.columns + kColumns - 1) / kColumns;
    dense_.resize(static_cast<size_t>(panels * weight_.depth * kColumns));
    weight_.each([&](int64_t column, int64_t row, uint16_t number) {
      dense_[(column / kColumns * weight_.depth + row) * kColumns + column % kColumns] = to_float(T{number});
    });
    weight_.values = {};
    weight_.indices = {};
  }

  void compute(Call& call) override {
    const Tensor x = call.input(0);
    const Shape shape = sparse24::shape_of(x, weight_);
    const Tensor out = call.output(0, shape);
    if (out.count() == 0) return;
    const int64_t rows = product(x.shape, 0, x.rank() - 1), depth = weight_.depth, columns = weight_.columns;
    const int64_t grain = std::max<int64_t>(1, (1 << 16) / (kRows * columns * std::max<int64_t>(depth, 1)));
    auto* run = portable;
#ifdef GRAPHOPT_X86
    run = cpu() >= Cpu::kAvx512 ? avx512 : cpu() >= Cpu::kAvx2 ? avx2 : portable;
#endif
    call.parallel((rows + kRows - 1) / kRows, grain, [&](int64_t first, int64_t last) {
      std::vector<float> wide(static_cast<size_t>(kRows * depth));
      float sums[kRows * kColumns];
      for (int64_t block = first; block < last; ++block) {
        const int64_t m = block * kRows, many = std::min<int64_t>(kRows, rows - m);
        for (int64_t i = 0; i < many * depth; ++i) wide[i] = to_float(x.as<T>()[m * depth + i]);
        for (int64_t n = 0; n < columns; n += kColumns) {
          run(wide.data(), dense_.data() + n * depth, depth, sums);
          const int64_t here = std::min<int64_t>(kColumns, columns - n);
          for (int64_t r = 0; r < many; ++r) {
            for (int64_t c = 0; c < here; ++c) {
              out.to<T>()[(m + r) * columns + n + c] = from_float<T>(sums[r * kColumns + c]);
            }
          }
        }
      }
    });
  }

 private:
  sparse24::Weight weight_;
  std::vector<float> dense_;  // [panels, depth, kColumns]
};

const Register of_half(describe(kCpu, kFloat16, make<SparseGemm24<Half>>));
const Register of_brain(describe(kCpu, kBfloat16, make<SparseGemm24<Bfloat16>>));

}  // namespace
}  // namespace graphopt
