// Memory for floats that begins where a line of the cache does and is kept from call to call; a thread has its own.

#pragma once

#include <cstdint>
#include <vector>

namespace graphopt {

class Lines {
 public:
  // Room for `count` floats. Where that is more than ever before, what was there is lost.
  float* floats(int64_t count) {
    if (static_cast<int64_t>(kept_.size()) < count + kLine) kept_.resize(static_cast<size_t>(count + kLine));
    const uintptr_t behind = reinterpret_cast<uintptr_t>(kept_.data()) / sizeof(float) % kLine;
    return kept_.data() + (kLine - behind) % kLine;
  }

 private:
  static constexpr int64_t kLine = 64 / sizeof(float);

  std::vector<float> kept_;
};

}  // namespace graphopt
