// Tensor cores: here every lane of a warp has all of a fragment and does all of the work, which comes to the same.

#pragma once

#include "half.h"

namespace nvcuda::wmma {

struct matrix_a;
struct matrix_b;
struct accumulator;
struct row_major;
enum layout_t { mem_row_major };

template <class Use, int M, int N, int K, class T, class Layout = void>
struct fragment {
  float numbers[16][16];
};

inline float number(float x) { return x; }
inline float number(graphopt::Half x) { return graphopt::to_float(x); }
inline float number(graphopt::Bfloat16 x) { return graphopt::to_float(x); }

inline void need(const void* from, unsigned step, size_t size) {
  if (reinterpret_cast<uintptr_t>(from) % 32 != 0 || step * size % 16 != 0) std::abort();  // as the instructions ask for
}

template <class F>
void fill_fragment(F& to, float value) {
  for (auto& row : to.numbers) {
    for (float& one : row) one = value;
  }
}

template <class F, class T>
void load_matrix_sync(F& to, const T* from, unsigned step) {
  need(from, step, sizeof(T));
  for (int i = 0; i < 16; ++i) {
    for (int j = 0; j < 16; ++j) to.numbers[i][j] = number(from[i * step + j]);
  }
}

template <class D, class A, class B>
void mma_sync(D& d, const A& a, const B& b, const D& c) {
  for (int i = 0; i < 16; ++i) {
    for (int j = 0; j < 16; ++j) {
      float sum = c.numbers[i][j];
      for (int k = 0; k < 16; ++k) sum += a.numbers[i][k] * b.numbers[k][j];
      d.numbers[i][j] = sum;
    }
  }
}

template <class F>
void store_matrix_sync(float* to, const F& from, unsigned step, layout_t) {
  need(to, step, sizeof(float));
  for (int i = 0; i < 16; ++i) {
    for (int j = 0; j < 16; ++j) to[i * step + j] = from.numbers[i][j];
  }
}

}  // namespace nvcuda::wmma
