// Plays a GPU on the processor, so that kernels which use tensor cores can be run where there is none: a block's threads
// are coroutines, what a warp does together happens when its last lane has come, and asynchronous work is done as late
// as the waits allow. Memory that an asynchronous copy will write is spoilt at once: who still reads it, or reads it too
// early, gets garbage. What ends the run: addresses outside of shared memory or of ranges that were announced, or not
// aligned as an instruction wants them; tensor cores (`wgmma`) that are to read what ordinary instructions wrote and no
// fence and barrier published; a product before `wgmma.fence`; a launch that CUDA refuses.
//
// What it does not see: what a plain pointer reads or writes in shared memory without a barrier, unless another order of
// threads changes the result; registers of a product that is under way, when they are read and not used.
//
// The twin of runtime_ops/core/tensor_cores.h; see there for what the instructions do.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <random>
#include <ucontext.h>
#include <utility>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __grid_constant__
#define __launch_bounds__(...)
#define GRAPHOPT_WGMMA 1
#define GRAPHOPT_SHARED(name) unsigned char* name = graphopt::gpu::block().shared

struct dim3 {
  unsigned x, y, z;
  dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};

struct char2 {
  signed char x, y;
};

namespace graphopt::gpu {

[[noreturn]] inline void fail(const char* what) {
  std::fprintf(stderr, "emulated GPU: %s\n", what);
  std::abort();
}

constexpr uint32_t kFirst = 16;  // the address of the first byte of shared memory

struct Range {
  const char* first;
  size_t bytes;
};
inline std::vector<Range>& ranges() {
  static std::vector<Range> all;
  return all;
}
inline int& order() {  // of threads: 0 first to last, 1 last to first, above: at random, the first block of a cluster
                      // far more often, and copies to pairs arriving at any time
  static int kind = 0;
  return kind;
}
inline bool chance(unsigned one_in) {
  static std::minstd_rand random(1);
  return order() > 1 && random() % one_in == 0;
}

struct Copy {
  uint32_t to;
  const void* from;
  int bytes;
};

// Threads that do something together.
struct Group {
  int size = 0, arrived = 0;
  uint64_t generation = 0;
  std::vector<const void*> given;
};

struct Wgmma {
  std::vector<int*> sums;  // of 128 threads
  uint64_t a, b;
  int add, width;
};

struct Thread {
  ucontext_t context;
  std::unique_ptr<char[]> stack;
  bool ended = false;
  int id = 0;
  std::vector<std::vector<Copy>> groups{1};  // of copies; the last is not committed
  bool fenced = false;                       // registers, for the products of the next group
  std::vector<uint32_t> wrote;               // pieces of shared memory, since it published any
};

// A barrier of one thread and announced bytes.
struct Barrier {
  uint32_t phase = 0;
  int left = 1;
  int64_t bytes = 0;
};

struct PairCopy {
  uint32_t to, barrier;
  const void* from;
  int bytes;
};

struct Block;

// Blocks that run at once.
struct Cluster {
  std::vector<std::unique_ptr<Block>> blocks;
  Group barrier;
  std::vector<PairCopy> copies;  // that have not come yet
};

inline uint64_t& progress() {
  static uint64_t steps = 0;
  return steps;
}

struct Block {
  Cluster* cluster = nullptr;
  int rank = 0;
  std::map<uint32_t, Barrier> barriers;
  unsigned char* memory = nullptr;  // where address 0 would lie
  unsigned char* shared = nullptr;  // a multiple of 16, as on the device, and of no more: kernels align for themselves
  size_t bytes = 0;                 // up to the end of `shared`
  // Of each 16 bytes: 1 + the thread whose ordinary instructions wrote them and which has not published them; -1 where it
  // has, and no barrier has told the others.
  std::vector<int> unpublished;
  std::vector<uint32_t> published;
  dim3 index, grid;
  std::vector<Thread> threads;
  Group barrier;
  std::vector<Group> warps, fours;
  std::vector<std::vector<std::vector<Wgmma>>> pending;  // of each four warps; the last group is not committed
  ucontext_t scheduler;
  int current = 0;
  std::function<void()> body;
};

inline Block*& block_pointer() {
  static Block* current = nullptr;
  return current;
}
inline Block& block() { return *block_pointer(); }
inline Thread& thread() { return block().threads[block().current]; }
inline dim3 thread_index() { return dim3(thread().id, 0, 0); }
inline dim3 block_index() { return block().index; }
inline dim3 grid_size() { return block().grid; }

inline void pause() {
  Thread& mine = thread();
  swapcontext(&mine.context, &block().scheduler);
}

// Waits for all threads of the group; the last one does the work with what each has given.
template <class F>
void together(Group& group, int lane, const void* given, F work) {
  group.given[lane] = given;
  ++progress();
  if (++group.arrived == group.size) {
    work();
    group.arrived = 0;
    ++group.generation;
    return;
  }
  const uint64_t generation = group.generation;
  while (group.generation == generation) pause();
}

inline void tell(Block& of) {
  for (uint32_t piece : of.published) {
    if (of.unpublished[piece] < 0) of.unpublished[piece] = 0;
  }
  of.published.clear();
}

inline void synchronize() {
  together(block().barrier, thread().id, nullptr, [] { tell(block()); });
}

inline int block_of_cluster() { return block().rank; }
inline void cluster_synchronize() {
  Cluster& cluster = *block().cluster;
  together(cluster.barrier, block().rank * static_cast<int>(block().threads.size()) + thread().id, nullptr, [&] {
    for (auto& one : cluster.blocks) tell(*one);
  });
}

inline void need_shared(uint32_t address, uint32_t bytes, uint32_t alignment) {
  if (address < kFirst || static_cast<size_t>(address) + bytes > block().bytes) fail("outside of shared memory");
  if (address % alignment != 0) fail("not aligned in shared memory");
}

inline void need_global(const void* pointer, size_t bytes) {
  const char* first = static_cast<const char*>(pointer);
  if (reinterpret_cast<uintptr_t>(first) % bytes != 0) fail("not aligned in global memory");
  for (const Range& range : ranges()) {
    if (first >= range.first && first + bytes <= range.first + range.bytes) return;
  }
  fail("outside of global memory");
}

inline uint32_t shared_address(const void* pointer) {
  return static_cast<uint32_t>(static_cast<const unsigned char*>(pointer) - block().memory);
}

inline void written(uint32_t to) {
  block().unpublished[to / 16] = thread().id + 1;
  thread().wrote.push_back(to / 16);
}

inline void copy16(uint32_t to, const void* from, int bytes) {
  need_shared(to, 16, 16);
  if (bytes != 0) need_global(from, 16);
  std::memset(block().memory + to, 0xCD, 16);
  thread().groups.back().push_back({to, from, bytes});
}
inline void copies_commit() { thread().groups.emplace_back(); }
template <int Pending>
void copies_wait() {
  auto& groups = thread().groups;
  while (groups.size() > Pending + 1) {
    for (const Copy& copy : groups.front()) {
      written(copy.to);
      if (copy.bytes != 0) {
        std::memcpy(block().memory + copy.to, copy.from, 16);
      } else {
        std::memset(block().memory + copy.to, 0, 16);
      }
    }
    groups.erase(groups.begin());
  }
}
inline void store16(uint32_t to, uint32_t word) {
  need_shared(to, 16, 16);
  written(to);
  for (int i = 0; i < 4; ++i) std::memcpy(block().memory + to + 4 * i, &word, 4);
}

inline Barrier& barrier_at(Block& owner, uint32_t address) {
  const auto found = owner.barriers.find(address);
  if (found == owner.barriers.end()) fail("no barrier was made here");
  return found->second;
}
inline void barrier_init(uint32_t address) {
  need_shared(address, 8, 8);
  block().barriers[address] = Barrier();
}
inline void barriers_ready() {}
inline void barrier_changed(Barrier& barrier) {
  ++progress();
  if (barrier.left != 0 || barrier.bytes != 0) return;
  barrier.left = 1;
  ++barrier.phase;
}
inline void barrier_expect(uint32_t address, int bytes) {
  Barrier& barrier = barrier_at(block(), address);
  if (barrier.left == 0) fail("bytes are announced twice");
  barrier.left = 0;
  barrier.bytes += bytes;
  barrier_changed(barrier);
}
inline void copy_to_pair(uint32_t to, const void* from, int bytes, uint32_t barrier) {
  need_shared(to, bytes, 16);
  if (bytes % 16 != 0) fail("the bytes of a copy are no multiple of 16");
  for (int at = 0; at < bytes; at += 16) need_global(static_cast<const char*>(from) + at, 16);
  for (auto& other : block().cluster->blocks) {
    if (other->barriers.empty()) fail("the other block has made no barriers yet");
    std::memset(other->memory + to, 0xCD, bytes);
  }
  block().cluster->copies.push_back({to, barrier, from, bytes});
}
// What is waited for comes when all have to wait.
inline void barrier_wait(uint32_t address, uint32_t parity) {
  int idle = 0;
  uint64_t seen = progress();
  while ((barrier_at(block(), address).phase & 1) == parity) {
    pause();
    idle = progress() == seen ? idle + 1 : 0;
    seen = progress();
    auto& copies = block().cluster->copies;
    if (copies.empty() || (idle < 3 && !chance(2))) continue;  // the scheduler sees that nothing goes on
    const PairCopy copy = copies.front();
    copies.erase(copies.begin());
    for (auto& other : block().cluster->blocks) {
      std::memcpy(other->memory + copy.to, copy.from, copy.bytes);
      std::fill_n(other->unpublished.begin() + copy.to / 16, copy.bytes / 16, 0);
      Barrier& barrier = barrier_at(*other, copy.barrier);
      barrier.bytes -= copy.bytes;
      barrier_changed(barrier);
    }
  }
}

inline void load_matrices(uint32_t from, uint32_t (&to)[4]) {
  struct Given {
    uint32_t from;
    uint32_t* to;
  } mine{from, to};
  Group& warp = block().warps[thread().id / 32];
  together(warp, thread().id % 32, &mine, [&] {
    for (int matrix = 0; matrix < 4; ++matrix) {
      for (int lane = 0; lane < 32; ++lane) {
        const uint32_t row = static_cast<const Given*>(warp.given[matrix * 8 + lane / 4])->from;
        need_shared(row, 16, 16);
        std::memcpy(static_cast<const Given*>(warp.given[lane])->to + matrix, block().memory + row + lane % 4 * 4, 4);
      }
    }
  });
}

inline void multiply(int (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  struct Given {
    int* d;
    const uint32_t* a;
    uint32_t b[2];
  } mine{d, a, {b0, b1}};
  Group& warp = block().warps[thread().id / 32];
  together(warp, thread().id % 32, &mine, [&] {
    const auto of = [&](int lane) { return static_cast<const Given*>(warp.given[lane]); };
    const auto byte = [](uint32_t word, int i) { return static_cast<int>(static_cast<int8_t>(word >> (8 * i))); };
    for (int row = 0; row < 16; ++row) {
      for (int column = 0; column < 8; ++column) {
        int sum = 0;
        for (int k = 0; k < 32; ++k) {
          const int four = k % 16 / 4;
          const int x = byte(of(row % 8 * 4 + four)->a[k / 16 * 2 + row / 8], k % 4);
          sum += x * byte(of(column * 4 + four)->b[k / 16], k % 4);
        }
        int& to = of(row % 8 * 4 + column / 2)->d[row / 8 * 2 + column % 2];
        to = static_cast<int>(static_cast<uint32_t>(to) + static_cast<uint32_t>(sum));
      }
    }
  });
}

// Where a number of an operand lies that a descriptor describes.
inline uint32_t place(uint64_t descriptor, int row, int k) {
  if (descriptor >> 62 != 1 || (descriptor >> 49 & 7) != 0) fail("only the 128-byte swizzle at multiples of 1024 is played");
  const auto start = static_cast<uint32_t>(descriptor & 0x3FFF) << 4, stride = static_cast<uint32_t>(descriptor >> 32 & 0x3FFF) << 4;
  uint32_t address = start + static_cast<uint32_t>(row / 8) * stride + static_cast<uint32_t>(row % 8) * 128 + k;
  address ^= (address >> 7 & 7) << 4;
  need_shared(address, 1, 1);
  return address;
}
inline int element(uint64_t descriptor, int row, int k) {
  return static_cast<int8_t>(block().memory[place(descriptor, row, k)]);
}
// At the time when a product begins: all threads that wrote its operands have published them.
inline void need_published(uint64_t descriptor, int rows) {
  for (int row = 0; row < rows; ++row) {
    for (int k = 0; k < 32; k += 16) {
      if (block().unpublished[place(descriptor, row, k) / 16] != 0) fail("tensor cores read what was not published");
    }
  }
}

inline void publish() {
  for (uint32_t piece : thread().wrote) {
    if (block().unpublished[piece] != thread().id + 1) continue;
    block().unpublished[piece] = -1;
    block().published.push_back(piece);
  }
  thread().wrote.clear();
}
template <int N>
void settle(int (&)[N][4]) {}
inline void group_begin() { thread().fenced = true; }
template <int N>
void multiply(int (&d)[N][4], uint64_t a, uint64_t b, int add) {
  const int four = thread().id / 128;
  Group& group = block().fours[four];
  if (!thread().fenced) fail("wgmma.fence is missing");
  together(group, thread().id % 128, &d[0][0], [&] {
    need_published(a, 64);
    need_published(b, N * 8);
    Wgmma work{{}, a, b, add, N * 8};
    for (const void* sums : group.given) work.sums.push_back(static_cast<int*>(const_cast<void*>(sums)));
    block().pending[four].back().push_back(work);
  });
}
inline void group_commit() {
  const int four = thread().id / 128;
  thread().fenced = false;
  together(block().fours[four], thread().id % 128, nullptr, [&] { block().pending[four].emplace_back(); });
}
template <int Pending>
void group_wait() {
  const int four = thread().id / 128;
  together(block().fours[four], thread().id % 128, nullptr, [&] {
    auto& groups = block().pending[four];
    while (groups.size() > Pending + 1) {
      for (const Wgmma& work : groups.front()) {
        std::vector<int> b(static_cast<size_t>(work.width) * 32);
        for (int n = 0; n < work.width; ++n) {
          for (int k = 0; k < 32; ++k) b[n * 32 + k] = element(work.b, n, k);
        }
        for (int row = 0; row < 64; ++row) {
          int a[32];
          for (int k = 0; k < 32; ++k) a[k] = element(work.a, row, k);
          for (int n = 0; n < work.width; ++n) {
            int sum = 0;
            for (int k = 0; k < 32; ++k) sum += a[k] * b[n * 32 + k];
            const int owner = row / 16 * 32 + row % 8 * 4 + n % 8 / 2;
            int& to = work.sums[owner][n / 8 * 4 + row % 16 / 8 * 2 + n % 2];
            to = static_cast<int>((work.add ? static_cast<uint32_t>(to) : 0u) + static_cast<uint32_t>(sum));
          }
        }
      }
      groups.erase(groups.begin());
    }
  });
}

inline void enter() {
  block().body();
  thread().ended = true;
  ++progress();
  pause();
}

// Runs the blocks of a cluster until all have ended; a block runs on, a turn for each thread, until it has to wait for
// another: they are as far apart as their barriers allow.
inline void run(Cluster& cluster) {
  size_t left = 0;
  for (const auto& one : cluster.blocks) left += one->threads.size();
  for (int idle = 0; left > 0;) {
    const uint64_t before = progress();
    for (const auto& one : cluster.blocks) {
      const int threads = static_cast<int>(one->threads.size());
      uint64_t begun;
      do {
        begun = progress();
        for (int i = 0; i < threads; ++i) {
          block_pointer() = one.get();
          one->current = order() ? threads - 1 - i : i;
          Thread& next = one->threads[one->current];
          if (next.ended || chance(2) || (order() > 1 && one->rank > 0 && !chance(8))) continue;
          swapcontext(&one->scheduler, &next.context);
          left -= next.ended;
        }
      } while (progress() != begun && order() < 2);
    }
    idle = progress() == before ? idle + 1 : 0;
    if (idle > 1000 && left > 0) fail("threads wait for each other");
  }
}

template <class P>
int launch_clusters(void (*kernel)(P), dim3 grid, int blocks, int threads, size_t shared, void*, const P& problem) {
  constexpr size_t kStack = 128 * 1024, kMostShared = 227 * 1024;
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) fail("the grid is empty");
  if (grid.x > 0x7FFFFFFFu || grid.y > 65535 || grid.z > 65535) fail("the grid is too large");
  if (threads < 1 || threads > 1024 || shared > kMostShared) fail("the block is too large");
  if (grid.x % blocks != 0) fail("the grid is no multiple of the cluster");
  std::vector<std::unique_ptr<unsigned char[]>> memory;
  for (int i = 0; i < blocks; ++i) memory.emplace_back(new unsigned char[shared + kFirst]);
  for (unsigned z = 0; z < grid.z; ++z) {
    for (unsigned y = 0; y < grid.y; ++y) {
      for (unsigned x = 0; x < grid.x; x += blocks) {
        Cluster cluster;
        cluster.barrier.size = blocks * threads;
        cluster.barrier.given.resize(cluster.barrier.size);
        for (int rank = 0; rank < blocks; ++rank) {
          Block& now = *cluster.blocks.emplace_back(new Block());
          now.cluster = &cluster;
          now.rank = rank;
          now.memory = memory[rank].get();
          now.shared = now.memory + kFirst;
          now.bytes = shared + kFirst;
          now.unpublished.assign(now.bytes / 16 + 1, 0);
          std::memset(now.shared, 0xA5, shared);
          now.index = dim3(x + rank, y, z);
          now.grid = grid;
          now.barrier.size = threads;
          now.barrier.given.resize(threads);
          now.warps.resize((threads + 31) / 32);
          for (auto& warp : now.warps) warp.size = 32, warp.given.resize(32);
          now.fours.resize((threads + 127) / 128);
          now.pending.resize(now.fours.size(), {{}});
          for (auto& four : now.fours) four.size = 128, four.given.resize(128);
          now.body = [&] { kernel(problem); };
          now.threads = std::vector<Thread>(threads);
          for (int i = 0; i < threads; ++i) {
            Thread& made = now.threads[i];
            made.id = i;
            made.stack.reset(new char[kStack]);
            getcontext(&made.context);
            made.context.uc_stack.ss_sp = made.stack.get();
            made.context.uc_stack.ss_size = kStack;
            made.context.uc_link = &now.scheduler;
            makecontext(&made.context, enter, 0);
          }
        }
        run(cluster);
        if (!cluster.copies.empty()) fail("a copy comes when its block has ended");
      }
    }
  }
  return 0;
}

template <class P>
int launch(void (*kernel)(P), dim3 grid, int threads, size_t shared, void* stream, const P& problem) {
  return launch_clusters(kernel, grid, 1, threads, shared, stream, problem);
}

}  // namespace graphopt::gpu

#define threadIdx (graphopt::gpu::thread_index())
#define blockIdx (graphopt::gpu::block_index())
#define gridDim (graphopt::gpu::grid_size())
#define __syncthreads graphopt::gpu::synchronize

inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __int2float_rn(int value) { return static_cast<float>(value); }
inline int __float2int_rn(float value) { return static_cast<int>(std::nearbyint(value)); }

extern "C" {
inline __attribute__((used)) void emulator_announce(const void* first, size_t bytes) {
  graphopt::gpu::ranges().push_back({static_cast<const char*>(first), bytes});
}
inline __attribute__((used)) void emulator_begin(int order) {
  graphopt::gpu::ranges().clear();
  graphopt::gpu::order() = order;
}
}
