#include "spread.h"

#include <algorithm>
#include <cstring>

#include "cpu.h"
#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace graphopt {
namespace {

constexpr int64_t kPart = 1 << 16;  // bytes that are worth a thread's while

template <class T>
void fill_row(T* out, T value, int64_t count) {
  std::fill(out, out + count, value);
}

// Rows of one number: what is read is chosen without a jump, for masks are irregular.
template <class T>
void numbers(const Spread& w, int64_t first, int64_t last) {
  const auto* fill = static_cast<const T*>(w.fill);
  const int64_t step = w.fills == 1 ? 0 : 1;
  int64_t o = first / w.to, j = first % w.to;
  for (int64_t at = first; at < last; ++o, j = 0) {
    const auto* source = static_cast<const T*>(w.data) + o * w.from;
    auto* target = static_cast<T*>(w.out) + o * w.to;
    const int64_t end = std::min(w.to, j + (last - at));
    at += end - j;
    for (; j < end; ++j) {
      const int64_t i = w.map[j];
      const T* place = i < 0 ? fill + j * step : source + i;
      target[j] = *place;
    }
  }
}

#if defined(GRAPHOPT_X86)
// Lines [first, last) of the outer axes; see Ranks. Nothing beyond a line is read or written.
GRAPHOPT_AVX512 void lines_in_order(const Spread& w, int64_t first, int64_t last) {
  const auto* fill = static_cast<const uint32_t*>(w.fill);
  for (int64_t o = first; o < last; ++o) {
    const auto* source = static_cast<const uint32_t*>(w.data) + o * w.from;
    auto* target = static_cast<uint32_t*>(w.out) + o * w.to;
    for (int64_t j = 0, block = 0; j < w.to; j += 16, ++block) {
      const auto inside = static_cast<__mmask16>(w.to - j >= 16 ? 0xffff : (1 << (w.to - j)) - 1);
      const __mmask16 there = w.ranks->there[static_cast<size_t>(block)];
      const auto read = static_cast<__mmask16>((1u << __builtin_popcount(there)) - 1);
      const __m512i numbers = _mm512_maskz_loadu_epi32(read, source + w.ranks->before[static_cast<size_t>(block)]);
      const __m512i fills =
          w.fills == 1 ? _mm512_set1_epi32(static_cast<int>(*fill)) : _mm512_maskz_loadu_epi32(inside, fill + j);
      _mm512_mask_storeu_epi32(target + j, inside, _mm512_mask_expand_epi32(fills, there, numbers));
    }
  }
}

GRAPHOPT_AVX512 void add_lines(const Ranks& ranks, const float* data, float* out, int64_t to) {
  for (int64_t j = 0, block = 0; j < to; j += 16, ++block) {
    const __mmask16 there = ranks.there[static_cast<size_t>(block)];
    const auto read = static_cast<__mmask16>((1u << __builtin_popcount(there)) - 1);
    const __m512 numbers = _mm512_maskz_loadu_ps(read, data + ranks.before[static_cast<size_t>(block)]);
    const __m512 old = _mm512_maskz_loadu_ps(there, out + j);
    _mm512_mask_storeu_ps(out + j, there, _mm512_add_ps(old, _mm512_maskz_expand_ps(there, numbers)));
  }
}
#endif

// Rows of more: neighbours that stay neighbours are copied at once.
template <class T>
void rows(const Spread& w, int64_t first, int64_t last) {
  const auto* fill = static_cast<const T*>(w.fill);
  const int64_t step = w.fills == 1 ? 0 : 1;
  int64_t o = first / w.to, j = first % w.to;
  for (int64_t at = first; at < last; ++o, j = 0) {
    const auto* source = static_cast<const T*>(w.data) + o * w.from * w.inner;
    auto* target = static_cast<T*>(w.out) + o * w.to * w.inner;
    const int64_t end = std::min(w.to, j + (last - at));
    at += end - j;
    while (j < end) {
      const int64_t i = w.map[j];
      if (i < 0) {
        fill_row(target + j * w.inner, fill[j * step], w.inner);
        ++j;
        continue;
      }
      int64_t run = 1;
      while (j + run < end && w.map[j + run] == i + run) ++run;
      std::memcpy(target + j * w.inner, source + i * w.inner, static_cast<size_t>(run * w.inner) * sizeof(T));
      j += run;
    }
  }
}

template <class T>
void move(const Spread& w, int64_t first, int64_t last) {
  if (w.inner == 1) {
    numbers<T>(w, first, last);
  } else {
    rows<T>(w, first, last);
  }
}

}  // namespace

Ranks ranks_of(const int64_t* map, int64_t to, size_t width) {
  Ranks found;
  if (width != 4 || cpu() < Cpu::kAvx512) return found;
  found.there.assign(static_cast<size_t>((to + 15) / 16), 0);
  int32_t count = 0;
  for (int64_t j = 0; j < to; ++j) {
    if (j % 16 == 0) found.before.push_back(count);
    if (map[j] < 0) continue;
    if (map[j] != count || count == INT32_MAX) return {};
    found.there[static_cast<size_t>(j / 16)] |= static_cast<uint16_t>(1u << (j % 16));
    ++count;
  }
  return found;
}

void add_in_order(const Ranks& ranks, const float* data, float* out, int64_t to) {
#if defined(GRAPHOPT_X86)
  add_lines(ranks, data, out, to);
#else
  (void)ranks, (void)data, (void)out, (void)to;
#endif
}

void spread(const Spread& w, int64_t first, int64_t last) {
  if (first >= last || w.inner == 0) return;
#if defined(GRAPHOPT_X86)
  if (w.ranks != nullptr && first % w.to == 0 && last % w.to == 0) return lines_in_order(w, first / w.to, last / w.to);
#endif
  switch (w.width) {
    case 1:
      return move<uint8_t>(w, first, last);
    case 2:
      return move<uint16_t>(w, first, last);
    case 4:
      return move<uint32_t>(w, first, last);
    default:
      return move<uint64_t>(w, first, last);
  }
}

void spread(Call& call, const Spread& w) {
  const auto row = std::max<int64_t>(1, w.inner * static_cast<int64_t>(w.width));
  constexpr int64_t kLines = 4;  // from how many on it is worth looking at the map first
  const Ranks ranks = w.inner == 1 && w.outer >= kLines ? ranks_of(w.map, w.to, w.width) : Ranks{};
  if (ranks.empty()) {
    call.parallel(w.outer * w.to, std::max<int64_t>(1, kPart / row),
                  [&](int64_t first, int64_t last) { spread(w, first, last); });
    return;
  }
  Spread lines = w;
  lines.ranks = &ranks;
  call.parallel(w.outer, std::max<int64_t>(1, kPart / (row * w.to)),
                [&](int64_t first, int64_t last) { spread(lines, first * w.to, last * w.to); });
}

}  // namespace graphopt
