// The launcher that Gather and Scatter share; defined in gather/kernel.cu.

#pragma once

#include <cstdint>

// data [outer, from, inner], out [outer, to, inner]; `map` [to] holds numbers of 4 or 8 bytes (`place`), those outside
// of [0, from) stand for the fill, of which there is one number or (`fills` > 1) `to`. `width`: bytes of a number.
// Returns a cudaError_t.
extern "C" int graphopt_cuda_spread(int width, int place, const void* data, const void* map, const void* fill,
                                    void* out, int64_t from, int64_t to, int64_t outer, int64_t inner, int64_t fills,
                                    void* stream);
