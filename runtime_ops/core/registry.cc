// Turns descriptions of operators into what onnxruntime asks for, and its errors into exceptions and back.

#include <algorithm>
#include <atomic>
#include <cstring>
#include <deque>
#include <exception>
#include <mutex>

#include "device.h"
#include "kernel.h"

// onnxruntime's threads are not built for ThreadSanitizer, which so does not see that a part starts after the call and
// ends before it returns. These say it; everything else about two threads is left for it to find.
#if defined(__SANITIZE_THREAD__)
extern "C" void __tsan_acquire(void* address);
extern "C" void __tsan_release(void* address);
#else
inline void __tsan_acquire(void*) {}
inline void __tsan_release(void*) {}
#endif

namespace graphopt {
namespace {

std::atomic<const OrtApi*> g_api{nullptr};  // the same each time, but sessions are made in several threads at once

struct Registered : OrtCustomOp {
  Operator op;
};

std::deque<Registered>& registered() {
  static std::deque<Registered> all;  // its elements never move: onnxruntime keeps pointers to them
  return all;
}

const Operator& of(const OrtCustomOp* op) { return static_cast<const Registered*>(op)->op; }

template <class F>
OrtStatus* guarded(F&& work) {
  try {
    work();
    return nullptr;
  } catch (const std::exception& error) {
    return api().CreateStatus(kOrtFail, error.what());
  }
}

OrtStatus* create_kernel(const OrtCustomOp* op, const OrtApi*, const OrtKernelInfo* info, void** kernel) {
  return guarded([&] {
    const Info about(info, std::strcmp(of(op).provider, kCuda) == 0);
    try {
      *kernel = of(op).create(about).release();
    } catch (const std::exception& error) {
      throw Error(std::string("graphopt.") + of(op).name + " '" + about.node() + "': " + error.what());
    }
  });
}

OrtStatus* compute_kernel(void* kernel, OrtKernelContext* context) {
  return guarded([&] {
    Call call(context);
    static_cast<Kernel*>(kernel)->compute(call);
  });
}

OrtStatus* infer_shapes(const OrtCustomOp* op, OrtShapeInferContext* context) {
  return guarded([&] {
    Inference inference(context);
    of(op).infer(inference);
  });
}

// onnxruntime hands these back to be freed, and does not say for which operator it asks.
size_t first_to_first(int** inputs, int** outputs) {
  *inputs = new int[1]{0};
  *outputs = new int[1]{0};
  return 1;
}

void free_pairs(int* inputs, int* outputs) {
  delete[] inputs;
  delete[] outputs;
}

void describe(Registered& r) {
  r.version = kOrtApiVersion;
  r.GetName = [](const OrtCustomOp* op) { return of(op).name; };
  r.GetExecutionProviderType = [](const OrtCustomOp* op) { return of(op).provider; };
  r.GetInputType = [](const OrtCustomOp* op, size_t i) { return of(op).inputs[i].type; };
  r.GetInputTypeCount = [](const OrtCustomOp* op) { return of(op).inputs.size(); };
  r.GetOutputType = [](const OrtCustomOp* op, size_t i) { return of(op).outputs[i].type; };
  r.GetOutputTypeCount = [](const OrtCustomOp* op) { return of(op).outputs.size(); };
  r.KernelDestroy = [](void* kernel) { delete static_cast<Kernel*>(kernel); };
  r.GetInputCharacteristic = [](const OrtCustomOp* op, size_t i) { return of(op).inputs[i].characteristic; };
  r.GetOutputCharacteristic = [](const OrtCustomOp* op, size_t i) { return of(op).outputs[i].characteristic; };
  r.GetInputMemoryType = [](const OrtCustomOp* op, size_t i) { return of(op).inputs[i].memory; };
  r.GetVariadicInputMinArity = [](const OrtCustomOp*) { return 1; };
  r.GetVariadicInputHomogeneity = [](const OrtCustomOp*) { return 1; };
  r.GetVariadicOutputMinArity = [](const OrtCustomOp*) { return 1; };
  r.GetVariadicOutputHomogeneity = [](const OrtCustomOp*) { return 1; };
  r.CreateKernelV2 = create_kernel;
  r.KernelComputeV2 = compute_kernel;
  r.InferOutputShapeFn = r.op.infer == nullptr ? nullptr : infer_shapes;
  r.GetStartVersion = [](const OrtCustomOp*) { return 1; };
  r.GetEndVersion = [](const OrtCustomOp*) { return INT32_MAX; };
  if (r.op.in_place && r.op.infer != nullptr) {
    r.GetMayInplace = first_to_first;
    r.ReleaseMayInplace = free_pairs;
  }
}

Tensor view(const OrtValue* value) {
  Tensor tensor;
  if (value == nullptr) return tensor;
  OrtTensorTypeAndShapeInfo* info = nullptr;
  check(api().GetTensorTypeAndShape(value, &info));
  size_t rank = 0;
  OrtStatus* status = api().GetTensorElementType(info, &tensor.type);
  if (status == nullptr) status = api().GetDimensionsCount(info, &rank);
  tensor.shape.resize(rank);
  if (status == nullptr) status = api().GetDimensions(info, tensor.shape.data(), rank);
  api().ReleaseTensorTypeAndShapeInfo(info);
  check(status);
  check(api().GetTensorMutableData(const_cast<OrtValue*>(value), &tensor.data));
  return tensor;
}

// Whether a status is a success; releases it otherwise.
bool succeeded(OrtStatus* status) {
  if (status != nullptr) api().ReleaseStatus(status);
  return status == nullptr;
}

}  // namespace

const OrtApi& api() { return *g_api.load(std::memory_order_acquire); }

void check(OrtStatus* status) {
  if (status == nullptr) return;
  std::string message = api().GetErrorMessage(status);
  api().ReleaseStatus(status);
  throw Error(message);
}

int64_t product(const Shape& shape, size_t first, size_t last) {
  int64_t count = 1;
  for (size_t i = first; i < last; ++i) count *= shape[i];
  return count;
}

int64_t product(const Shape& shape, size_t first) { return product(shape, first, shape.size()); }

size_t bytes_of(OrtElementType type) {
  switch (type) {
    case kUint8:
    case kInt8:
    case kBool:
      return 1;
    case kFloat16:
    case kBfloat16:
      return 2;
    case kFloat:
    case kInt32:
      return 4;
    case kInt64:
    case kDouble:
      return 8;
    default:
      throw Error("element type " + std::to_string(type) + " is not supported");
  }
}

// --- Info ------------------------------------------------------------------------------------------------------------

int64_t Info::integer(const char* name, int64_t otherwise) const {
  int64_t found = 0;
  return succeeded(api().KernelInfoGetAttribute_int64(info_, name, &found)) ? found : otherwise;
}

float Info::number(const char* name, float otherwise) const {
  float found = 0;
  return succeeded(api().KernelInfoGetAttribute_float(info_, name, &found)) ? found : otherwise;
}

std::string Info::text(const char* name, const std::string& otherwise) const {
  size_t size = 0;
  if (!succeeded(api().KernelInfoGetAttribute_string(info_, name, nullptr, &size)) || size == 0) return otherwise;
  std::string found(size, '\0');
  check(api().KernelInfoGetAttribute_string(info_, name, found.data(), &size));
  found.resize(size - 1);  // without the end mark
  return found;
}

std::vector<int64_t> Info::integers(const char* name) const {
  size_t size = 0;
  if (!succeeded(api().KernelInfoGetAttributeArray_int64(info_, name, nullptr, &size))) return {};
  std::vector<int64_t> found(size);
  if (size != 0) check(api().KernelInfoGetAttributeArray_int64(info_, name, found.data(), &size));
  return found;
}

Tensor Info::constant(size_t index) const {
  int constant = 0;
  const OrtValue* value = nullptr;
  if (!succeeded(api().KernelInfoGetConstantInput_tensor(info_, index, &constant, &value))) return {};
  Tensor found = constant != 0 ? view(value) : Tensor{};
#if defined(GRAPHOPT_CUDA)
  if (device_ && found.present() && found.count() != 0) {
    const auto known = brought_.find(index);
    if (known != brought_.end()) {
      found.data = known->second.data();
      return found;
    }
    int there = 0;
    check_cuda(graphopt_cuda_holds(found.data, &there), "an initializer");
    if (there != 0) {
      std::vector<char>& host = brought_[index];
      host.resize(static_cast<size_t>(found.count()) * bytes_of(found.type));
      check_cuda(graphopt_cuda_download(found.data, host.size(), host.data()), "an initializer");
      found.data = host.data();
    }
  }
#endif
  return found;
}

std::string Info::node() const {
  size_t size = 0;
  succeeded(api().KernelInfo_GetNodeName(info_, nullptr, &size));
  if (size == 0) return "";
  std::string found(size, '\0');
  check(api().KernelInfo_GetNodeName(info_, found.data(), &size));
  found.resize(size - 1);
  return found;
}

// --- Call ------------------------------------------------------------------------------------------------------------

size_t Call::inputs() const {
  size_t count = 0;
  check(api().KernelContext_GetInputCount(context_, &count));
  return count;
}

Tensor Call::input(size_t index) const {
  if (index >= inputs()) return {};
  const OrtValue* value = nullptr;
  check(api().KernelContext_GetInput(context_, index, &value));
  return view(value);
}

Tensor Call::output(size_t index, const Shape& shape) {
  OrtValue* value = nullptr;
  check(api().KernelContext_GetOutput(context_, index, shape.data(), shape.size(), &value));
  return view(value);
}

void Call::parallel(int64_t total, int64_t grain, const std::function<void(int64_t, int64_t)>& work) {
#if defined(__SANITIZE_THREAD__)
  grain = 1;  // so that the small shapes of the tests are shared out too
#endif
  constexpr int64_t kMost = 64;  // parts: enough for threads of unequal speed, few enough to cost nothing
  const int64_t parts = std::min(kMost, total / std::max<int64_t>(grain, 1));
  if (parts <= 1) {
    if (total > 0) work(0, total);
    return;
  }
  struct Shared {
    const std::function<void(int64_t, int64_t)>& work;
    int64_t total, parts;
    std::mutex mutex;
    std::exception_ptr error;
    char begun = 0, ended = 0;
  } shared{work, total, parts, {}, nullptr};
  const auto part = [](void* data, size_t index) {
    auto& s = *static_cast<Shared*>(data);
    __tsan_acquire(&s.begun);
    const auto i = static_cast<int64_t>(index);
    try {
      s.work(s.total * i / s.parts, s.total * (i + 1) / s.parts);
    } catch (...) {  // must not leave a thread of onnxruntime's
      const std::lock_guard<std::mutex> lock(s.mutex);
      s.error = std::current_exception();
    }
    __tsan_release(&s.ended);
  };
  __tsan_release(&shared.begun);
  check(api().KernelContext_ParallelFor(context_, part, static_cast<size_t>(parts), 0, &shared));
  __tsan_acquire(&shared.ended);
  if (shared.error) std::rethrow_exception(shared.error);
}

void* Call::stream() const {
  void* stream = nullptr;
  check(api().KernelContext_GetGPUComputeStream(context_, &stream));
  return stream;
}

// --- Inference -------------------------------------------------------------------------------------------------------

size_t Inference::inputs() const {
  size_t count = 0;
  check(api().ShapeInferContext_GetInputCount(context_, &count));
  return count;
}

TypeAndDims Inference::input(size_t index) const {
  TypeAndDims found;
  OrtTensorTypeAndShapeInfo* info = nullptr;  // the context's own
  if (index >= inputs() || !succeeded(api().ShapeInferContext_GetInputTypeShape(context_, index, &info)) || !info) {
    return found;
  }
  size_t rank = 0;
  check(api().GetTensorElementType(info, &found.type));
  check(api().GetDimensionsCount(info, &rank));
  std::vector<int64_t> sizes(rank);
  std::vector<const char*> symbols(rank);
  check(api().GetDimensions(info, sizes.data(), rank));
  check(api().GetSymbolicDimensions(info, symbols.data(), rank));
  for (size_t i = 0; i < rank; ++i) {
    Dim dim;
    dim.size = sizes[i];
    if (symbols[i] != nullptr) dim.symbol = symbols[i];
    found.dims.push_back(dim);
  }
  return found;
}

int64_t Inference::integer(const char* name, int64_t otherwise) const {
  const OrtOpAttr* attribute = nullptr;
  if (!succeeded(api().ShapeInferContext_GetAttribute(context_, name, &attribute)) || !attribute) return otherwise;
  int64_t found = 0;
  size_t size = 0;
  return succeeded(api().ReadOpAttr(attribute, kAttrInt, &found, sizeof found, &size)) ? found : otherwise;
}

std::vector<int64_t> Inference::integers(const char* name) const {
  const OrtOpAttr* attribute = nullptr;
  if (!succeeded(api().ShapeInferContext_GetAttribute(context_, name, &attribute)) || !attribute) return {};
  std::vector<int64_t> found(16);
  size_t size = 0;
  if (!succeeded(api().ReadOpAttr(attribute, kAttrInts, found.data(), found.size() * sizeof(int64_t), &size))) return {};
  found.resize(size / sizeof(int64_t));
  return found;
}

void Inference::output(size_t index, const TypeAndDims& found) {
  OrtTensorTypeAndShapeInfo* info = nullptr;
  check(api().CreateTensorTypeAndShapeInfo(&info));
  std::vector<int64_t> sizes;
  std::vector<const char*> symbols;
  for (const Dim& dim : found.dims) {
    sizes.push_back(dim.size);
    symbols.push_back(dim.size >= 0 ? "" : dim.symbol.c_str());
  }
  OrtStatus* status = api().SetTensorElementType(info, found.type);
  if (status == nullptr) status = api().SetDimensions(info, sizes.data(), sizes.size());
  if (status == nullptr) status = api().SetSymbolicDimensions(info, symbols.data(), symbols.size());
  if (status == nullptr) status = api().ShapeInferContext_SetOutputTypeShape(context_, index, info);
  api().ReleaseTensorTypeAndShapeInfo(info);
  check(status);
}

// --- registration ----------------------------------------------------------------------------------------------------

Register::Register(Operator op) {
  Registered& added = registered().emplace_back();
  added.op = std::move(op);
  describe(added);
}

}  // namespace graphopt

