// Int8 products by pairs of blocks that share the weights: for large products on sm_90.
//
// Two blocks with the same columns and neighbouring rows form a cluster. Each fetches one half of a step of w, and the
// copy engine writes it to the shared memory of both: a third less is read from the second cache than by blocks alone,
// and no thread spends instructions on w. The host has packed w in the order of the copies (`pair_weights`).
//
// Source: NVIDIA, Parallel Thread Execution ISA 8.x, "cp.async.bulk" (multicast), "mbarrier", "barrier.cluster".

#include "int8_tile.h"

namespace graphopt::int8 {
namespace {

using Pair128x256 = Tile<128, kPairWidth, 16, kPairWidth, 4, true>;
constexpr int kBlocks = 2;

#if defined(GRAPHOPT_WGMMA)

template <class T>
__device__ __forceinline__ void run_pair(const Product& p, unsigned char* shared) {
  const int first_row = blockIdx.x * T::height, first_column = blockIdx.y * T::width, group = blockIdx.z;
  const uint32_t base = (shared_address(shared) + 1023) & ~1023u;
  unsigned char* results = shared + (base - shared_address(shared));
  const uint32_t arrived = base + T::stages * T::stage_bytes;  // a barrier of 8 bytes for each stage
  const int total = p.kernel_height * p.kernel_width * p.channels, steps = (total + kStep - 1) / kStep;

  constexpr int kBytes = T::width * kStep, kHalf = kBytes / kBlocks;
  const int half = block_of_cluster() * kHalf;
  const int64_t tile = static_cast<int64_t>(group) * gridDim.y + blockIdx.y;
  const int8_t* w = p.w_tiles + tile * steps * kBytes + half;
  const bool fetches = threadIdx.x == 0;
  const auto fetch = [&](int step, int stage) {
    const uint32_t barrier = arrived + 8 * stage;
    barrier_expect(barrier, kBytes);  // of both halves
    copy_to_pair(base + stage * T::stage_bytes + T::height * kStep + half, w + static_cast<int64_t>(step) * kBytes, kHalf,
                 barrier);
  };

  if (fetches) {
    for (int s = 0; s < T::stages; ++s) barrier_init(arrived + 8 * s);
    barriers_ready();
  }
  cluster_synchronize();  // the other block's barriers are ready, too
  Images<T> images;
  images.begin(p, first_row);
#pragma unroll
  for (int s = 0; s < T::ahead; ++s) {
    if (s < steps) {
      images.step(p, group, base + s * T::stage_bytes);
      if (fetches) fetch(s, s);
    }
    copies_commit();
  }
  int sums[T::down][T::across][4];
  clear<T>(sums);
  int stage = 0, free_stage = T::ahead;
  uint32_t parity = 0;
  for (int s = 0; s < steps; ++s) {
    copies_wait<T::ahead - 1>();
    publish();
    barrier_wait(arrived + 8 * stage, parity);
    // This step's rows of x have come to this block, and both blocks have done with the free stage.
    cluster_synchronize();
    multiply_step_wide<T>(sums, base + stage * T::stage_bytes, s == 0);
    if (s + T::ahead < steps) {
      images.step(p, group, base + free_stage * T::stage_bytes);
      if (fetches) fetch(s + T::ahead, free_stage);
    }
    copies_commit();
    group_wait<1>();
    if (++stage == T::stages) {
      stage = 0;
      parity ^= 1;
    }
    free_stage = free_stage + 1 == T::stages ? 0 : free_stage + 1;
  }
  group_wait<0>();
  settle(sums[0]);
  copies_wait<0>();
  cluster_synchronize();  // nothing reads or writes the stages any more
  finish<T>(p, sums, results, first_row, first_column, group);
}

#endif

template <class T>
__global__ void __launch_bounds__(T::threads) product_pair(const __grid_constant__ Product p) {
  GRAPHOPT_SHARED(shared);
#if defined(GRAPHOPT_WGMMA)
  run_pair<T>(p, shared);
#else
  (void)shared;  // never launched
#endif
}

}  // namespace
}  // namespace graphopt::int8

extern "C" int graphopt_cuda_int8_pair(const graphopt::int8::Product* p, void* stream) {
  using namespace graphopt::int8;
  using T = Pair128x256;
  if (p->rows == 0 || p->columns == 0) return 0;
  const int across = (p->rows + T::height - 1) / T::height;
  const dim3 grid((across + kBlocks - 1) / kBlocks * kBlocks, (p->columns + T::width - 1) / T::width, p->groups);
  return launch_clusters(product_pair<T>, grid, kBlocks, T::threads, T::bytes + 8 * T::stages, stream, *p);
}
