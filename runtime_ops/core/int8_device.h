// What Int8Conv and Int8Gemm do on the host before they start a kernel of int8_product.cu.

#pragma once

#include <algorithm>
#include <cstdlib>
#include <limits>
#include <vector>

#include "device.h"
#include "int8_cuda.h"
#include "int8_product.h"

// Of the device that onnxruntime has set: its multiprocessors, and its compute capability times ten.
extern "C" int graphopt_cuda_int8_processors(int* processors, int* capability);

namespace graphopt::int8 {

inline int64_t padded(int64_t size, int64_t to) { return (size + to - 1) / to * to; }

// A size for a kernel that counts in 32 bits, up to the end of the last tile.
inline int narrow(int64_t size, const char* what) {
  if (size > std::numeric_limits<int>::max() - 1024) throw Error(std::string(what) + " are too many for the CUDA kernel");
  return static_cast<int>(size);
}

inline Tensor constant(const Info& info, size_t index, const char* name) {
  const Tensor found = info.constant(index);
  if (!found.present()) throw Error(std::string(name) + " must be an initializer for the CUDA kernel");
  return found;
}

// Weights, scales and biases as the kernels read them.
class DeviceWeights {
 public:
  // `value(n, k, tap)` is the weight of filter n. The order is [filter][tap][channel], channels in whole pieces of 16 and
  // rows in whole steps of 128; or [tap][channel][filter] for the kernel of small groups.
  template <class F>
  DeviceWeights(const Info& info, int64_t groups, int64_t filters, int64_t channels, int64_t taps, bool direct, int64_t x_zero_point,
                F value)
      : wide(direct ? channels : padded(std::max<int64_t>(channels, 1), kChunk)),
        depth(direct ? 0 : padded(taps * wide, kStep)) {
    std::vector<int8_t> packed(direct ? taps * channels * filters : filters * depth, 0);
    std::vector<int32_t> sums(filters, 0);
    for (int64_t n = 0; n < filters; ++n) {
      for (int64_t t = 0; t < taps; ++t) {
        for (int64_t k = 0; k < channels; ++k) {
          const int8_t w = value(n, k, t);
          packed[direct ? (t * channels + k) * filters + n : n * depth + t * wide + k] = w;
          sums[n] += w;
        }
      }
    }
    const Tensor scales = constant(info, 2, "scale"), biases = constant(info, 3, "bias");
    require(scales.rank() == 1 && (scales.count() == filters || scales.count() == 1),
            "scale must have one axis, with a number for every output channel or one for all");
    require(biases.rank() == 1 && biases.count() == filters,
            "bias must have one axis, with a number for every output channel");
    std::vector<float> scale(filters);
    std::vector<int32_t> bias(filters);
    for (int64_t n = 0; n < filters; ++n) {
      scale[n] = scales.as<float>()[scales.count() == 1 ? 0 : n];
      const auto offset = static_cast<uint32_t>(sums[n]) * static_cast<uint32_t>(x_zero_point);
      bias[n] = static_cast<int32_t>(static_cast<uint32_t>(biases.as<int32_t>()[n]) - offset);
    }
    scale_ = DeviceCopy(scale);
    bias_ = DeviceCopy(bias);
    check_cuda(graphopt_cuda_int8_processors(&processors_, &capability_), "the device");
    if (const char* wanted = std::getenv("GRAPHOPT_INT8_TILE")) tile_ = std::atoi(wanted);
    w_ = DeviceCopy(packed);
    if (tile_ == kPair128x256 && !direct && wide_code()) {
      tiles_ = DeviceCopy(pair_weights(packed.data(), groups, filters / groups, depth));
    }
  }

  // What does not change from call to call.
  Product product(const Requantize& how) const {
    Product p;
    p.w = w_.as<int8_t>();
    p.w_tiles = tiles_.as<int8_t>();
    p.scale = scale_.as<float>();
    p.bias = bias_.as<int32_t>();
    p.depth = static_cast<int>(depth);
    p.channels = static_cast<int>(wide);
    p.zero = static_cast<uint32_t>(static_cast<uint8_t>(how.x_zero_point)) * 0x01010101u;
    p.low = static_cast<float>(how.low - how.y_zero_point);
    p.high = static_cast<float>(how.high - how.y_zero_point);
    p.y_zero_point = static_cast<int>(how.y_zero_point);
    p.residual_zero_point = static_cast<int>(how.residual_zero_point);
    p.residual_scale = how.residual_scale;
    return p;
  }

  void multiply(const Product& p, Call& call) const {
    const bool given = tile_ >= 0 && tile_ < (wide_code() ? kTiles : kWide128x64);
    const int tile = given ? tile_ : choose_tile(p.rows, p.columns, p.groups, processors_, wide_code());
    check_cuda(tile == kPair128x256 ? graphopt_cuda_int8_pair(&p, call.stream())
                                    : graphopt_cuda_int8_product(&p, tile, call.stream()),
               "the product");
  }

  const int64_t wide, depth;

 private:
  // Whether the device is the one that wgmma was compiled for.
  bool wide_code() const { return capability_ == 90 && graphopt_cuda_int8_has_wide() != 0; }

  DeviceCopy w_, tiles_, scale_, bias_;
  int processors_ = 1, capability_ = 0;
  int tile_ = -1;  // GRAPHOPT_INT8_TILE: a TileShape for every product, to compare them
};

inline bool aligned(const void* pointer) { return reinterpret_cast<uintptr_t>(pointer) % kChunk == 0; }

}  // namespace graphopt::int8
