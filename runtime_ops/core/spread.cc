#include "spread.h"

#include <algorithm>
#include <cstring>

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

void spread(const Spread& w, int64_t first, int64_t last) {
  if (first >= last || w.inner == 0) return;
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
  call.parallel(w.outer * w.to, std::max<int64_t>(1, kPart / row),
                [&](int64_t first, int64_t last) { spread(w, first, last); });
}

}  // namespace graphopt
