// A product with a 2:4 weight in the CUDA provider: on the sparse tensor cores through cuSPARSELt where it is there and
// takes the sizes, else by a plain kernel.

#include <algorithm>
#include <cstdlib>
#include <map>
#include <mutex>
#include <type_traits>

#include "cusparselt.h"
#include "device.h"
#include "kernel.h"
#include "schema.h"
#include "weight.h"

extern "C" {
int graphopt_cuda_sparse24(int brain, const void* x, const void* values, const uint8_t* indices, void* out, int64_t rows,
                           int64_t depth, int64_t columns, void* stream);
int graphopt_cuda_sparse24_copy(const void* from, void* to, int64_t bytes, int64_t room, void* stream);
int graphopt_cuda_sparse24_wait();
}

namespace graphopt {
namespace {

namespace lt = cusparselt;
using sparse24::Weight;

constexpr size_t kPlans = 64;     // for so many numbers of rows at once
constexpr int64_t kGranule = 16;  // every size of a matrix of 16-bit numbers is a multiple of this

// [columns, depth]
std::vector<uint16_t> dense(const Weight& weight) {
  std::vector<uint16_t> all(static_cast<size_t>(weight.columns * weight.depth));
  weight.each([&](int64_t column, int64_t row, uint16_t number) { all[column * weight.depth + row] = number; });
  return all;
}

void check_lt(int status, const char* what) {
  if (status != 0) throw Error(std::string("cuSPARSELt cannot ") + what + ": status " + std::to_string(status));
}

// In cuSPARSELt's words, all in column order: D [N, M] = A' [K, N]' B [K, M], where A is the weight, B is x and D is out,
// each as it lies in memory.
class OnTensorCores {
 public:
  // Whether there is a library that takes these sizes.
  static bool takes(const Weight& weight) {
    return lt::functions() != nullptr && weight.depth != 0 && weight.columns != 0 && weight.depth % kGranule == 0 &&
           weight.columns % kGranule == 0;
  }

  OnTensorCores(const Weight& weight, int type) : depth_(weight.depth), columns_(weight.columns), type_(type) {
    check_lt(call_.Init(&handle_), "start");
    try {
      check_lt(call_.GetVersion(&handle_, &version_), "say its version");
      require(version_ >= lt::kOldest, "cuSPARSELt is older than 0.6");
      check_lt(call_.StructuredDescriptorInit(&handle_, &weight_, depth_, columns_, depth_, lt::kAlignment, type_,
                                              lt::kColumnOrder, lt::kFiftyPercent),
               "describe the weight");
      compress(weight);
    } catch (...) {
      call_.Destroy(&handle_);
      throw;
    }
  }

  ~OnTensorCores() {
    plans_.clear();
    call_.MatDescriptorDestroy(&weight_);
    call_.Destroy(&handle_);
  }
  OnTensorCores(const OnTensorCores&) = delete;
  OnTensorCores& operator=(const OnTensorCores&) = delete;

  int version() const { return version_; }

  void multiply(const void* x, void* out, int64_t rows, Call& call) {
    const int64_t padded = (rows + kGranule - 1) / kGranule * kGranule;
    const int64_t size = 2;
    const std::shared_ptr<Plan> kept = plan(padded);
    Plan& p = *kept;
    void* stream = call.stream();
    if (padded == rows && aligned(x) && aligned(out)) {
      search(p, x, out, stream, call);
      const Scratch workspace(call.context(), std::max<size_t>(p.workspace, 16));
      run(p, x, out, workspace.data(), stream);
      return;
    }
    const Scratch workspace(call.context(), std::max<size_t>(p.workspace, 16));
    // Rows lie one behind the other: those that fill up are zeros behind them, and their results are left behind.
    const Scratch wide_x(call.context(), static_cast<size_t>(padded * depth_ * size));
    const Scratch wide_out(call.context(), static_cast<size_t>(padded * columns_ * size));
    check_cuda(graphopt_cuda_sparse24_copy(x, wide_x.data(), rows * depth_ * size, padded * depth_ * size, stream), "x");
    run(p, wide_x.data(), wide_out.data(), workspace.data(), stream);
    const int64_t bytes = rows * columns_ * size;
    check_cuda(graphopt_cuda_sparse24_copy(wide_out.data(), out, bytes, bytes, stream), "out");
  }

 private:
  struct Plan {
    lt::Opaque x, out, product, selection, plan;
    size_t workspace = 0;
    bool searched = false;
  };

  // Where GRAPHOPT_SPARSE24_SEARCH is set, to compare: the first run of a plan looks for the fastest kernel.
  void search(Plan& p, const void* x, void* out, void* stream, Call& call) {
    if (!search_) return;
    const std::lock_guard<std::mutex> lock(mutex_);
    if (p.searched) return;
    p.searched = true;
    const float one = 1, zero = 0;
    const Scratch workspace(call.context(), std::max<size_t>(p.workspace, 16));
    check_lt(call_.MatmulSearch(&handle_, &p.plan, &one, compressed_.as<void>(), x, &zero, out, out, workspace.data(),
                                &stream, 1),
             "look for the fastest kernel");
    check_lt(call_.MatmulGetWorkspace(&handle_, &p.plan, &p.workspace), "say what memory it needs");
  }

  static bool aligned(const void* data) { return reinterpret_cast<uintptr_t>(data) % lt::kAlignment == 0; }

