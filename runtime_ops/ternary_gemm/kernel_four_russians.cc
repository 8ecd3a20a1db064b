// See four_russians.h. In the lanes of a table, row r and row 16 + r are the halves of double word r.

#include "four_russians.h"

#include <algorithm>
#include <cstring>

#include "cpu.h"

#if defined(GRAPHOPT_X86)
#include <immintrin.h>
#endif

namespace graphopt {
namespace ternary {
namespace {

constexpr int kLine = 64, kTile = 16;
constexpr int kMostWeights = 32767 / 128;  // that are not zero, whose sums fit into 16 bits

// Where the sum of four weights lies, or of their opposites: zero first, then by the place of the first weight from the
// last one on, which is 1, then by the weights behind it.
int place(const int (&weights)[FourRussians::kGroup], bool& negative) {
  static constexpr int kFirst[] = {14, 5, 2, 1};
  const int* first = std::find_if(weights, weights + 4, [](int w) { return w != 0; });
  negative = first != weights + 4 && *first < 0;
  if (first == weights + 4) return 0;
  int behind = 0;
  for (const int* w = first + 1; w != weights + 4; ++w) behind = 3 * behind + (negative ? -*w : *w) + 1;
  return kFirst[first - weights] + behind;
}

// VNNI's share, the first panels, is what it gets done meanwhile: one step of four columns for eight rows goes with the
// sum of an output over a chunk, and four with a table; ends of runs of outputs go without.
int64_t panels_for_vnni(int64_t outputs) { return (outputs + 28) / 96; }

}  // namespace

FourRussians::FourRussians(const std::vector<uint8_t>& digits, int64_t outputs, int64_t columns)
    : columns_(columns) {
  multiplied_ = panels_for_vnni(outputs) * kOutputs;
  looked_up_ = outputs - multiplied_;
  const int64_t groups = columns / kGroup, chunks = (groups + kTables - 1) / kTables;
  chunks_.resize(chunks);
  places_.resize(chunks * looked_up_ * kTables);  // zero: the first table's zero
  order_.resize(chunks * looked_up_);
  struct Sum {
    int subtracted = 0, weights = 0;
    std::array<uint16_t, kTables> places{};
  };
  std::vector<Sum> sums(looked_up_);
  std::vector<int> so_far(looked_up_, 0);  // weights that are not zero
  for (int64_t chunk = 0; chunk < chunks; ++chunk) {
    const int tables = static_cast<int>(std::min<int64_t>(kTables, groups - chunk * kTables));
    Chunk& of = chunks_[chunk];
    for (int64_t n = 0; n < looked_up_; ++n) {
      Sum& sum = sums[n] = Sum();
      int added = 0;
      for (int table = 0; table < tables; ++table) {
        const uint8_t* digit = digits.data() + (multiplied_ + n) * columns + (chunk * kTables + table) * kGroup;
        int weights[kGroup];
        for (int i = 0; i < kGroup; ++i) sum.weights += (weights[i] = digit[i] - 1) != 0;
        bool negative;
        const auto at = static_cast<uint16_t>((table * kSums + place(weights, negative)) * kLine);
        sum.places[negative ? kTables - ++sum.subtracted : added++] = at;
      }
      ++of.runs[sum.subtracted];
      of.widen |= so_far[n] + sum.weights > kMostWeights;
    }
    if (of.widen) std::fill(so_far.begin(), so_far.end(), 0);
    std::array<int64_t, kTables + 1> next{};
    for (int i = 0; i < kTables; ++i) next[i + 1] = next[i] + of.runs[i];
    for (int64_t n = 0; n < looked_up_; ++n) {
      const int64_t to = chunk * looked_up_ + next[sums[n].subtracted]++;
      order_[to] = static_cast<uint32_t>(n * kLine);
      std::copy(sums[n].places.begin(), sums[n].places.end(), places_.begin() + to * kTables);
      so_far[n] += sums[n].weights;
    }
  }
}

int64_t FourRussians::room() const {
  const int64_t outputs = (looked_up_ + kTile - 1) / kTile * kTile;
  return columns_ * kRows + kTables * kSums * kLine + outputs * kLine * 3;
}

int64_t FourRussians::index_bytes() const { return places_.size() * 2 + order_.size() * 4; }

#if defined(GRAPHOPT_X86)
#define GRAPHOPT_INSIDE __attribute__((always_inline)) inline
namespace {

GRAPHOPT_AVX512_VNNI GRAPHOPT_INSIDE __m512i load(const void* from) { return _mm512_load_si512(from); }

// Rows become columns of double words.
GRAPHOPT_AVX512_VNNI GRAPHOPT_INSIDE void transpose(__m512i (&r)[16]) {
  __m512i t[16];
#pragma GCC unroll 8
  for (int i = 0; i < 16; i += 2) {
    t[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
    t[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 16; i += 4) {
    r[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
    r[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
    r[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
    r[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    const __m512i a = _mm512_shuffle_i32x4(r[i], r[4 + i], 0x88), b = _mm512_shuffle_i32x4(r[i], r[4 + i], 0xdd);
    const __m512i c = _mm512_shuffle_i32x4(r[8 + i], r[12 + i], 0x88);
    const __m512i d = _mm512_shuffle_i32x4(r[8 + i], r[12 + i], 0xdd);
    t[i] = _mm512_shuffle_i32x4(a, c, 0x88);
    t[4 + i] = _mm512_shuffle_i32x4(b, d, 0x88);
    t[8 + i] = _mm512_shuffle_i32x4(a, c, 0xdd);
    t[12 + i] = _mm512_shuffle_i32x4(b, d, 0xdd);
  }
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) r[i] = t[i];
}

// to[eight rows][four columns][row]: double words.
GRAPHOPT_AVX512_VNNI void arrange(const uint8_t* a, int64_t pitch, int64_t columns, uint8_t* to) {
  for (int64_t k = 0; k < columns; k += 64) {
    const int words = static_cast<int>(std::min<int64_t>(16, (columns - k) / 4));
    const auto mask = static_cast<__mmask16>((1u << words) - 1);
    for (int half = 0; half < 2; ++half) {
      __m512i r[16];
#pragma GCC unroll 16
      for (int i = 0; i < 16; ++i) r[i] = _mm512_maskz_loadu_epi32(mask, a + (half * 16 + i) * pitch + k);
      transpose(r);
      uint8_t* out = to + half * 16 * columns + k * 8;
      for (int i = 0; i < words; ++i) {
        _mm256_store_si256(reinterpret_cast<__m256i*>(out + i * 32), _mm512_castsi512_si256(r[i]));
        _mm256_store_si256(reinterpret_cast<__m256i*>(out + 8 * columns + i * 32), _mm512_extracti64x4_epi64(r[i], 1));
      }
    }
  }
}

// The products that VNNI makes meanwhile: eight rows by a panel, one after the other, in steps of four columns.
class Beside {
 public:
  static constexpr int kHigh = 8;
  static constexpr int kSteps = 4;  // whose weights lie in the same bytes
  static constexpr int kParts = FourRussians::kRows / kHigh;

  struct Sums {
    __m512i sum[kHigh][kTiles];
    __m512i low, high, nibble;
    const uint8_t *a, *weights;
    int64_t left;  // times kSteps, to the end of these products
  };

  Beside(const FourRussians::Product& product, const uint8_t* a, int64_t columns, int64_t panels)
      : product_(product), a_(a), columns_(columns), units_(panels * kParts) {
    begin();
  }

  bool done() const { return unit_ >= units_; }

  GRAPHOPT_AVX512_VNNI GRAPHOPT_INSIDE void resume(Sums& s) const {
#pragma GCC unroll 8
    for (int row = 0; row < kHigh; ++row) {
#pragma GCC unroll 3
      for (int tile = 0; tile < kTiles; ++tile) s.sum[row][tile] = load(sums_[row] + tile * kTile);
    }
    s.low = _mm512_maskz_broadcast_i32x4(0xffff, _mm_load_si128(reinterpret_cast<const __m128i*>(product_.levels->low)));
    s.high =
        _mm512_maskz_broadcast_i32x4(0xffff, _mm_load_si128(reinterpret_cast<const __m128i*>(product_.levels->high)));
    s.nibble = _mm512_set1_epi8(15);
    s.a = at_;
    s.weights = weights_;
    s.left = left_;
  }

  GRAPHOPT_AVX512_VNNI GRAPHOPT_INSIDE void pause(const Sums& s) {
#pragma GCC unroll 8
    for (int row = 0; row < kHigh; ++row) {
#pragma GCC unroll 3
      for (int tile = 0; tile < kTiles; ++tile) _mm512_store_si512(sums_[row] + tile * kTile, s.sum[row][tile]);
    }
    at_ = s.a;
    weights_ = s.weights;
    left_ = s.left;
  }

  // Turns to the next products where these are complete.
  GRAPHOPT_AVX512_VNNI GRAPHOPT_INSIDE void turn(Sums& s) {
    if (s.left > 0) return;
    pause(s);
    next();
    resume(s);
  }

  template <int Step>
  GRAPHOPT_AVX512_VNNI static GRAPHOPT_INSIDE void step(Sums& s) {
    __m512i w[kTiles];
#pragma GCC unroll 3
    for (int tile = 0; tile < kTiles; ++tile) {
      __m512i bytes = _mm512_loadu_si512(s.weights + tile * kLine);
      if (Step >= kSteps / 2) bytes = _mm512_srli_epi16(bytes, 4);
      w[tile] = _mm512_shuffle_epi8(Step % 2 == 0 ? s.low : s.high, _mm512_and_si512(bytes, s.nibble));
    }
#pragma GCC unroll 8
    for (int row = 0; row < kHigh; ++row) {
      int32_t four;
      std::memcpy(&four, s.a + (Step * kHigh + row) * 4, 4);
      const __m512i value = _mm512_set1_epi32(four);
#pragma GCC unroll 3
      for (int tile = 0; tile < kTiles; ++tile) {
        s.sum[row][tile] = _mm512_dpbusd_epi32(s.sum[row][tile], value, w[tile]);
      }
      // Here, and in a register: the compiler would move products together, and what is looked up waits for loads.
      asm volatile("" : "+v"(s.sum[row][0]), "+v"(s.sum[row][1]), "+v"(s.sum[row][2])::"memory");
    }
  }

  GRAPHOPT_AVX512_VNNI static GRAPHOPT_INSIDE void advance(Sums& s) {
    constexpr int kAhead = 4;
    s.a += kSteps * kHigh * 4;
    s.weights += kStep;
#pragma GCC unroll 3
    for (int tile = 0; tile < kTiles; ++tile) __builtin_prefetch(s.weights + kAhead * kStep + tile * kLine);
  }

  // What was not done meanwhile.
  GRAPHOPT_AVX512_VNNI void rest() {
    Sums s;
    resume(s);
    while (!done()) {
      for (; s.left > 0; --s.left) {
        step<0>(s);
        step<1>(s);
        step<2>(s);
        step<3>(s);
        advance(s);
      }
      turn(s);
    }
  }

 private:
  void begin() {
    if (units_ == 0) return;
    std::memset(sums_, 0, sizeof sums_);
    const int64_t unit = std::min(unit_, units_ - 1);  // the last one again, for nothing, until the caller asks `done`
    const int64_t groups = columns_ / 16;
    at_ = a_ + unit % kParts * kHigh * columns_;
    weights_ = product_.packed + unit / kParts * groups * kStep;
    // What will be written is fetched meanwhile.
    for (int row = 0; row < kHigh; ++row) {
      float* y = product_.y + (unit % kParts * kHigh + row) * product_.y_pitch + unit / kParts * kOutputs;
      for (int tile = 0; tile < kTiles; ++tile) __builtin_prefetch(y + tile * kTile, 1);
    }
    left_ = groups;
  }

  __attribute__((noinline)) void next() {
    if (done()) {
      begin();
      return;
    }
    const int64_t n = unit_ / kParts * kOutputs, from = unit_ % kParts * kHigh;
    for (int row = 0; row < kHigh; ++row) {
      vnni().finish(sums_[row], product_.offset + n, product_.factor + n, product_.bias + n, kOutputs,
                    product_.y + (from + row) * product_.y_pitch + n);
    }
    ++unit_;
    begin();
  }

  alignas(64) int32_t sums_[kHigh][kOutputs];
  const FourRussians::Product& product_;
  const uint8_t* a_;
  int64_t columns_, unit_ = 0, units_;
  const uint8_t *at_, *weights_;
  int64_t left_;
};

// Stores take two cycles each; VNNI's products fit between.
template <bool Both>
GRAPHOPT_AVX512_VNNI void fill(const uint8_t* a, int64_t columns, int64_t first, int tables, uint8_t* to,
                               Beside& beside) {
  Beside::Sums s;
  if (Both) beside.resume(s);
  a += first * 32;
  for (int table = 0; table < tables; ++table, a += 32, to += FourRussians::kSums * kLine) {
    if (Both) beside.turn(s);
    const auto eight = [&](int part) GRAPHOPT_AVX512_VNNI {
      return _mm256_load_si256(reinterpret_cast<const __m256i*>(a + part * 8 * columns));
    };
    const auto put = [&](int i, __m512i sum) GRAPHOPT_AVX512_VNNI { _mm512_store_si512(to + i * kLine, sum); };
    const __m512i flip = _mm512_set1_epi8(-128);  // a - 128, with a sign
    const __m512i front = _mm512_xor_si512(flip, _mm512_inserti64x4(_mm512_castsi256_si512(eight(0)), eight(1), 1));
    const __m512i back = _mm512_xor_si512(flip, _mm512_inserti64x4(_mm512_castsi256_si512(eight(2)), eight(3), 1));
    const __m512i a01 = _mm512_mask_blend_epi16(0xaaaaaaaa, front, _mm512_slli_epi32(back, 16));
    const __m512i a23 = _mm512_mask_blend_epi16(0xaaaaaaaa, _mm512_srli_epi32(front, 16), back);
    const __m512i a0 = _mm512_srai_epi16(_mm512_slli_epi16(a01, 8), 8), a1 = _mm512_srai_epi16(a01, 8);
    const __m512i a2 = _mm512_srai_epi16(_mm512_slli_epi16(a23, 8), 8), a3 = _mm512_srai_epi16(a23, 8);
    const __m512i less = _mm512_sub_epi16(a2, a3), more = _mm512_add_epi16(a2, a3);
    put(0, _mm512_setzero_si512());
    put(1, a3);
    put(2, less);
    put(3, a2);
    put(4, more);
    put(5, _mm512_sub_epi16(a1, more));
    put(6, _mm512_sub_epi16(a1, a2));
    put(7, _mm512_sub_epi16(a1, less));
    put(8, _mm512_sub_epi16(a1, a3));
    put(9, a1);
    put(10, _mm512_add_epi16(a1, a3));
    put(11, _mm512_add_epi16(a1, less));
    put(12, _mm512_add_epi16(a1, a2));
    put(13, _mm512_add_epi16(a1, more));
    if (Both) Beside::step<0>(s);
    put(27, a0);
    asm volatile("" ::: "memory");  // the sums so far are read again: there are no registers for them
#pragma GCC unroll 13
    for (int i = 1; i <= 13; ++i) {
      const __m512i sum = load(to + i * kLine);
      put(27 - i, _mm512_sub_epi16(a0, sum));
      put(27 + i, _mm512_add_epi16(a0, sum));
      if (Both && i == 5) Beside::step<1>(s);
      if (Both && i == 9) Beside::step<2>(s);
      if (Both && i == 13) Beside::step<3>(s);
    }
    if (Both) {
      Beside::advance(s);
      --s.left;
    }
  }
  if (Both) {
    beside.turn(s);
    beside.pause(s);
  }
}

struct Looking {
  const uint8_t* tables;
  const uint16_t* places;
  const uint32_t* order;
  uint8_t* sums;
};

// One output: twelve sums, of which the last `Subtracted` are subtracted.
template <int Subtracted>
GRAPHOPT_AVX512_VNNI GRAPHOPT_INSIDE void look_up(Looking& at) {
  uint8_t* to = at.sums + *at.order;
  __m512i sum = load(to);
#pragma GCC unroll 3
  for (int i = 0; i < FourRussians::kTables; i += 4) {
    uint64_t four;
    std::memcpy(&four, at.places + i, 8);
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j, four >>= 16) {
      const __m512i found = load(at.tables + static_cast<uint16_t>(four));
      sum = i + j < FourRussians::kTables - Subtracted ? _mm512_add_epi16(sum, found) : _mm512_sub_epi16(sum, found);
      asm volatile("" : "+v"(sum));  // as it stands: every sum is an operand in memory, and one register suffices
    }
  }
  _mm512_store_si512(to, sum);
  at.places += FourRussians::kTables;
  ++at.order;
}

template <bool Both, int Subtracted = 0>
GRAPHOPT_AVX512_VNNI GRAPHOPT_INSIDE void look_up_runs(const int32_t* runs, Looking& at, Beside& beside,
                                                       Beside::Sums& s) {
  constexpr int kAhead = 2048;  // bytes of the index that are asked for before they are needed
  int64_t left = runs[Subtracted];
  while (Both && left >= Beside::kSteps) {
    const int64_t count = std::min(left / Beside::kSteps, s.left);
    left -= count * Beside::kSteps;
    s.left -= count;
    for (int64_t i = 0; i < count; ++i) {
      look_up<Subtracted>(at);
      Beside::step<0>(s);
      look_up<Subtracted>(at);
      Beside::step<1>(s);
      look_up<Subtracted>(at);
      Beside::step<2>(s);
      look_up<Subtracted>(at);
      Beside::step<3>(s);
      Beside::advance(s);
      __builtin_prefetch(reinterpret_cast<const char*>(at.places) + kAhead);
      __builtin_prefetch(reinterpret_cast<const char*>(at.places) + kAhead + kLine);
    }
    beside.turn(s);
  }
  for (; left > 0; --left) look_up<Subtracted>(at);
  if constexpr (Subtracted < FourRussians::kTables) look_up_runs<Both, Subtracted + 1>(runs, at, beside, s);
}

template <bool Both>
GRAPHOPT_AVX512_VNNI __attribute__((noinline)) void look_up_all(const int32_t* runs, Looking at, Beside& beside) {
  Beside::Sums s;
  if (Both) beside.resume(s);
  look_up_runs<Both>(runs, at, beside, s);
  if (Both) beside.pause(s);
}

// wide[output][row] += sums, which are zero then.
GRAPHOPT_AVX512_VNNI void widen(int64_t outputs, uint8_t* sums, uint8_t* wide) {
  for (int64_t n = 0; n < outputs; ++n, sums += kLine, wide += 2 * kLine) {
    const __m512i sum = load(sums);
    const __m512i front = _mm512_srai_epi32(_mm512_slli_epi32(sum, 16), 16), back = _mm512_srai_epi32(sum, 16);
    _mm512_store_si512(wide, _mm512_add_epi32(load(wide), front));
    _mm512_store_si512(wide + kLine, _mm512_add_epi32(load(wide + kLine), back));
    _mm512_store_si512(sums, _mm512_setzero_si512());
  }
}

// Of `outputs` from `first` on.
GRAPHOPT_AVX512_VNNI void finish(const FourRussians::Product& product, int64_t first, int64_t outputs,
                                 const uint8_t* sums, const uint8_t* wide) {
  const int most = product.levels->most;
  alignas(64) int32_t rows[16][16];
  for (int64_t n = 0; n < outputs; n += kTile) {
    const int count = static_cast<int>(std::min<int64_t>(kTile, outputs - n));
    for (int half = 0; half < 2; ++half) {
      if (n + kTile < outputs) {
        for (int i = 0; i < 16; ++i) {
          __builtin_prefetch(product.y + (half * 16 + i) * product.y_pitch + first + n + kTile, 1);
        }
      }
      __m512i r[16];
#pragma GCC unroll 16
      for (int i = 0; i < 16; ++i) {
        const __m512i sum = load(sums + (n + i) * kLine);
        const __m512i last = _mm512_srai_epi32(half == 0 ? _mm512_slli_epi32(sum, 16) : sum, 16);
        r[i] = _mm512_add_epi32(load(wide + ((n + i) * 2 + half) * kLine), last);
      }
      transpose(r);
      if (most != 1) {
#pragma GCC unroll 16
        for (int i = 0; i < 16; ++i) r[i] = _mm512_mullo_epi32(r[i], _mm512_set1_epi32(most));
      }
#pragma GCC unroll 16
      for (int i = 0; i < 16; ++i) _mm512_store_si512(rows[i], r[i]);
      for (int i = 0; i < 16; ++i) {
        vnni().finish(rows[i], product.offset + first + n, product.factor + first + n, product.bias + first + n, count,
                      product.y + (half * 16 + i) * product.y_pitch + first + n);
      }
    }
  }
}

}  // namespace

GRAPHOPT_AVX512_VNNI void FourRussians::multiply(const Product& product, uint8_t* memory) const {
  const int64_t outputs = (looked_up_ + kTile - 1) / kTile * kTile;
  uint8_t* a = memory;
  uint8_t* tables = a + columns_ * kRows;
  uint8_t* sums = tables + kTables * kSums * kLine;
  uint8_t* wide = sums + outputs * kLine;
  std::memset(sums, 0, outputs * kLine * 3);
  arrange(product.a, product.a_pitch, columns_, a);
  Beside beside(product, a, columns_, multiplied_ / kOutputs);
  for (size_t chunk = 0; chunk < chunks_.size(); ++chunk) {
    const int64_t first = chunk * kTables, at = chunk * looked_up_;
    const int count = static_cast<int>(std::min<int64_t>(kTables, columns_ / kGroup - first));
    if (chunks_[chunk].widen) widen(looked_up_, sums, wide);
    (beside.done() ? fill<false> : fill<true>)(a, columns_, first, count, tables, beside);
    (beside.done() ? look_up_all<false> : look_up_all<true>)(
        chunks_[chunk].runs.data(), Looking{tables, places_.data() + at * kTables, order_.data() + at, sums}, beside);
  }
  beside.rest();
  finish(product, multiplied_, looked_up_, sums, wide);
}
#undef GRAPHOPT_INSIDE
#else
void FourRussians::multiply(const Product&, uint8_t*) const {}
#endif

}  // namespace ternary
}  // namespace graphopt
