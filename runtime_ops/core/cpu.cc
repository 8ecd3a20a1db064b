#include "cpu.h"

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <initializer_list>

namespace graphopt {
namespace {

Cpu detected() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) return Cpu::kPortable;
  const bool wide = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                    __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  if (!wide) return Cpu::kAvx2;
  const bool newest = __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512vpopcntdq");
  return newest ? Cpu::kAvx512Vnni : Cpu::kAvx512;
#else
  return Cpu::kPortable;
#endif
}

Cpu allowed(const char* wanted) {
  const Cpu most = detected();
  if (wanted == nullptr) return most;
  for (Cpu level : {Cpu::kPortable, Cpu::kAvx2, Cpu::kAvx512, Cpu::kAvx512Vnni}) {
    if (std::strcmp(wanted, name(level)) == 0) return level < most ? level : most;
  }
  return most;
}

std::atomic<Cpu>& level() {
  static std::atomic<Cpu> now{allowed(std::getenv("GRAPHOPT_CPU"))};
  return now;
}

}  // namespace

Cpu cpu() { return level().load(std::memory_order_relaxed); }

const char* name(Cpu level) {
  switch (level) {
    case Cpu::kPortable:
      return "portable";
    case Cpu::kAvx2:
      return "avx2";
    case Cpu::kAvx512:
      return "avx512";
    default:
      return "avx512_vnni";
  }
}

}  // namespace graphopt

// For `graphopt ops`.
extern "C" __attribute__((visibility("default"))) const char* graphopt_cpu() {
  return graphopt::name(graphopt::cpu());
}

// For tests: limits what kernels that are made from now on may use, so that one process tests every path.
extern "C" __attribute__((visibility("default"))) const char* graphopt_limit_cpu(const char* wanted) {
  graphopt::level() = graphopt::allowed(wanted != nullptr && *wanted ? wanted : std::getenv("GRAPHOPT_CPU"));
  return graphopt_cpu();
}