// For `graphopt ops`: a line a kernel, with its name, its provider and the types of its inputs.
extern "C" __attribute__((visibility("default"))) const char* graphopt_kernels() {
  static const std::string all = [] {
    const auto name = [](OrtElementType type) -> std::string {
      switch (type) {
        case kFloat: return "float32";
        case kUint8: return "uint8";
        case kInt8: return "int8";
        case kInt32: return "int32";
        case kInt64: return "int64";
        case kBool: return "bool";
        case kFloat16: return "float16";
        case kDouble: return "float64";
        case kBfloat16: return "bfloat16";
        default: return "type" + std::to_string(type);
      }
    };
    std::string text;
    for (const auto& one : graphopt::registered()) {
      text += std::string(one.op.name) + (one.op.provider == std::string(graphopt::kCuda) ? " cuda " : " cpu ");
      for (size_t i = 0; i < one.op.inputs.size(); ++i) text += (i ? "," : "") + name(one.op.inputs[i].type);
      text += "\n";
    }
    return text;
  }();
  return all.c_str();
}

// The entry point that onnxruntime looks for. The domain lives as long as the process: sessions refer to it.
extern "C" __attribute__((visibility("default"))) OrtStatus* RegisterCustomOps(OrtSessionOptions* options,
                                                                             const OrtApiBase* base) {
  const OrtApi* table = base->GetApi(kOrtApiVersion);
  if (table == nullptr) return nullptr;  // before 1.18; Python says so
  graphopt::g_api.store(table, std::memory_order_release);
  static OrtCustomOpDomain* domain = nullptr;
  static std::mutex mutex;
  const std::lock_guard<std::mutex> lock(mutex);
  if (domain == nullptr) {
    OrtCustomOpDomain* made = nullptr;
    if (OrtStatus* status = table->CreateCustomOpDomain("graphopt", &made)) return status;
    for (const auto& op : graphopt::registered()) {
      if (OrtStatus* status = table->CustomOpDomain_Add(made, &op)) {
        table->ReleaseCustomOpDomain(made);
        return status;
      }
    }
    domain = made;
  }
  return table->AddCustomOpDomain(options, domain);
}
