// Positions along one axis: what Gather, Scatter and ScatterAdd have in common before anything is moved.

#pragma once

#include <string>
#include <vector>

#include "kernel.h"

namespace graphopt {

// A tensor [outer, size, inner] around one of its axes.
struct Around {
  int64_t axis, outer, size, inner;
};

// Throws unless the tensor has the axis; `what` names the tensor.
inline Around around(const Shape& shape, int64_t axis, const char* what) {
  const auto rank = static_cast<int64_t>(shape.size());
  const int64_t at = axis < 0 ? axis + rank : axis;
  if (at < 0 || at >= rank) {
    throw Error(std::string("axis ") + std::to_string(axis) + " is outside of " + what + ", which has " +
                std::to_string(rank) + " axes");
  }
  const auto where = static_cast<size_t>(at);
  return {at, product(shape, 0, where), shape[where], product(shape, where + 1)};
}

// Which number goes where: [size], -1 where none does.
// Throws where an index is outside of [0, size), or there twice: then the result would depend on the order.
inline std::vector<int64_t> places(const int64_t* indices, int64_t count, int64_t size) {
  std::vector<int64_t> found(static_cast<size_t>(size), -1);
  for (int64_t i = 0; i < count; ++i) {
    if (indices[i] < 0 || indices[i] >= size) {
      throw Error("indices[" + std::to_string(i) + "] is " + std::to_string(indices[i]) + ", outside of [0, " +
                  std::to_string(size) + ")");
    }
    int64_t& place = found[static_cast<size_t>(indices[i])];
    if (place >= 0) throw Error("indices holds " + std::to_string(indices[i]) + " twice; it must be distinct");
    place = i;
  }
  return found;
}

// Throws where an index of a gather is beyond `size`; a negative one stands for the fill.
inline void check_gathered(const int64_t* indices, int64_t count, int64_t size) {
  for (int64_t i = 0; i < count; ++i) {
    if (indices[i] >= size) {
      throw Error("indices[" + std::to_string(i) + "] is " + std::to_string(indices[i]) + ", the axis of data has " +
                  std::to_string(size) + " positions");
    }
  }
}

// Throws unless a tensor has one axis.
inline void check_flat(const Tensor& tensor, const char* what) {
  if (tensor.rank() != 1) {
    throw Error(std::string(what) + " has " + std::to_string(tensor.rank()) + " axes; it must have one");
  }
}

// Throws unless the fill is one number or one for each of `size` positions.
inline void check_fill(const Tensor& fill, int64_t size) {
  if (fill.rank() > 1 || (fill.count() != 1 && fill.count() != size)) {
    throw Error("fill holds " + std::to_string(fill.count()) + " numbers; it must hold one, or one for each of " +
                std::to_string(size) + " positions");
  }
}

// Types and shapes: input 0's, but for the axis, which is as long as the flat input `lengths`.
inline void infer_along(Inference& inference, size_t lengths) {
  TypeAndDims out = inference.input(0);
  const TypeAndDims found = inference.input(lengths);
  int64_t axis = inference.integer("axis", 0);
  if (axis < 0) axis += static_cast<int64_t>(out.dims.size());
  if (axis < 0 || axis >= static_cast<int64_t>(out.dims.size())) return;
  out.dims[static_cast<size_t>(axis)] = found.dims.size() == 1 ? found.dims[0] : Dim();
  inference.output(0, out);
}

}  // namespace graphopt
