// What an operator is made of: a description, a kernel, and a rule for shapes. `registry.cc` turns it into what
// onnxruntime asks for. Everything here throws `Error`; nothing of it reaches onnxruntime but a status.

#pragma once

#include <functional>
#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "ort_abi.h"

namespace graphopt {

using Shape = std::vector<int64_t>;

struct Error : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// onnxruntime's functions; null until the library has been registered.
const OrtApi& api();

// Throws what a status says, and releases it.
void check(OrtStatus* status);

// Throws with the message unless the condition holds.
inline void require(bool condition, const char* message) {
  if (!condition) throw Error(message);
}

int64_t product(const Shape& shape, size_t first = 0);
int64_t product(const Shape& shape, size_t first, size_t last);
size_t bytes_of(OrtElementType type);

// A tensor that onnxruntime owns: valid during the call that handed it out. `data` lies on the device of the kernel,
// but for inputs that the operator asked to have on the CPU.
struct Tensor {
  void* data = nullptr;
  OrtElementType type = kUndefined;
  Shape shape;

  bool present() const { return type != kUndefined; }
  int64_t count() const { return product(shape); }
  size_t rank() const { return shape.size(); }

  template <class T>
  const T* as() const {
    return static_cast<const T*>(data);
  }
  template <class T>
  T* to() const {
    return static_cast<T*>(data);
  }
};

// A node's attributes and constant inputs, when its kernel is made.
class Info {
 public:
  // `device`: for a kernel of the CUDA provider, whose initializers onnxruntime has brought to the device before.
  explicit Info(const OrtKernelInfo* info, bool device = false) : info_(info), device_(device) {}

  int64_t integer(const char* name, int64_t otherwise) const;
  float number(const char* name, float otherwise) const;
  std::string text(const char* name, const std::string& otherwise) const;
  std::vector<int64_t> integers(const char* name) const;

  // An input that is an initializer, in the memory of the CPU whatever the provider; not present if it is computed or
  // absent. It may be gone after the kernel has been made: copy what is needed.
  Tensor constant(size_t index) const;
  std::string node() const;

 private:
  const OrtKernelInfo* info_;
  bool device_;
  mutable std::map<size_t, std::vector<char>> brought_;  // initializers that lay on the device
};

// One run of a kernel.
class Call {
 public:
  explicit Call(OrtKernelContext* context) : context_(context) {}

  size_t inputs() const;
  Tensor input(size_t index) const;  // not present where an optional input is absent
  Tensor output(size_t index, const Shape& shape);

  // Runs `work(first, last)` over parts of [0, total) on onnxruntime's own threads; a part has `grain` steps or more.
  void parallel(int64_t total, int64_t grain, const std::function<void(int64_t first, int64_t last)>& work);

  // The CUDA stream (a `cudaStream_t`).
  void* stream() const;

  OrtKernelContext* context() const { return context_; }  // for Scratch

 private:
  OrtKernelContext* context_;
};

// Memory of the device for the length of a call, from onnxruntime's arena: no allocation once the arena has grown.
class Scratch {
 public:
  Scratch(OrtKernelContext* context, size_t bytes);
  ~Scratch();
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  void* data() const { return data_; }

 private:
  OrtAllocator* allocator_ = nullptr;
  void* data_ = nullptr;
};

struct Kernel {
  virtual ~Kernel() = default;
  virtual void compute(Call& call) = 0;
};

// A size: known, or a symbol, or neither.
struct Dim {
  int64_t size = -1;
  std::string symbol;

  Dim() = default;
  Dim(int64_t known) : size(known) {}  // NOLINT: a number is a size
};

struct TypeAndDims {
  OrtElementType type = kUndefined;
  std::vector<Dim> dims;
};

// Types and shapes, when a model is loaded.
class Inference {
 public:
  explicit Inference(OrtShapeInferContext* context) : context_(context) {}

  size_t inputs() const;
  TypeAndDims input(size_t index) const;
  int64_t integer(const char* name, int64_t otherwise) const;
  std::vector<int64_t> integers(const char* name) const;
  void output(size_t index, const TypeAndDims& found);

 private:
  OrtShapeInferContext* context_;
};

struct Port {
  OrtElementType type;
  OrtCharacteristic characteristic = kRequired;
  OrtMemType memory = kMemDefault;
};

// What makes a node's kernel.
using Maker = std::unique_ptr<Kernel> (*)(const Info& info);

struct Operator {
  const char* name;
  const char* provider;  // "CPUExecutionProvider" or "CUDAExecutionProvider"
  std::vector<Port> inputs;
  std::vector<Port> outputs;
  Maker create;
  void (*infer)(Inference& inference) = nullptr;
  // Whether output 0 may be written where input 0 lies. onnxruntime decides; the kernel copies if the pointers differ.
  bool in_place = false;
};

constexpr const char* kCpu = "CPUExecutionProvider";
constexpr const char* kCuda = "CUDAExecutionProvider";

template <class K>
std::unique_ptr<Kernel> make(const Info& info) {
  return std::make_unique<K>(info);
}

// `static const Register gather({...});` in an operator's folder is all it takes. Operators that differ in types only
// share a name.
struct Register {
  explicit Register(Operator op);
};

}  // namespace graphopt
