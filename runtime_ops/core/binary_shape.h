// The sizes of a two-dimensional convolution, for the kernels of binary convolutions and their rule for shapes.

#pragma once

#include <algorithm>

#include "kernel.h"

namespace graphopt::binary {

// Attributes. `pads`: top, left, bottom, right.
struct Window {
  int64_t channels = 0;  // of the input, in a group
  int64_t group = 1;
  Shape strides{1, 1}, dilations{1, 1}, pads{0, 0, 0, 0};

  template <class Source>  // Info or Inference
  static Window of(const Source& source) {
    Window window;
    window.channels = source.integer("channels", -1);
    window.group = source.integer("group", 1);
    const auto take = [&](const char* name, Shape& into) {
      const Shape found = source.integers(name);
      if (found.empty()) return;
      if (found.size() != into.size()) {
        throw Error(std::string(name) + " must hold " + std::to_string(into.size()) + " numbers");
      }
      into = found;
    };
    take("strides", window.strides);
    take("dilations", window.dilations);
    take("pads", window.pads);
    const auto least = [](const Shape& all) { return *std::min_element(all.begin(), all.end()); };
    require(window.group >= 1, "group must be 1 or more");
    require(least(window.strides) >= 1, "strides must be 1 or more");
    require(least(window.dilations) >= 1, "dilations must be 1 or more");
    require(least(window.pads) >= 0, "pads must be 0 or more");
    return window;
  }

  // The size of the output along an axis (0: height, 1: width); below 1 where the window does not fit.
  int64_t out(int axis, int64_t in, int64_t kernel) const {
    const int64_t room = in + pads[axis] + pads[axis + 2] - dilations[axis] * (kernel - 1) - 1;
    return room < 0 ? 0 : room / strides[axis] + 1;
  }
};

}  // namespace graphopt::binary
