// What the CUDA kernel of GatherGemmScatter is given.

#pragma once

#include <cstdint>

// Up to 64 outputs of one block, from its `start`-th on.
struct GroupPart {
  int32_t depth, width, start, column_at, row_at;
  int64_t weight_at;  // of [depth, width]
};

// One call. Everything but `set_ends` and this struct lies on the device.
struct Group {
  const void *y, *x, *weights, *floor;
  void* out;
  const int32_t *columns, *rows;
  const GroupPart* parts;
  const int32_t* set_ends;  // sets of parts that write to different places
  int sets;
  bool covered;  // whether every position of the result belongs to a block
  int64_t count, depth, width, y_step;
};
