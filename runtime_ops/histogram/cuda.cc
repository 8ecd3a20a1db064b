// Running statistics of a tensor in the CUDA provider. A kernel counts into memory of its own on the device; whoever
// reads the handle adds up what all of them hold.

#include "device.h"
#include "device_state.h"
#include "kernel.h"
#include "schema.h"
#include "statistics.h"

namespace graphopt {
namespace histogram {
namespace {

class OnDevice : public Elsewhere {
 public:
  OnDevice() {
    check_cuda(graphopt_cuda_histogram_device(&device_), "statistics");
    check_cuda(graphopt_cuda_histogram_make(&state_), "statistics");
    reset();
  }
  ~OnDevice() override { graphopt_cuda_histogram_free(state_); }

  DeviceState* state() const { return state_; }

  void read(Counter<int64_t>& into) override {
    const auto held = std::make_unique<DeviceState>();
    check_cuda(graphopt_cuda_histogram_read(device_, state_, held.get()), "statistics");
    Counter<int64_t> found;
    found.nans = static_cast<int64_t>(held->nans);
    found.infinities = static_cast<int64_t>(held->infinities);
    if (held->low <= held->high) {
      found.exponent = held->exponent;
      found.low = number(held->low);
      found.high = number(held->high);
      for (int bin = 0; bin < kBins; ++bin) found.counts[bin] = static_cast<int64_t>(held->counts[bin]);
    }
    for (int slot = 0; slot < kSlots && held->dropped == 0; ++slot) {
      if (held->keys[slot] != kFree) found.distinct.add(float_of(held->keys[slot]), held->times[slot]);
    }
    if (held->dropped != 0) found.distinct.drop();
    into.merge(found);
  }

  void reset() override {
    const auto empty = std::make_unique<DeviceState>();  // zeros
    for (uint32_t& key : empty->keys) key = kFree;
    empty->low = kNoLow;
    empty->high = kNoHigh;
    empty->exponent = kTinyExponent;
    check_cuda(graphopt_cuda_histogram_write(device_, state_, empty.get()), "statistics");
  }

 private:
  static float float_of(uint32_t bits) {
    float x;
    std::memcpy(&x, &bits, sizeof x);
    return x;
  }
  static float number(uint32_t key) { return float_of(key & 0x80000000u ? key & 0x7fffffffu : ~key); }

  int device_ = 0;
  DeviceState* state_ = nullptr;
};

class Kernel : public graphopt::Kernel {
 public:
  explicit Kernel(const Info& info) {
    const int64_t handle = info.integer("handle", 0);
    if (handle == 0) return;
    const auto kept = find(handle);
    require(kept != nullptr, "no such handle in this process: create it before the session, in the same process");
    counted_ = std::make_shared<OnDevice>();
    const std::lock_guard<std::mutex> lock(kept->mutex);
    kept->elsewhere.push_back(counted_);
  }

  void compute(Call& call) override {
    const Tensor x = call.input(0);
    const Tensor same = call.output(0, x.shape);
    const int64_t rows = x.rank() == 0 ? 1 : x.shape[0];
    const Tensor nonfinite = call.output(1, {rows, 2});
    const int type = x.type == kFloat ? 0 : x.type == kFloat16 ? 1 : 2;
    check_cuda(graphopt_cuda_histogram(type, x.data, x.count(), rows, counted_ ? counted_->state() : nullptr,
                                       nonfinite.present() ? nonfinite.to<int64_t>() : nullptr, call.stream()),
               "counting");
    if (same.present() && same.data != x.data && x.count() != 0) {
      const auto bytes = x.count() * static_cast<int64_t>(bytes_of(x.type));
      check_cuda(graphopt_cuda_histogram_copy(x.data, same.data, bytes, call.stream()), "copying");
    }
  }

 private:
  std::shared_ptr<OnDevice> counted_;
};

const Register of_float(describe(kCuda, kFloat, make<Kernel>));
const Register of_half(describe(kCuda, kFloat16, make<Kernel>));
const Register of_brain(describe(kCuda, kBfloat16, make<Kernel>));

}  // namespace
}  // namespace histogram
}  // namespace graphopt
