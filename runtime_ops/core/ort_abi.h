// The part of onnxruntime's C interface that the operators use, written down by hand.
//
// onnxruntime's Python wheels bring no headers, and a library that is compiled against one version should run with the
// others. Its table of functions (`OrtApi`) only ever grows at the end, so a struct that names the slots in use and
// leaves gaps between them fits every version from 1.18 on. `tests/runtime_ops/test_abi.py` compares every offset with
// official headers where they are at hand; the assertions below pin what this file itself says.
//
// Source: the reference of the C interface, https://onnxruntime.ai/docs/api/c/struct_ort_api.html and
// https://onnxruntime.ai/docs/api/c/struct_ort_custom_op.html

#pragma once

#include <cstddef>
#include <cstdint>

extern "C" {

constexpr uint32_t kOrtApiVersion = 18;

struct OrtStatus;
struct OrtSessionOptions;
struct OrtCustomOpDomain;
struct OrtValue;
struct OrtTensorTypeAndShapeInfo;
struct OrtMemoryInfo;
struct OrtAllocator;
struct OrtKernelInfo;
struct OrtKernelContext;
struct OrtShapeInferContext;
struct OrtOpAttr;
struct OrtLogger;
struct OrtCustomOp;

enum OrtErrorCode : int32_t { kOrtOk = 0, kOrtFail = 1, kOrtInvalidArgument = 2, kOrtRuntimeException = 6 };

enum OrtElementType : int32_t {
  kUndefined = 0,
  kFloat = 1,
  kUint8 = 2,
  kInt8 = 3,
  kInt32 = 6,
  kInt64 = 7,
  kBool = 9,
  kFloat16 = 10,
  kDouble = 11,
  kBfloat16 = 16,
};

enum OrtCharacteristic : int32_t { kRequired = 0, kOptional = 1, kVariadic = 2 };
enum OrtMemType : int32_t { kMemCpuInput = -2, kMemCpuOutput = -1, kMemDefault = 0 };
enum OrtOpAttrType : int32_t { kAttrInt = 1, kAttrInts = 2, kAttrFloat = 3, kAttrFloats = 4, kAttrString = 5 };
enum OrtAllocatorType : int32_t { kDeviceAllocator = 0, kArenaAllocator = 1 };

// A slot that is not used: as wide as a pointer.
using OrtSlot = void*;

struct OrtApi {
  OrtStatus* (*CreateStatus)(OrtErrorCode code, const char* message);  // 0
  OrtErrorCode (*GetErrorCode)(const OrtStatus* status);
  const char* (*GetErrorMessage)(const OrtStatus* status);
  OrtSlot gap3[23];
  OrtStatus* (*CreateCustomOpDomain)(const char* domain, OrtCustomOpDomain** out);  // 26
  OrtStatus* (*CustomOpDomain_Add)(OrtCustomOpDomain* domain, const OrtCustomOp* op);
  OrtStatus* (*AddCustomOpDomain)(OrtSessionOptions* options, OrtCustomOpDomain* domain);
  OrtSlot gap29[20];
  OrtStatus* (*CreateTensorWithDataAsOrtValue)(const OrtMemoryInfo* info, void* data, size_t bytes, const int64_t* shape,
                                               size_t rank, OrtElementType type, OrtValue** out);  // 49
  OrtSlot gap50;
  OrtStatus* (*GetTensorMutableData)(OrtValue* value, void** out);  // 51
  OrtSlot gap52[5];
  OrtStatus* (*CreateTensorTypeAndShapeInfo)(OrtTensorTypeAndShapeInfo** out);  // 57
  OrtStatus* (*SetTensorElementType)(OrtTensorTypeAndShapeInfo* info, OrtElementType type);
  OrtStatus* (*SetDimensions)(OrtTensorTypeAndShapeInfo* info, const int64_t* dims, size_t rank);
  OrtStatus* (*GetTensorElementType)(const OrtTensorTypeAndShapeInfo* info, OrtElementType* out);  // 60
  OrtStatus* (*GetDimensionsCount)(const OrtTensorTypeAndShapeInfo* info, size_t* out);
  OrtStatus* (*GetDimensions)(const OrtTensorTypeAndShapeInfo* info, int64_t* dims, size_t rank);
  OrtStatus* (*GetSymbolicDimensions)(const OrtTensorTypeAndShapeInfo* info, const char** names, size_t rank);
  OrtStatus* (*GetTensorShapeElementCount)(const OrtTensorTypeAndShapeInfo* info, size_t* out);
  OrtStatus* (*GetTensorTypeAndShape)(const OrtValue* value, OrtTensorTypeAndShapeInfo** out);  // 65
  OrtSlot gap66[2];
  OrtStatus* (*CreateMemoryInfo)(const char* name, OrtAllocatorType type, int id, OrtMemType mem_type,
                                 OrtMemoryInfo** out);  // 68
  OrtStatus* (*CreateCpuMemoryInfo)(OrtAllocatorType type, OrtMemType mem_type, OrtMemoryInfo** out);
  OrtSlot gap70[5];
  OrtStatus* (*AllocatorAlloc)(OrtAllocator* allocator, size_t bytes, void** out);  // 75
  OrtStatus* (*AllocatorFree)(OrtAllocator* allocator, void* memory);
  OrtSlot gap77;
  OrtStatus* (*GetAllocatorWithDefaultOptions)(OrtAllocator** out);  // 78
  OrtSlot gap79[6];
  OrtStatus* (*KernelInfoGetAttribute_float)(const OrtKernelInfo* info, const char* name, float* out);  // 85
  OrtStatus* (*KernelInfoGetAttribute_int64)(const OrtKernelInfo* info, const char* name, int64_t* out);
  OrtStatus* (*KernelInfoGetAttribute_string)(const OrtKernelInfo* info, const char* name, char* out, size_t* size);
  OrtStatus* (*KernelContext_GetInputCount)(const OrtKernelContext* context, size_t* out);  // 88
  OrtStatus* (*KernelContext_GetOutputCount)(const OrtKernelContext* context, size_t* out);
  OrtStatus* (*KernelContext_GetInput)(const OrtKernelContext* context, size_t index, const OrtValue** out);
  OrtStatus* (*KernelContext_GetOutput)(OrtKernelContext* context, size_t index, const int64_t* dims, size_t rank,
                                        OrtValue** out);
  OrtSlot gap92;
  void (*ReleaseStatus)(OrtStatus* status);  // 93
  void (*ReleaseMemoryInfo)(OrtMemoryInfo* info);
  OrtSlot gap95;
  void (*ReleaseValue)(OrtValue* value);  // 96
  OrtSlot gap97[2];
  void (*ReleaseTensorTypeAndShapeInfo)(OrtTensorTypeAndShapeInfo* info);  // 99
  OrtSlot gap100;
  void (*ReleaseCustomOpDomain)(OrtCustomOpDomain* domain);  // 101
  OrtSlot gap102[30];
  void (*ReleaseAllocator)(OrtAllocator* allocator);  // 132
  OrtSlot gap133[29];
  OrtStatus* (*KernelInfoGetAttributeArray_float)(const OrtKernelInfo* info, const char* name, float* out,
                                                  size_t* size);  // 162
  OrtStatus* (*KernelInfoGetAttributeArray_int64)(const OrtKernelInfo* info, const char* name, int64_t* out,
                                                  size_t* size);
  OrtSlot gap164[29];
  OrtStatus* (*KernelContext_GetGPUComputeStream)(const OrtKernelContext* context, void** out);  // 193
  OrtSlot gap194[36];
  OrtStatus* (*KernelInfo_GetInputCount)(const OrtKernelInfo* info, size_t* out);  // 230
  OrtSlot gap231[5];
  OrtStatus* (*KernelInfoGetAttribute_tensor)(const OrtKernelInfo* info, const char* name, OrtAllocator* allocator,
                                              OrtValue** out);  // 236
  OrtSlot gap237[7];
  OrtStatus* (*KernelInfo_GetNodeName)(const OrtKernelInfo* info, char* out, size_t* size);  // 244
  OrtSlot gap245;
  OrtStatus* (*KernelContext_GetLogger)(const OrtKernelContext* context, const OrtLogger** out);  // 246
  OrtSlot gap247[2];
  OrtStatus* (*KernelInfoGetConstantInput_tensor)(const OrtKernelInfo* info, size_t index, int* constant,
                                                  const OrtValue** out);  // 249
  OrtSlot gap250[3];
  OrtStatus* (*KernelContext_GetAllocator)(const OrtKernelContext* context, const OrtMemoryInfo* info,
                                           OrtAllocator** out);  // 253
  OrtSlot gap254[11];
  OrtStatus* (*KernelContext_GetResource)(const OrtKernelContext* context, int version, int id, void** out);  // 265
  OrtSlot gap266;
  OrtStatus* (*ShapeInferContext_GetInputCount)(const OrtShapeInferContext* context, size_t* out);  // 267
  OrtStatus* (*ShapeInferContext_GetInputTypeShape)(const OrtShapeInferContext* context, size_t index,
                                                    OrtTensorTypeAndShapeInfo** out);
  OrtStatus* (*ShapeInferContext_GetAttribute)(const OrtShapeInferContext* context, const char* name,
                                               const OrtOpAttr** out);
  OrtStatus* (*ShapeInferContext_SetOutputTypeShape)(const OrtShapeInferContext* context, size_t index,
                                                     const OrtTensorTypeAndShapeInfo* info);  // 270
  OrtStatus* (*SetSymbolicDimensions)(OrtTensorTypeAndShapeInfo* info, const char** names, size_t rank);
  OrtStatus* (*ReadOpAttr)(const OrtOpAttr* attribute, OrtOpAttrType type, void* data, size_t bytes, size_t* out);
  OrtSlot gap273;
  OrtStatus* (*KernelContext_ParallelFor)(const OrtKernelContext* context, void (*work)(void* data, size_t index),
                                          size_t total, size_t batches, void* data);  // 274
  OrtSlot gap275[3];
  OrtStatus* (*KernelInfoGetAllocator)(const OrtKernelInfo* info, OrtMemType mem_type, OrtAllocator** out);  // 278
};

struct OrtApiBase {
  const OrtApi* (*GetApi)(uint32_t version);
  const char* (*GetVersionString)();
};

struct OrtCustomOp {
  uint32_t version;
  void* (*CreateKernel)(const OrtCustomOp* op, const OrtApi* api, const OrtKernelInfo* info);
  const char* (*GetName)(const OrtCustomOp* op);
  const char* (*GetExecutionProviderType)(const OrtCustomOp* op);
  OrtElementType (*GetInputType)(const OrtCustomOp* op, size_t index);
  size_t (*GetInputTypeCount)(const OrtCustomOp* op);
  OrtElementType (*GetOutputType)(const OrtCustomOp* op, size_t index);
  size_t (*GetOutputTypeCount)(const OrtCustomOp* op);
  void (*KernelCompute)(void* kernel, OrtKernelContext* context);
  void (*KernelDestroy)(void* kernel);
  OrtCharacteristic (*GetInputCharacteristic)(const OrtCustomOp* op, size_t index);
  OrtCharacteristic (*GetOutputCharacteristic)(const OrtCustomOp* op, size_t index);
  OrtMemType (*GetInputMemoryType)(const OrtCustomOp* op, size_t index);
  int (*GetVariadicInputMinArity)(const OrtCustomOp* op);
  int (*GetVariadicInputHomogeneity)(const OrtCustomOp* op);
  int (*GetVariadicOutputMinArity)(const OrtCustomOp* op);
  int (*GetVariadicOutputHomogeneity)(const OrtCustomOp* op);
  OrtStatus* (*CreateKernelV2)(const OrtCustomOp* op, const OrtApi* api, const OrtKernelInfo* info, void** kernel);
  OrtStatus* (*KernelComputeV2)(void* kernel, OrtKernelContext* context);
  OrtStatus* (*InferOutputShapeFn)(const OrtCustomOp* op, OrtShapeInferContext* context);
  int (*GetStartVersion)(const OrtCustomOp* op);
  int (*GetEndVersion)(const OrtCustomOp* op);
  size_t (*GetMayInplace)(int** inputs, int** outputs);
  void (*ReleaseMayInplace)(int* inputs, int* outputs);
  size_t (*GetAliasMap)(int** inputs, int** outputs);
  void (*ReleaseAliasMap)(int* inputs, int* outputs);
};

}  // extern "C"

