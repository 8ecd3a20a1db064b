// GatherGemmScatter in the CUDA provider. Weights are packed and brought to the device when the kernel is made.

#include <cstring>

#include "blocks.h"
#include "device.h"
#include "group.h"
#include "schema.h"

extern "C" int graphopt_cuda_gather_gemm_scatter(int type, const Group* group, void* stream);

namespace graphopt {
namespace {

constexpr int32_t kPart = 64;  // outputs of a thread block

class GatherGemmScatter : public Kernel {
 public:
  explicit GatherGemmScatter(const Info& info) {
    const Tensor columns = info.constant(2), rows = info.constant(3), weights = info.constant(4);
    require(columns.present() && rows.present() && weights.present(),
            "columns, rows and weights must be initializers: they are packed when the model is loaded");
    about_ = read_blocks(columns, rows, weights);
    require(about_.most_column < INT32_MAX && about_.most_row < INT32_MAX, "a position is beyond 2^31");
    const size_t size = bytes_of(weights.type);
    std::vector<int32_t> all_columns, all_rows;
    std::vector<char> packed;
    std::vector<std::vector<GroupPart>> of_block;
    std::vector<bool> covered(static_cast<size_t>(about_.most_row + 1), false);
    for (size_t b = 0; b < about_.blocks.size(); ++b) {
      const Block& block = about_.blocks[b];
      GroupPart part{static_cast<int32_t>(block.columns.size()), static_cast<int32_t>(block.rows.size()), 0,
                     static_cast<int32_t>(all_columns.size()), static_cast<int32_t>(all_rows.size()),
                     static_cast<int64_t>(packed.size() / size)};
      all_columns.insert(all_columns.end(), block.columns.begin(), block.columns.end());
      all_rows.insert(all_rows.end(), block.rows.begin(), block.rows.end());
      for (int64_t row : block.rows) covered[static_cast<size_t>(row)] = true;
      for (int64_t column : block.from_column) {
        for (int64_t row : block.from_row) {
          const auto at = static_cast<size_t>((static_cast<int64_t>(b) * about_.depth + column) * about_.width + row);
          packed.insert(packed.end(), weights.as<char>() + at * size, weights.as<char>() + (at + 1) * size);
        }
      }
      of_block.emplace_back();
      for (; part.start < part.width; part.start += kPart) of_block.back().push_back(part);
    }
    std::vector<GroupPart> parts;
    for (const auto& set : about_.sets) {
      for (int64_t b : set) {
        const auto& its = of_block[static_cast<size_t>(b)];
        parts.insert(parts.end(), its.begin(), its.end());
      }
      set_ends_.push_back(static_cast<int32_t>(parts.size()));
    }
    for (bool one : covered) all_covered_ = all_covered_ && one;
    columns_ = DeviceCopy(all_columns);
    rows_ = DeviceCopy(all_rows);
    weights_ = DeviceCopy(packed);
    parts_ = DeviceCopy(parts);
  }

  void compute(Call& call) override {
    const Tensor y = call.input(0), x = call.input(1), floor = call.input(5);
    const Shape shape = product_shape(y, x, about_);
    require(!floor.present() || floor.count() == 1, "floor must hold one number");
    const Tensor out = call.output(0, shape);
    Group group{};
    group.y = y.data;
    group.x = x.data;
    group.weights = weights_.as<void>();
    group.floor = floor.present() ? floor.data : nullptr;
    group.out = out.data;
    group.columns = columns_.as<int32_t>();
    group.rows = rows_.as<int32_t>();
    group.parts = parts_.as<GroupPart>();
    group.set_ends = set_ends_.data();
    group.sets = static_cast<int>(set_ends_.size());
    group.width = shape.back();
    group.depth = x.shape.back();
    group.count = group.width == 0 ? 0 : out.count() / group.width;
    group.y_step = y.rank() == 1 ? 0 : group.width;
    group.covered = all_covered_ && about_.most_row + 1 == group.width;
    check_cuda(graphopt_cuda_gather_gemm_scatter(x.type, &group, call.stream()), "GatherGemmScatter");
  }

 private:
  Blocks about_;
  std::vector<int32_t> set_ends_;
  bool all_covered_ = true;
  DeviceCopy columns_, rows_, weights_, parts_;
};

const Register of_float(describe(kCuda, kFloat, make<GatherGemmScatter>));
const Register of_float16(describe(kCuda, kFloat16, make<GatherGemmScatter>));
const Register of_bfloat16(describe(kCuda, kBfloat16, make<GatherGemmScatter>));

}  // namespace
}  // namespace graphopt
