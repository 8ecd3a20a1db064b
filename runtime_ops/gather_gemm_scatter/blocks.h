// The blocks of a weight: which columns each reads, which rows it adds to.

#pragma once

#include <algorithm>
#include <iterator>
#include <string>
#include <vector>

#include "kernel.h"

namespace graphopt {

// y[rows] += x[columns] W. `weights` is [columns, rows], as it is stored.
struct Block {
  std::vector<int64_t> columns, rows;       // without those that are absent
  std::vector<int64_t> from_column, from_row;  // where they stand in the stored weight
};

struct Blocks {
  std::vector<Block> blocks;
  int64_t most_column = -1, most_row = -1;
  int64_t depth = 0, width = 0;  // of a stored weight
  // Sets of blocks that share no row: those of a set may be added at the same time.
  std::vector<std::vector<int64_t>> sets;
};

namespace blocks_detail {

inline std::vector<int64_t> present(const Tensor& tensor, int64_t block, std::vector<int64_t>& from, const char* what) {
  std::vector<int64_t> found;
  const int64_t count = tensor.shape[1];
  for (int64_t i = 0; i < count; ++i) {
    const int64_t index = tensor.as<int64_t>()[block * count + i];
    if (index < 0) continue;
    found.push_back(index);
    from.push_back(i);
  }
  std::vector<int64_t> sorted = found;
  std::sort(sorted.begin(), sorted.end());
  if (std::adjacent_find(sorted.begin(), sorted.end()) != sorted.end()) {
    throw Error(std::string(what) + " of block " + std::to_string(block) + " holds a position twice");
  }
  return found;
}

inline bool overlap(std::vector<int64_t> a, std::vector<int64_t> b) {
  std::sort(a.begin(), a.end());
  std::sort(b.begin(), b.end());
  std::vector<int64_t> both;
  std::set_intersection(a.begin(), a.end(), b.begin(), b.end(), std::back_inserter(both));
  return !both.empty();
}

}  // namespace blocks_detail

// columns [blocks, depth], rows [blocks, width], weights [blocks, depth, width]; a negative position is absent.
// Throws where the shapes do not fit, a block has a position twice, or two blocks hold a weight for the same place.
inline Blocks read_blocks(const Tensor& columns, const Tensor& rows, const Tensor& weights) {
  require(columns.rank() == 2, "columns must be [blocks, positions]");
  require(rows.rank() == 2, "rows must be [blocks, positions]");
  require(weights.rank() == 3, "weights must be [blocks, columns, rows]");
  const int64_t count = columns.shape[0];
  require(rows.shape[0] == count && weights.shape[0] == count, "columns, rows and weights differ in their blocks");
  require(weights.shape[1] == columns.shape[1], "weights has another number of columns than columns");
  require(weights.shape[2] == rows.shape[1], "weights has another number of rows than rows");
  Blocks found;
  found.depth = columns.shape[1];
  found.width = rows.shape[1];
  for (int64_t b = 0; b < count; ++b) {
    Block block;
    block.columns = blocks_detail::present(columns, b, block.from_column, "columns");
    block.rows = blocks_detail::present(rows, b, block.from_row, "rows");
    for (int64_t column : block.columns) found.most_column = std::max(found.most_column, column);
    for (int64_t row : block.rows) found.most_row = std::max(found.most_row, row);
    for (size_t other = 0; other < found.blocks.size(); ++other) {
      if (blocks_detail::overlap(block.rows, found.blocks[other].rows) &&
          blocks_detail::overlap(block.columns, found.blocks[other].columns)) {
        throw Error("blocks " + std::to_string(other) + " and " + std::to_string(b) + " hold weights for the same place");
      }
    }
    size_t set = 0;
    for (; set < found.sets.size(); ++set) {
      bool free = true;
      for (int64_t other : found.sets[set]) {
        free = free && !blocks_detail::overlap(block.rows, found.blocks[static_cast<size_t>(other)].rows);
      }
      if (free) break;
    }
    if (set == found.sets.size()) found.sets.emplace_back();
    found.sets[set].push_back(b);
    found.blocks.push_back(std::move(block));
  }
  return found;
}

// The shapes of one call: x [..., depth], y [..., rows] or [rows]; returns that of the result.
inline Shape product_shape(const Tensor& y, const Tensor& x, const Blocks& blocks) {
  require(x.rank() >= 2, "x must have two axes or more");
  require(y.rank() >= 1, "y must have an axis");
  if (blocks.most_column >= x.shape.back()) {
    throw Error("columns holds " + std::to_string(blocks.most_column) + ", the last axis of x has " +
                std::to_string(x.shape.back()) + " positions");
  }
  if (blocks.most_row >= y.shape.back()) {
    throw Error("rows holds " + std::to_string(blocks.most_row) + ", the last axis of y has " +
                std::to_string(y.shape.back()) + " positions");
  }
  Shape shape = x.shape;
  shape.back() = y.shape.back();
  require(y.rank() == 1 || y.shape == shape, "y must be as large as x but for the last axis, or have that one alone");
  return shape;
}

}  // namespace graphopt
