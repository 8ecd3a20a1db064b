// What a tensor held: exactly graphopt/calibrate/histogram.py, kept by the library under a handle.
//
// Bin t holds the numbers with `trunc(x / 2**exponent) == t` and is counted at `counts[t mod 2**16]`. Where the range
// grows, bins are merged in pairs, which gives what it would have been had the range been known: so threads, calls and
// devices count apart, and their sum does not depend on the order.

#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <memory>
#include <mutex>
#include <new>
#include <vector>

#include "bins.h"

namespace graphopt::histogram {

constexpr int kHalf = 1 << 15;       // bins on each side of zero
constexpr int kTinyExponent = -1074;  // of what holds nothing but zeros, or nothing
constexpr int kDistinct = 257;       // fewer different numbers than this are kept as they are

// The smallest exponent at which [low, high] fits into the bins.
inline int exponent_of(double low, double high) {
  const double largest = std::fmax(std::fabs(low), std::fabs(high));
  if (largest == 0) return kTinyExponent;
  int exponent = 0;
  std::frexp(largest, &exponent);
  return std::max(exponent - 15, kTinyExponent);
}

// The different numbers of a discrete tensor, and how often they came.
class Distinct {
 public:
  bool few() const { return used_ < kDistinct; }
  void drop() { used_ = kDistinct; }
  void clear() {
    used_ = 0;
    counts_.fill(0);
  }

  void add(double x, int64_t times) {
    x += 0.0;  // -0.0 is the same number as 0.0
    uint64_t key;
    std::memcpy(&key, &x, sizeof key);
    size_t at = (key ^ key >> 29) * 0x9e3779b97f4a7c15u >> 54;
    while (counts_[at] != 0 && keys_[at] != x) at = (at + 1) % kSlots;
    if (counts_[at] == 0 && ++used_ >= kDistinct) return;  // too many; what is there no longer means anything
    keys_[at] = x;
    counts_[at] += times;
  }

  template <class F>
  void each(F&& visit) const {
    for (size_t at = 0; at < kSlots; ++at) {
      if (counts_[at] != 0) visit(keys_[at], counts_[at]);
    }
  }

 private:
  static constexpr size_t kSlots = 1 << 10;
  std::array<double, kSlots> keys_;
  std::array<int64_t, kSlots> counts_{};
  int used_ = 0;
};

// A table of 2 * kHalf zeros. Pages of it that are never written to take no memory: most of those of a narrow tensor, and
// half of them behind a ReLU.
template <class T>
class Zeros {
 public:
  Zeros() : all_(static_cast<T*>(std::calloc(2 * kHalf, sizeof(T)))) {
    if (all_ == nullptr) throw std::bad_alloc();
  }
  T& operator[](size_t at) { return all_.get()[at]; }
  const T& operator[](size_t at) const { return all_.get()[at]; }

 private:
  struct Free {
    void operator()(T* memory) const { std::free(memory); }
  };
  std::unique_ptr<T, Free> all_;
};

// A histogram that grows. `Count` is int64_t where it is kept and uint32_t where a thread counts for a while.
template <class Count>
struct Counter {
  int exponent = kTinyExponent;
  double low = std::numeric_limits<double>::infinity(), high = -std::numeric_limits<double>::infinity();
  int64_t nans = 0, infinities = 0;
  Distinct distinct;
  Zeros<Count> counts;

  // Counts in n <= kPiece numbers, of type float or double.
  template <class T>
  void add(const T* x, int64_t n) {
    if (n == 0) return;
    Range found = range(x, n);
    T finite[kPiece];
    if (!found.finite) {
      int64_t left = 0;
      for (int64_t i = 0; i < n; ++i) {
        nans += std::isnan(x[i]);
        infinities += std::isinf(x[i]);
        if (std::isfinite(x[i])) finite[left++] = x[i];
      }
      if (left == 0) return;
      x = finite;
      n = left;
      found = range(x, n);
    }
    widen(found.low, found.high);
    for (int64_t i = 0; i < n && distinct.few();) {
      const T one = x[i];
      int64_t times = 1;
      while (++i < n && x[i] == one) ++times;
      distinct.add(one, times);
    }
    uint16_t places[kPiece + 16];
    const int64_t other = bins(x, n, -exponent, places);
    counts[0] += static_cast<Count>(n - other);
    for (int64_t i = 0; i < other; ++i) ++counts[places[i]];
  }

  // Makes bins wide enough for a range, and remembers the range.
  void widen(double other_low, double other_high) {
    const bool empty = low > high;
    low = std::fmin(low, other_low) + 0.0;
    high = std::fmax(high, other_high) + 0.0;
    const int wanted = std::max(exponent, exponent_of(low, high)), by = wanted - exponent;
    exponent = wanted;
    if (by == 0 || empty) return;
    for (int t = 1; t < kHalf; ++t) {
      const int to = by > 15 ? 0 : t >> by;  // smaller than t: its own numbers have moved already
      move(t, to);
      move(2 * kHalf - t, (2 * kHalf - to) % (2 * kHalf));
    }
  }

  // Counts in what another one holds.
  template <class Other>
  void merge(const Counter<Other>& other) {
    nans += other.nans;
    infinities += other.infinities;
    if (!other.distinct.few()) distinct.drop();
    if (distinct.few()) {
      other.distinct.each([&](double x, int64_t times) {
        if (distinct.few()) distinct.add(x, times);
      });
    }
    if (other.low > other.high) return;
    widen(other.low, other.high);
    const int by = std::min(exponent - other.exponent, 16);
    const int first = place(other.low, other.exponent), last = place(other.high, other.exponent);
    for (int t = first; t <= last; ++t) {
      const int to = t < 0 ? -(-t >> by) : t >> by;
      counts[to & 0xffff] += static_cast<Count>(other.counts[t & 0xffff]);
    }
  }

  void clear() {
    if (low <= high) {
      const int first = place(low, exponent), last = place(high, exponent);
      for (int t = first; t <= last; ++t) counts[t & 0xffff] = 0;
    }
    exponent = kTinyExponent;
    low = std::numeric_limits<double>::infinity();
    high = -low;
    nans = infinities = 0;
    distinct.clear();
  }

 private:
  static int place(double x, int exponent) { return static_cast<int>(std::ldexp(x, -exponent)); }

  void move(int from, int to) {
    const Count held = counts[from];
    if (held == 0) return;
    counts[from] = 0;
    counts[to] += held;
  }
};

// What a device counted and still holds; see cuda.cc.
class Elsewhere {
 public:
  virtual ~Elsewhere() = default;
  virtual void read(Counter<int64_t>& into) = 0;  // waits for the device
  virtual void reset() = 0;
};

// What lies behind a handle.
struct Statistics {
  std::mutex mutex;
  Counter<int64_t> counted;                            // by kernels on the processor
  std::vector<std::shared_ptr<Elsewhere>> elsewhere;  // by kernels on devices
};

// The statistics of a handle; null if there is no such handle in this process.
std::shared_ptr<Statistics> find(int64_t handle);

}  // namespace graphopt::histogram
