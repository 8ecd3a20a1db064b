// Running statistics of a tensor, on the CPU, and the functions that create, read, reset and free them.

#include <algorithm>
#include <atomic>
#include <map>
#include <thread>

#include "kernel.h"
#include "schema.h"
#include "statistics.h"

namespace graphopt {
namespace histogram {
namespace {

struct Handles {
  std::mutex mutex;
  std::map<int64_t, std::shared_ptr<Statistics>> all;
  int64_t last = 0;
};

Handles& handles() {
  static Handles* const kept = new Handles;  // never destroyed: sessions may end after this library's statics
  return *kept;
}

using Local = Counter<uint32_t>;

// Counters that threads use for the length of a call; empty while they lie here.
class Spare {
 public:
  std::unique_ptr<Local> take() {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (free_.empty()) return std::make_unique<Local>();
    auto one = std::move(free_.back());
    free_.pop_back();
    return one;
  }
  void give_back(std::unique_ptr<Local> one) {
    one->clear();
    const std::lock_guard<std::mutex> lock(mutex_);
    free_.push_back(std::move(one));
  }

 private:
  std::mutex mutex_;
  std::vector<std::unique_ptr<Local>> free_;
};

Spare& spare() {
  static Spare* const kept = new Spare;
  return *kept;
}

// Converts pieces to float or double and counts them.
template <class Count>
void add(Counter<Count>& into, const Tensor& x, int64_t first, int64_t last) {
  float narrow[kPiece];
  double wide[kPiece];
  for (int64_t at = first; at < last; at += kPiece) {
    const int64_t n = std::min(kPiece, last - at);
    switch (x.type) {
      case kFloat:
        into.add(x.as<float>() + at, n);
        continue;
      case kDouble:
        into.add(x.as<double>() + at, n);
        continue;
      case kFloat16:
        widen_half(x.as<uint16_t>() + at, n, narrow);
        break;
      case kBfloat16:
        widen_brain(x.as<uint16_t>() + at, n, narrow);
        break;
      case kInt8:
        std::copy_n(x.as<int8_t>() + at, n, narrow);
        break;
      case kUint8:
        std::copy_n(x.as<uint8_t>() + at, n, narrow);
        break;
      case kBool:
        std::transform(x.as<uint8_t>() + at, x.as<uint8_t>() + at + n, narrow, [](uint8_t b) { return b != 0; });
        break;
      case kInt32:
        std::copy_n(x.as<int32_t>() + at, n, wide);
        into.add(wide, n);
        continue;
      case kInt64:
        std::copy_n(x.as<int64_t>() + at, n, wide);
        into.add(wide, n);
        continue;
      default:
        throw Error("no histogram of this element type");
    }
    into.add(narrow, n);
  }
}

// Below this, one thread counts sooner than two can be added up.
constexpr int64_t kShare = 1 << 19;
constexpr int64_t kGrain = 1 << 16;
// A thread's counters have 32 bits: so many numbers at once.
constexpr int64_t kMost = int64_t{1} << 31;

void add_together(Counter<int64_t>& into, const Tensor& x, int64_t first, int64_t last, Call& call) {
  // The first piece settles the exponent, nearly, and nearly always that a tensor is not discrete.
  add(into, x, first, first + kPiece);
  std::mutex mutex;
  std::map<std::thread::id, std::unique_ptr<Local>> locals;
  const bool discrete = into.distinct.few();
  call.parallel(last - first - kPiece, kGrain, [&](int64_t from, int64_t to) {
    Local* local = nullptr;
    {
      const std::lock_guard<std::mutex> lock(mutex);
      auto& own = locals[std::this_thread::get_id()];
      if (!own) {
        own = spare().take();
        own->exponent = into.exponent;
        if (!discrete) own->distinct.drop();
      }
      local = own.get();
    }
    add(*local, x, first + kPiece + from, first + kPiece + to);
  });
  for (auto& [thread, local] : locals) {
    into.merge(*local);
    spare().give_back(std::move(local));
  }
}

// Counts NaN and infinities in each row of `inner` numbers; it is rare that there are any.
void find_nonfinite(const Tensor& x, int64_t inner, int64_t* found) {
  const int64_t count = x.count();
  float narrow[kPiece];
  for (int64_t at = 0; at < count; at += kPiece) {
    const int64_t n = std::min(kPiece, count - at);
    const float* piece = narrow;
    if (x.type == kFloat) {
      piece = x.as<float>() + at;
    } else if (x.type == kDouble) {  // of double, what is neither must not become infinite
      const double* wide = x.as<double>() + at;
      std::transform(wide, wide + n, narrow, [](double v) { return static_cast<float>(v - v); });
    } else if (x.type == kFloat16) {
      widen_half(x.as<uint16_t>() + at, n, narrow);
    } else {
      widen_brain(x.as<uint16_t>() + at, n, narrow);
    }
    for (int64_t i = 0; i < n; ++i) {
      if (std::isfinite(piece[i])) continue;
      const bool nan = x.type == kDouble ? std::isnan(x.as<double>()[at + i]) : std::isnan(piece[i]);
      ++found[(at + i) / inner * 2 + !nan];
    }
  }
}

class Kernel : public graphopt::Kernel {
 public:
  explicit Kernel(const Info& info) {
    const int64_t handle = info.integer("handle", 0);
    kept_ = handle == 0 ? std::make_shared<Statistics>() : find(handle);
    require(kept_ != nullptr, "no such handle in this process: create it before the session, in the same process");
    forget_ = handle == 0;
  }