#define GRAPHOPT_SLOT(name, index) \
  static_assert(offsetof(OrtApi, name) == (index) * sizeof(void*), "OrtApi::" #name " has moved")

GRAPHOPT_SLOT(CreateStatus, 0);
GRAPHOPT_SLOT(CreateCustomOpDomain, 26);
GRAPHOPT_SLOT(CreateTensorWithDataAsOrtValue, 49);
GRAPHOPT_SLOT(GetTensorMutableData, 51);
GRAPHOPT_SLOT(CreateTensorTypeAndShapeInfo, 57);
GRAPHOPT_SLOT(GetTensorElementType, 60);
GRAPHOPT_SLOT(GetTensorTypeAndShape, 65);
GRAPHOPT_SLOT(CreateMemoryInfo, 68);
GRAPHOPT_SLOT(AllocatorAlloc, 75);
GRAPHOPT_SLOT(GetAllocatorWithDefaultOptions, 78);
GRAPHOPT_SLOT(KernelInfoGetAttribute_float, 85);
GRAPHOPT_SLOT(KernelContext_GetInputCount, 88);
GRAPHOPT_SLOT(ReleaseStatus, 93);
GRAPHOPT_SLOT(ReleaseValue, 96);
GRAPHOPT_SLOT(ReleaseTensorTypeAndShapeInfo, 99);
GRAPHOPT_SLOT(ReleaseCustomOpDomain, 101);
GRAPHOPT_SLOT(ReleaseAllocator, 132);
GRAPHOPT_SLOT(KernelInfoGetAttributeArray_float, 162);
GRAPHOPT_SLOT(KernelContext_GetGPUComputeStream, 193);
GRAPHOPT_SLOT(KernelInfo_GetInputCount, 230);
GRAPHOPT_SLOT(KernelInfoGetAttribute_tensor, 236);
GRAPHOPT_SLOT(KernelInfo_GetNodeName, 244);
GRAPHOPT_SLOT(KernelContext_GetLogger, 246);
GRAPHOPT_SLOT(KernelInfoGetConstantInput_tensor, 249);
GRAPHOPT_SLOT(KernelContext_GetAllocator, 253);
GRAPHOPT_SLOT(KernelContext_GetResource, 265);
GRAPHOPT_SLOT(ShapeInferContext_GetInputCount, 267);
GRAPHOPT_SLOT(ShapeInferContext_SetOutputTypeShape, 270);
GRAPHOPT_SLOT(ReadOpAttr, 272);
GRAPHOPT_SLOT(KernelContext_ParallelFor, 274);
GRAPHOPT_SLOT(KernelInfoGetAllocator, 278);

#undef GRAPHOPT_SLOT

static_assert(offsetof(OrtCustomOp, KernelDestroy) == 9 * sizeof(void*), "OrtCustomOp has changed");
static_assert(offsetof(OrtCustomOp, InferOutputShapeFn) == 19 * sizeof(void*), "OrtCustomOp has changed");
static_assert(sizeof(OrtCustomOp) == 26 * sizeof(void*), "OrtCustomOp has changed");
