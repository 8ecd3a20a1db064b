// What the processor can do, asked when the library runs. GRAPHOPT_CPU=portable, avx2, avx512, or avx512_vnni limits it,
// so that every path can be tested on a machine that has the newest.

#pragma once

namespace graphopt {

enum class Cpu {
  kPortable = 0,
  kAvx2 = 1,        // with FMA
  kAvx512 = 2,      // F, BW, DQ, VL
  kAvx512Vnni = 3,  // and VNNI, VPOPCNTDQ
};

// Ask when a kernel is made or runs, and keep no answer in a static: tests change it (graphopt_limit_cpu).
Cpu cpu();
const char* name(Cpu level);

#if defined(__x86_64__)
#define GRAPHOPT_X86 1
#define GRAPHOPT_AVX2 __attribute__((target("avx2,fma,f16c")))
#define GRAPHOPT_AVX512 __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")))
#define GRAPHOPT_AVX512_VNNI \
  __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vpopcntdq,avx2,fma,f16c")))
#endif

}  // namespace graphopt
