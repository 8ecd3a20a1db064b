// The geometry of Int8Conv: attributes, layouts and sizes, for the kernels of the CPU and of CUDA. A convolution along
// one axis is one over two whose first has one position.

#pragma once

#include <string>
#include <vector>

#include "kernel.h"

namespace graphopt::int8 {

// Sizes of a convolution: x [batch, groups * channels, height, width], y [batch, groups * columns, out_height, out_width].
struct Sizes {
  int64_t batch = 0, groups = 1, channels = 0, height = 1, width = 1;
  int64_t columns = 0, out_height = 1, out_width = 1, kernel_height = 1, kernel_width = 1;
};

struct Window {
  int64_t group = 1;
  int64_t spatial = 2;
  int64_t pad_top = 0, pad_left = 0, pad_bottom = 0, pad_right = 0;
  int64_t stride_height = 1, stride_width = 1, dilation_height = 1, dilation_width = 1;
  bool input_nhwc = false, output_nhwc = false;

  explicit Window(const Info& info)
      : Window(info.integers("pads"), info.integers("strides"), info.integers("dilations"), info.integer("group", 1),
               info.integers("input_perm"), info.integers("output_perm")) {}
  explicit Window(const Inference& info)
      : Window(info.integers("pads"), info.integers("strides"), info.integers("dilations"), info.integer("group", 1),
               info.integers("input_perm"), info.integers("output_perm")) {}

  Window(const std::vector<int64_t>& pads, const std::vector<int64_t>& strides, const std::vector<int64_t>& dilations,
         int64_t groups, const std::vector<int64_t>& input_perm, const std::vector<int64_t>& output_perm)
      : group(groups) {
    for (const auto* given : {&strides, &dilations}) {
      if (!given->empty()) spatial = static_cast<int64_t>(given->size());
    }
    if (!pads.empty()) spatial = static_cast<int64_t>(pads.size()) / 2;
    if (!input_perm.empty()) spatial = static_cast<int64_t>(input_perm.size()) - 2;
    require(spatial == 1 || spatial == 2, "x must have one or two spatial axes");
    require(group >= 1, "group must be positive");
    const auto take = [&](const std::vector<int64_t>& from, int64_t otherwise, const char* what, int64_t least,
                          int64_t* first, int64_t* second) {
      if (!from.empty() && static_cast<int64_t>(from.size()) != spatial) throw Error(std::string(what) + " must have a number for every spatial axis");
      *first = spatial == 2 && !from.empty() ? from[0] : otherwise;
      *second = from.empty() ? otherwise : from.back();
      if (*first < least || *second < least) throw Error(std::string(what) + " are out of range");
    };
    take(strides, 1, "strides", 1, &stride_height, &stride_width);
    take(dilations, 1, "dilations", 1, &dilation_height, &dilation_width);
    require(pads.empty() || static_cast<int64_t>(pads.size()) == 2 * spatial, "pads must have two numbers for every spatial axis");
    const size_t half = pads.size() / 2;
    take({pads.begin(), pads.begin() + half}, 0, "pads", 0, &pad_top, &pad_left);
    take({pads.begin() + half, pads.end()}, 0, "pads", 0, &pad_bottom, &pad_right);
    input_nhwc = last_channels(input_perm, true);
    output_nhwc = last_channels(output_perm, false);
  }

  // Sizes from the shapes of x and w; throws where they do not go together.
  Sizes sizes(const Shape& x, const Shape& w) const {
    require(static_cast<int64_t>(x.size()) == spatial + 2, "x has another rank than its attributes say");
    require(x.size() == w.size(), "x and w must have the same rank");
    Sizes found;
    const size_t channel = input_nhwc ? x.size() - 1 : 1, first = input_nhwc ? 1 : 2;
    found.batch = x[0];
    found.groups = group;
    found.channels = w[1];
    require(x[channel] == w[1] * group, "the channels of x are not those of w times group");
    require(w[0] % group == 0, "the filters of w are no multiple of group");
    found.columns = w[0] / group;
    found.height = spatial == 2 ? x[first] : 1;
    found.width = x[first + spatial - 1];
    found.kernel_height = spatial == 2 ? w[2] : 1;
    found.kernel_width = w.back();
    require(found.kernel_height > 0 && found.kernel_width > 0, "w has no taps");
    found.out_height = steps(found.height + pad_top + pad_bottom, found.kernel_height, dilation_height, stride_height);
    found.out_width = steps(found.width + pad_left + pad_right, found.kernel_width, dilation_width, stride_width);
    return found;
  }

  Shape output(const Sizes& s) const {
    Shape shape = {s.batch};
    if (!output_nhwc) shape.push_back(s.groups * s.columns);
    if (spatial == 2) shape.push_back(s.out_height);
    shape.push_back(s.out_width);
    if (output_nhwc) shape.push_back(s.groups * s.columns);
    return shape;
  }

  // Types and sizes of y; sizes that are not known stay so.
  TypeAndDims output(const TypeAndDims& x, const TypeAndDims& w) const {
    TypeAndDims out;
    out.type = kInt8;
    const size_t rank = static_cast<size_t>(spatial) + 2;
    if (x.dims.size() != rank || w.dims.size() != rank) return out;
    const auto size = [&](size_t axis) {
      const size_t at = input_nhwc ? axis + 1 : axis + 2;
      const Dim &in = x.dims[at], &taps = w.dims[axis + 2];
      const bool tall = spatial == 2 && axis == 0;
      const int64_t pads = tall ? pad_top + pad_bottom : pad_left + pad_right;
      const int64_t dilation = tall ? dilation_height : dilation_width, stride = tall ? stride_height : stride_width;
      if (taps.size == 1 && pads == 0 && stride == 1) return in;  // a symbol stays the same
      if (in.size < 0 || taps.size < 0) return Dim();
      return Dim(steps(in.size + pads, taps.size, dilation, stride));
    };
    out.dims.push_back(x.dims[0]);
    if (!output_nhwc) out.dims.push_back(w.dims[0]);
    for (size_t axis = 0; axis < static_cast<size_t>(spatial); ++axis) out.dims.push_back(size(axis));
    if (output_nhwc) out.dims.push_back(w.dims[0]);
    return out;
  }

 private:
  static int64_t steps(int64_t size, int64_t taps, int64_t dilation, int64_t stride) {
    const int64_t free = size - (dilation * (taps - 1) + 1);
    return free < 0 ? 0 : free / stride + 1;
  }

  bool last_channels(const std::vector<int64_t>& perm, bool input) const {
    if (perm.empty()) return false;
    std::vector<int64_t> first, last;
    for (int64_t i = 0; i < spatial + 2; ++i) first.push_back(i);
    last = input ? std::vector<int64_t>{0, spatial + 1} : std::vector<int64_t>{0};
    for (int64_t i = 0; i < spatial; ++i) last.push_back(i + (input ? 1 : 2));
    if (!input) last.push_back(1);
    if (perm == first) return false;
    require(perm == last, input ? "input_perm must say NCHW or NHWC" : "output_perm must say NCHW or NHWC");
    return true;
  }
};

}  // namespace graphopt::int8