  void compress(const Weight& weight) {
    size_t bytes = 0, buffer = 0;
    check_lt(call_.SpMMACompressedSize2(&handle_, &weight_, &bytes, &buffer), "measure the weight");
    const DeviceCopy plain(dense(weight)), room(std::vector<char>(std::max<size_t>(buffer, 16)));
    compressed_ = DeviceCopy(std::vector<char>(bytes));
    check_lt(call_.SpMMACompress2(&handle_, &weight_, 1, lt::kTransposed, plain.as<void>(),
                                  const_cast<void*>(compressed_.as<void>()), const_cast<void*>(room.as<void>()), nullptr),
             "compress the weight");
    check_cuda(graphopt_cuda_sparse24_wait(), "compressing");
  }

  // Made for each number of rows that comes, before a run is captured at the latest.
  std::shared_ptr<Plan> plan(int64_t rows) {
    const std::lock_guard<std::mutex> lock(mutex_);
    const auto found = plans_.find(rows);
    if (found != plans_.end()) return found->second;
    if (plans_.size() >= kPlans) plans_.clear();  // whoever runs one has it
    const std::shared_ptr<Plan> made(new Plan, [this](Plan* p) { destroy(p); });
    Plan& p = *made;
    check_lt(call_.DenseDescriptorInit(&handle_, &p.x, depth_, rows, depth_, lt::kAlignment, type_, lt::kColumnOrder),
             "describe x");
    check_lt(call_.DenseDescriptorInit(&handle_, &p.out, columns_, rows, columns_, lt::kAlignment, type_,
                                       lt::kColumnOrder),
             "describe the result");
    check_lt(call_.MatmulDescriptorInit(&handle_, &p.product, lt::kTransposed, lt::kAsIs, &weight_, &p.x, &p.out, &p.out,
                                        lt::kCompute32F),
             "describe the product");
    check_lt(call_.MatmulAlgSelectionInit(&handle_, &p.selection, &p.product, lt::kDefaultAlgorithm), "choose a kernel");
    check_lt(call_.MatmulPlanInit(&handle_, &p.plan, &p.product, &p.selection), "plan the product");
    check_lt(call_.MatmulGetWorkspace(&handle_, &p.plan, &p.workspace), "say what memory it needs");
    plans_[rows] = made;
    return made;
  }

  void run(const Plan& p, const void* x, void* out, void* workspace, void* stream) const {
    const float one = 1, zero = 0;
    check_lt(call_.Matmul(&handle_, &p.plan, &one, compressed_.as<void>(), x, &zero, out, out,
                          p.workspace == 0 ? nullptr : workspace, &stream, 1),
             "multiply");
  }

  void destroy(Plan* p) const {
    call_.MatmulPlanDestroy(&p->plan);
    call_.MatDescriptorDestroy(&p->x);
    call_.MatDescriptorDestroy(&p->out);
    delete p;
  }

  const lt::Functions& call_ = *lt::functions();
  int64_t depth_, columns_;
  int type_, version_ = 0;
  bool search_ = std::getenv("GRAPHOPT_SPARSE24_SEARCH") != nullptr;
  lt::Opaque handle_, weight_;
  DeviceCopy compressed_;
  std::mutex mutex_;
  std::map<int64_t, std::shared_ptr<Plan>> plans_;
};

// What the last kernel that was made multiplies with, for whoever compares times.
class Said {
 public:
  void operator()(std::string words) {
    const std::lock_guard<std::mutex> lock(mutex_);
    words_ = std::move(words);
  }
  const char* last() {
    static thread_local std::string copy;
    const std::lock_guard<std::mutex> lock(mutex_);
    copy = words_;
    return copy.c_str();
  }

 private:
  std::mutex mutex_;
  std::string words_;
} said;

template <bool Brain>
class SparseGemm24 : public Kernel {
 public:
  explicit SparseGemm24(const Info& info) : weight_(info.constant(1), info.constant(2)) {
    try {
      if (OnTensorCores::takes(weight_)) {
        tensor_cores_ = std::make_unique<OnTensorCores>(weight_, Brain ? lt::kBrain : lt::kHalf);
        said("cuSPARSELt " + std::to_string(tensor_cores_->version()));
      } else {
        said(lt::functions() == nullptr ? "a plain kernel: cuSPARSELt is not there, or too old"
                                        : "a plain kernel: a size is no multiple of 16");
      }
    } catch (const Error& error) {  // another GPU, or an older library: slower, but as right
      said(std::string("a plain kernel: ") + error.what());
    }
    if (tensor_cores_ == nullptr) {
      values_ = DeviceCopy(weight_.values);
      indices_ = DeviceCopy(weight_.indices);
    }
    weight_.values = {};
    weight_.indices = {};
  }

  void compute(Call& call) override {
    const Tensor x = call.input(0);
    const Shape shape = sparse24::shape_of(x, weight_);
    const int64_t rows = product(x.shape, 0, x.rank() - 1);
    const Tensor out = call.output(0, shape);
    if (out.count() == 0) return;
    if (tensor_cores_ != nullptr) {
      tensor_cores_->multiply(x.data, out.data, rows, call);
    } else {
      check_cuda(graphopt_cuda_sparse24(Brain, x.data, values_.template as<void>(), indices_.template as<uint8_t>(),
                                        out.data, rows, weight_.depth, weight_.columns, call.stream()),
                 "multiplying");
    }
  }

 private:
  Weight weight_;
  std::unique_ptr<OnTensorCores> tensor_cores_;
  DeviceCopy values_, indices_;
};

// The weight is read on the host when the kernel is made: onnxruntime need not copy it.
const Register of_half(describe(kCuda, kFloat16, make<SparseGemm24<false>>, kMemCpuInput));
const Register of_brain(describe(kCuda, kBfloat16, make<SparseGemm24<true>>, kMemCpuInput));

}  // namespace
}  // namespace graphopt

// What the SparseGemm24 that was made last multiplies with; nothing before one was.
extern "C" __attribute__((visibility("default"))) const char* graphopt_sparse24() { return graphopt::said.last(); }
