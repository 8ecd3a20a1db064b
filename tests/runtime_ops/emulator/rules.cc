// Kernels that break one rule each: the played GPU has to end the run, and let the one that breaks none pass.

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

#include "tensor_cores.h"

using namespace graphopt::gpu;

namespace {

struct Problem {
  const char* rule;
  const unsigned char* memory;
  int* sums;
};

bool breaks(const Problem& p, const char* rule) { return std::strcmp(p.rule, rule) == 0; }

// 64 rows of 32 numbers times 64 rows of 32 numbers: ones.
void product(Problem p) {
  GRAPHOPT_SHARED(shared);
  const uint32_t base = (shared_address(shared) + 1023) & ~1023u;
  const int row = threadIdx.x;
  for (int piece = 0; piece < 8; ++piece) {
    const uint32_t to = base + row * 128 + piece * 16;
    if (row % 2 == 0) {
      store16(to, 0x01010101u);
    } else {
      copy16(to, p.memory + (breaks(p, "global alignment") ? 8 : 0), 16);
    }
  }
  if (breaks(p, "shared alignment")) copy16(base + row * 128 + 8, p.memory, 16);
  if (breaks(p, "outside")) copy16(base + (row + 64) * 128, p.memory, 16);
  copies_commit();
  copies_wait<0>();
  const bool late = breaks(p, "publish late");
  if (!breaks(p, "publish") && !late) publish();
  __syncthreads();
  if (late) publish();
  int d[8][4];
  if (!breaks(p, "fence")) group_begin();
  multiply(d, matrix_descriptor(base), matrix_descriptor(base), 0);
  group_commit();
  if (!breaks(p, "wait")) group_wait<0>();
  p.sums[row] = d[0][0];
  group_wait<0>();
}

}  // namespace

int main(int count, char** arguments) {
  alignas(16) static unsigned char memory[64];
  std::memset(memory, 1, sizeof memory);
  static int sums[128];
  const char* rule = count > 1 ? arguments[1] : "";
  ranges().push_back({reinterpret_cast<const char*>(memory), sizeof memory});
  const Problem p{rule, memory, sums};
  if (p.rule == std::string("grid")) {
    launch(product, dim3(1, 65536), 128, 1024 + 128 * 128, nullptr, p);
  } else if (p.rule == std::string("shared memory")) {
    launch(product, dim3(1), 128, 228 * 1024, nullptr, p);
  } else if (p.rule == std::string("threads")) {
    launch(product, dim3(1), 1025, 1024 + 128 * 128, nullptr, p);
  } else {
    launch(product, dim3(1), 128, 1024 + (p.rule == std::string("outside") ? 64 : 128) * 128, nullptr, p);
  }
  for (int sum : sums) {
    if (sum != 32) return 2;
  }
  std::puts("passed");
}