  void compute(Call& call) override {
    const Tensor x = call.input(0);
    const Tensor same = call.output(0, x.shape);
    const int64_t rows = x.rank() == 0 ? 1 : x.shape[0];
    const Tensor nonfinite = call.output(1, {rows, 2});
    const int64_t count = x.count();
    bool finite = true;
    {
      const std::lock_guard<std::mutex> lock(kept_->mutex);
      auto& counted = kept_->counted;
      if (forget_) counted.clear();
      const int64_t before = counted.nans + counted.infinities;
      for (int64_t first = 0; first < count; first += kMost) {
        const int64_t last = std::min(count, first + kMost);
        if (last - first < kShare) {
          add(counted, x, first, last);
        } else {
          add_together(counted, x, first, last, call);
        }
      }
      finite = counted.nans + counted.infinities == before;
    }
    if (nonfinite.present()) {
      std::fill_n(nonfinite.to<int64_t>(), 2 * rows, 0);
      if (!finite) find_nonfinite(x, count / rows, nonfinite.to<int64_t>());
    }
    if (same.present() && same.data != x.data && count != 0) {
      const int64_t size = static_cast<int64_t>(bytes_of(x.type));
      call.parallel(count * size, 1 << 18, [&](int64_t first, int64_t last) {
        std::memcpy(same.to<char>() + first, x.as<char>() + first, static_cast<size_t>(last - first));
      });
    }
  }

 private:
  std::shared_ptr<Statistics> kept_;
  bool forget_ = false;
};

const Register of_float(describe(kCpu, kFloat, make<Kernel>));
const Register of_double(describe(kCpu, kDouble, make<Kernel>));
const Register of_half(describe(kCpu, kFloat16, make<Kernel>));
const Register of_brain(describe(kCpu, kBfloat16, make<Kernel>));
const Register of_int8(describe(kCpu, kInt8, make<Kernel>));
const Register of_uint8(describe(kCpu, kUint8, make<Kernel>));
const Register of_int32(describe(kCpu, kInt32, make<Kernel>));
const Register of_int64(describe(kCpu, kInt64, make<Kernel>));
const Register of_bool(describe(kCpu, kBool, make<Kernel>));

}  // namespace

std::shared_ptr<Statistics> find(int64_t handle) {
  const std::lock_guard<std::mutex> lock(handles().mutex);
  const auto found = handles().all.find(handle);
  return found == handles().all.end() ? nullptr : found->second;
}

}  // namespace histogram
}  // namespace graphopt

// --- for ctypes: runtime_ops/histogram/handle.py ---------------------------------------------------------------------
// All but `create` return 0, or 1 if there is no such handle, or 2 if a device fails.

using namespace graphopt::histogram;

#define GRAPHOPT_EXPORT extern "C" __attribute__((visibility("default")))

// Makes empty statistics and returns their handle, above zero.
GRAPHOPT_EXPORT int64_t graphopt_histogram_create() {
  auto made = std::make_shared<Statistics>();
  const std::lock_guard<std::mutex> lock(handles().mutex);
  handles().all[++handles().last] = std::move(made);
  return handles().last;
}

// Forgets the handle; a session that uses it keeps counting until it ends.
GRAPHOPT_EXPORT int graphopt_histogram_free(int64_t handle) {
  std::shared_ptr<Statistics> kept;  // dies after the lock
  const std::lock_guard<std::mutex> lock(handles().mutex);
  const auto found = handles().all.find(handle);
  if (found == handles().all.end()) return 1;
  kept = std::move(found->second);
  handles().all.erase(found);
  return 0;
}

GRAPHOPT_EXPORT int graphopt_histogram_reset(int64_t handle) {
  const auto kept = find(handle);
  if (kept == nullptr) return 1;
  const std::lock_guard<std::mutex> lock(kept->mutex);
  kept->counted.clear();
  try {
    for (const auto& one : kept->elsewhere) one->reset();
  } catch (...) {
    return 2;
  }
  return 0;
}

// range: minimum, maximum. numbers: exponent, NaN, infinities, different numbers or -1 if there are too many.
// counts: [65536], bin t at t mod 65536. distinct, frequencies: [256], in no order.
GRAPHOPT_EXPORT int graphopt_histogram_read(int64_t handle, double* range, int64_t* numbers, int64_t* counts,
                                            double* distinct, int64_t* frequencies) {
  const auto kept = find(handle);
  if (kept == nullptr) return 1;
  const std::lock_guard<std::mutex> lock(kept->mutex);
  Counter<int64_t> sum;
  const Counter<int64_t>* all = &kept->counted;
  if (!kept->elsewhere.empty()) {
    try {
      sum.merge(kept->counted);
      for (const auto& one : kept->elsewhere) one->read(sum);
    } catch (...) {
      return 2;
    }
    all = &sum;
  }
  range[0] = all->low;
  range[1] = all->high;
  numbers[0] = all->exponent;
  numbers[1] = all->nans;
  numbers[2] = all->infinities;
  numbers[3] = all->distinct.few() ? 0 : -1;
  std::copy_n(&all->counts[0], 2 * kHalf, counts);
  if (all->distinct.few()) {
    all->distinct.each([&](double x, int64_t times) {
      distinct[numbers[3]] = x;
      frequencies[numbers[3]++] = times;
    });
  }
  return 0;
}
