// Makes every kernel of the CUDA provider as onnxruntime does, without onnxruntime and without a GPU: initializers that
// were not asked for in the memory of the CPU lie where the host can neither read nor write, as those on a device do.

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <string>
#include <sys/mman.h>
#include <vector>

#include "int8_cuda.h"
#include "kernel.h"

// --- a device --------------------------------------------------------------------------------------------------------

namespace {
struct Region {
  size_t room;
  bool device;
};
std::map<const char*, Region> regions;

char* protect(const std::vector<char>& bytes) {
  const size_t room = (bytes.size() / 4096 + 1) * 4096;
  auto* memory = static_cast<char*>(mmap(nullptr, room, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  std::memcpy(memory, bytes.data(), bytes.size());
  mprotect(memory, room, PROT_NONE);
  regions[memory] = {room, true};
  return memory;
}
}  // namespace

extern "C" {
int graphopt_cuda_upload(const void* from, size_t bytes, void** to) {
  const auto* first = static_cast<const char*>(from);
  *to = protect(std::vector<char>(first, first + bytes));
  return 0;
}
int graphopt_cuda_free(void*) { return 0; }
int graphopt_cuda_holds(const void* address, int* there) {
  *there = regions.count(static_cast<const char*>(address)) != 0;
  return 0;
}
int graphopt_cuda_download(const void* from, size_t bytes, void* to) {
  auto* memory = const_cast<char*>(static_cast<const char*>(from));
  const size_t room = regions.at(memory).room;
  mprotect(memory, room, PROT_READ);
  std::memcpy(to, memory, bytes);
  mprotect(memory, room, PROT_NONE);
  return 0;
}
const char* graphopt_cuda_message(int) { return "none"; }
int graphopt_cuda_device(int* device) { return *device = 0; }
int graphopt_cuda_int8_has_wide() { return 0; }
int graphopt_cuda_int8_processors(int* processors, int* capability) {
  *processors = *capability = 80;
  return 0;
}
}

// --- an onnxruntime --------------------------------------------------------------------------------------------------

struct OrtStatus {
  std::string message;
};

namespace {

struct Value {
  OrtElementType type;
  std::vector<int64_t> shape;
  std::vector<char> bytes;
  char* data = nullptr;
};

template <class T>
Value value(OrtElementType type, std::vector<int64_t> shape, std::vector<T> numbers) {
  Value made{type, std::move(shape), std::vector<char>(numbers.size() * sizeof(T)), nullptr};
  std::memcpy(made.bytes.data(), numbers.data(), made.bytes.size());
  return made;
}

std::vector<const OrtCustomOp*> operators;
std::map<size_t, Value> constants;
std::map<std::string, int64_t> attributes;

const Value* of(const void* it) { return static_cast<const Value*>(it); }
OrtStatus* missing() { return new OrtStatus{"not there"}; }

OrtApi table() {
  OrtApi api{};
  api.CreateStatus = [](OrtErrorCode, const char* message) { return new OrtStatus{message}; };
  api.ReleaseStatus = [](OrtStatus* status) { delete status; };
  api.CreateCustomOpDomain = [](const char*, OrtCustomOpDomain**) -> OrtStatus* { return nullptr; };
  api.AddCustomOpDomain = [](OrtSessionOptions*, OrtCustomOpDomain*) -> OrtStatus* { return nullptr; };
  api.CustomOpDomain_Add = [](OrtCustomOpDomain*, const OrtCustomOp* op) -> OrtStatus* {
    operators.push_back(op);
    return nullptr;
  };
  api.KernelInfoGetAttribute_int64 = [](const OrtKernelInfo*, const char* name, int64_t* out) -> OrtStatus* {
    const auto found = attributes.find(name);
    if (found == attributes.end()) return missing();
    *out = found->second;
    return nullptr;
  };
  api.KernelInfoGetAttribute_float = [](const OrtKernelInfo*, const char*, float*) { return missing(); };
  api.KernelInfoGetAttribute_string = [](const OrtKernelInfo*, const char*, char*, size_t*) { return missing(); };
  api.KernelInfoGetAttributeArray_int64 = [](const OrtKernelInfo*, const char*, int64_t*, size_t*) { return missing(); };
  api.KernelInfo_GetNodeName = [](const OrtKernelInfo*, char*, size_t*) { return missing(); };
  api.KernelInfoGetConstantInput_tensor = [](const OrtKernelInfo*, size_t index, int* constant,
                                             const OrtValue** out) -> OrtStatus* {
    const auto found = constants.find(index);
    *constant = found != constants.end();
    if (*constant) *out = reinterpret_cast<const OrtValue*>(&found->second);
    return nullptr;
  };
  api.GetTensorTypeAndShape = [](const OrtValue* it, OrtTensorTypeAndShapeInfo** out) -> OrtStatus* {
    *out = reinterpret_cast<OrtTensorTypeAndShapeInfo*>(const_cast<OrtValue*>(it));
    return nullptr;
  };
  api.GetTensorElementType = [](const OrtTensorTypeAndShapeInfo* it, OrtElementType* out) -> OrtStatus* {
    *out = of(it)->type;
    return nullptr;
  };
  api.GetDimensionsCount = [](const OrtTensorTypeAndShapeInfo* it, size_t* out) -> OrtStatus* {
    *out = of(it)->shape.size();
    return nullptr;
  };
  api.GetDimensions = [](const OrtTensorTypeAndShapeInfo* it, int64_t* out, size_t rank) -> OrtStatus* {
    std::copy_n(of(it)->shape.begin(), rank, out);
    return nullptr;
  };
  api.ReleaseTensorTypeAndShapeInfo = [](OrtTensorTypeAndShapeInfo*) {};
  api.GetTensorMutableData = [](OrtValue* it, void** out) -> OrtStatus* {
    *out = of(it)->data;
    return nullptr;
  };
  return api;
}

const OrtApi& the_table() {
  static const OrtApi api = table();
  return api;
}

// What an operator is given; `type` is that of its first input.
bool prepare(const std::string& name, OrtElementType type, size_t width) {
  constants.clear();
  attributes.clear();
  const auto plain = [&](std::vector<int64_t> shape, size_t count) {
    return Value{type, std::move(shape), std::vector<char>(count * width), nullptr};
  };
  if (name == "Gather") {
    constants[1] = value<int64_t>(kInt64, {2}, {1, -1});
  } else if (name == "Scatter") {
    constants[1] = value<int64_t>(kInt64, {2}, {2, 0});
    constants[2] = plain({3}, 3);
  } else if (name == "ScatterAdd") {
    constants[1] = value<int64_t>(kInt64, {2}, {2, 0});
    constants[3] = plain({3}, 3);
  } else if (name == "GatherGemmScatter") {
    constants[2] = constants[3] = value<int64_t>(kInt64, {1, 2}, {1, 0});
    constants[4] = plain({1, 2, 2}, 4);
  } else if (name.rfind("BinaryGemm", 0) == 0) {
    attributes["k"] = 8;
    constants[1] = value<uint8_t>(kUint8, {2, 1}, {7, 1});
  } else if (name.rfind("BinaryConv", 0) == 0) {
    attributes["channels"] = 8;
    constants[1] = value<uint8_t>(kUint8, {2, 1, 1, 1}, {7, 1});
  } else if (name.rfind("Int8", 0) == 0) {
    const bool window = name.rfind("Int8Conv", 0) == 0;
    constants[1] = value<int8_t>(kInt8, window ? std::vector<int64_t>{2, 2, 1, 1} : std::vector<int64_t>{2, 2}, {1, 2, 3, 4});
    constants[2] = value<float>(kFloat, {2}, {1, 1});
    constants[3] = value<int32_t>(kInt32, {2}, {0, 0});
  } else if (name == "SparseGemm24") {
    constants[1] = plain({2, 2}, 4);
    constants[2] = value<uint8_t>(kUint8, {2, 1}, {4, 4});
  } else if (name != "TernaryGemm" && name != "MaskedLayerNorm" && name != "Histogram") {
    return false;
  }
  return true;
}

}  // namespace

extern "C" OrtStatus* RegisterCustomOps(OrtSessionOptions* options, const OrtApiBase* base);

int main() {
  static const OrtApiBase base{[](uint32_t) { return &the_table(); }, [] { return "0"; }};
  if (RegisterCustomOps(nullptr, &base) != nullptr) return 1;
  int made = 0;
  for (const OrtCustomOp* op : operators) {
    if (std::strcmp(op->GetExecutionProviderType(op), graphopt::kCuda) != 0) continue;
    const OrtElementType type = op->GetInputType(op, 0);
    if (!prepare(op->GetName(op), type, graphopt::bytes_of(type))) {
      std::printf("%s is not known here\n", op->GetName(op));
      return 1;
    }
    std::printf("%s %d\n", op->GetName(op), type);
    std::fflush(stdout);
    for (auto& [index, one] : constants) {
      const bool host = op->GetInputMemoryType(op, index) == kMemCpuInput;
      one.data = host ? one.bytes.data() : protect(one.bytes);
    }
    void* kernel = nullptr;
    if (OrtStatus* status = op->CreateKernelV2(op, &the_table(), nullptr, &kernel)) {
      std::printf("%s\n", status->message.c_str());
      return 1;
    }
    op->KernelDestroy(kernel);
    ++made;
  }
  std::printf("made %d\n", made);
}
