// GatherGemmScatter on the CPU: a few rows of x at a time, whose columns are gathered into a small tile that stays in
// the cache, times each block's weights, added to where they belong. Weights are packed when the kernel is made. All is
// computed in float32: sums for results of 16 bits are kept beside them, and rounded once.

#include <algorithm>
#include <cstring>

#include "blocks.h"
#include "product.h"
#include "schema.h"
#include "widen.h"

namespace graphopt {
namespace {

constexpr int64_t kTile = 1 << 15;   // numbers of x that are gathered at once: 128 KiB
constexpr int64_t kPart = 1 << 16;   // multiply-adds that are worth a thread's while

struct Packed {
  std::vector<int32_t> columns, rows;
  std::vector<char> together;  // of each panel: whether its rows lie side by side
  std::vector<float> weights;  // [panels, columns, 16]
  bool run = false;            // whether the columns lie side by side
  int64_t depth() const { return static_cast<int64_t>(columns.size()); }
  int64_t panels() const { return (static_cast<int64_t>(rows.size()) + kPanel - 1) / kPanel; }
};

bool side_by_side(const int32_t* first, int64_t count) {
  for (int64_t i = 1; i < count; ++i) {
    if (first[i] != first[0] + i) return false;
  }
  return true;
}

Packed pack(const Block& block, const float* weights, int64_t b, const Blocks& all) {
  Packed packed;
  packed.columns.assign(block.columns.begin(), block.columns.end());
  packed.rows.assign(block.rows.begin(), block.rows.end());
  packed.run = side_by_side(packed.columns.data(), packed.depth());
  packed.weights.resize(static_cast<size_t>(packed.panels() * packed.depth() * kPanel));
  const auto width = static_cast<int64_t>(packed.rows.size());
  for (int64_t p = 0; p < packed.panels(); ++p) {
    const int64_t there = std::min<int64_t>(kPanel, width - p * kPanel);
    packed.together.push_back(side_by_side(packed.rows.data() + p * kPanel, there));
    for (int64_t k = 0; k < packed.depth(); ++k) {
      const auto column = block.from_column[static_cast<size_t>(k)];
      for (int64_t n = 0; n < there; ++n) {
        const auto row = block.from_row[static_cast<size_t>(p * kPanel + n)];
        packed.weights[static_cast<size_t>((p * packed.depth() + k) * kPanel + n)] =
            weights[(b * all.depth + column) * all.width + row];
      }
    }
  }
  return packed;
}

class GatherGemmScatter : public Kernel {
 public:
  explicit GatherGemmScatter(const Info& info) {
    const Tensor columns = info.constant(2), rows = info.constant(3), weights = info.constant(4);
    require(columns.present() && rows.present() && weights.present(),
            "columns, rows and weights must be initializers: they are packed when the model is loaded");
    about_ = read_blocks(columns, rows, weights);
    std::vector<float> wide;
    const float* numbers = weights.as<float>();
    if (weights.type != kFloat) {
      wide.resize(static_cast<size_t>(weights.count()));
      widening(weights.type).widen(weights.as<uint16_t>(), weights.count(), wide.data());
      numbers = wide.data();
    }
    for (size_t b = 0; b < about_.blocks.size(); ++b) {
      packed_.push_back(pack(about_.blocks[b], numbers, static_cast<int64_t>(b), about_));
      work_ += packed_.back().depth() * packed_.back().panels() * kPanel;
    }
  }

  void compute(Call& call) override {
    const Tensor y = call.input(0), x = call.input(1), floor = call.input(5);
    const Shape shape = product_shape(y, x, about_);
    require(!floor.present() || floor.count() == 1, "floor must hold one number");
    const Tensor out = call.output(0, shape);
    const int64_t depth = x.shape.back(), width = shape.back(), count = width == 0 ? 0 : out.count() / width;
    if (count == 0) return;
    One one{x.data, y.data, out.data, nullptr, nullptr, depth, width, y.rank() == 1 && shape.size() != 1 ? 0 : width,
            product_for_this_processor()};
    Widening halves{};
    float least = 0;
    if (x.type != kFloat) {
      halves = widening(x.type);
      one.halves = &halves;
    }
    if (floor.present()) {
      if (one.halves != nullptr) {
        halves.widen(floor.as<uint16_t>(), 1, &least);
      } else {
        least = *floor.as<float>();
      }
      one.floor = &least;
    }
    // Parts are whole tiles, and several, for each part reads all weights.
    const int64_t high = one.product.rows, tiles = (count + high - 1) / high;
    const int64_t grain = std::max(kTiles, kPart / std::max<int64_t>(1, (work_ + width) * high));
    if (tiles >= 2 * grain || about_.sets.size() != 1) {
      call.parallel(tiles, grain, [&](int64_t first, int64_t last) {
        all(one, first * high, std::min(count, last * high));
      });
      return;
    }
    // Few rows of x: the blocks are shared out instead, in parts of several panels; no two add to the same place.
    const Lines lines = begin(one, 0, count);
    std::vector<Part> parts;
    for (const Packed& block : packed_) {
      for (int64_t p = 0; p < block.panels(); p += kShare) parts.push_back({&block, p, std::min(kShare, block.panels() - p)});
    }
    const int64_t each = std::max<int64_t>(1, kPart * static_cast<int64_t>(parts.size()) / std::max<int64_t>(1, work_ * count));
    call.parallel(static_cast<int64_t>(parts.size()), each, [&](int64_t first, int64_t last) {
      for (int64_t i = first; i < last; ++i) {
        const Part& part = parts[static_cast<size_t>(i)];
        block(one, *part.block, part.panel, part.panels, lines);
      }
    });
    end(one, lines);
  }

 private:
  static constexpr int64_t kShare = 8;  // panels
  static constexpr int64_t kTiles = 8;

  struct One {
    const void *x, *y;
    void* out;
    const float* floor;      // null where there is none
    const Widening* halves;  // null where the numbers are floats already
    int64_t depth, width, y_step;
    Product product;
  };

  // Rows [first, last) of x, and what is added up for them, [last - first, width]: the result, or floats beside it.
  struct Lines {
    int64_t first, last;
    float* sums;
  };

  struct Part {
    const Packed* block;
    int64_t panel, panels;
  };

  // Everything for rows [first, last) of x, so few at a time that the results stay in the cache.
  void all(const One& one, int64_t first, int64_t last) const {
    const int64_t step = std::max<int64_t>(one.product.rows, kTile / std::max<int64_t>(1, one.width) / one.product.rows * one.product.rows);
    for (int64_t at = first; at < last; at += step) {
      const int64_t until = std::min(last, at + step);
      const Lines lines = begin(one, at, until);
      for (const Packed& packed : packed_) block(one, packed, 0, packed.panels(), lines);
      end(one, lines);
    }
  }

  static Lines begin(const One& one, int64_t first, int64_t last) {
    if (one.halves == nullptr) {
      float* sums = static_cast<float*>(one.out) + first * one.width;
      const auto* y = static_cast<const float*>(one.y) + first * one.y_step;
      for (int64_t i = 0; one.out != one.y && i < last - first; ++i) {
        std::memcpy(sums + i * one.width, y + i * one.y_step, static_cast<size_t>(one.width) * sizeof(float));
      }
      return {first, last, sums};
    }
    static thread_local std::vector<float> kept;  // of the thread that begins; others may add to it meanwhile
    const int64_t count = (last - first) * one.width;
    if (static_cast<int64_t>(kept.size()) < count) kept.resize(static_cast<size_t>(count));
    const auto* y = static_cast<const uint16_t*>(one.y) + first * one.y_step;
    one.halves->widen(y, one.y_step == 0 ? one.width : count, kept.data());
    for (int64_t at = one.width; one.y_step == 0 && at < count; at += one.width) {
      std::copy_n(kept.data(), one.width, kept.data() + at);
    }
    return {first, last, kept.data()};
  }

  static void end(const One& one, const Lines& lines) {
    const int64_t count = (lines.last - lines.first) * one.width;
    if (one.floor != nullptr) one.product.lift(lines.sums, *one.floor, count);
    if (one.halves == nullptr) return;
    one.halves->narrow(lines.sums, count, static_cast<uint16_t*>(one.out) + lines.first * one.width);
  }

  // Panels [panel, panel + panels) of a block.
  static void block(const One& one, const Packed& packed, int64_t panel, int64_t panels, const Lines& lines) {
    const int64_t depth = packed.depth(), first = lines.first, last = lines.last;
    if (depth == 0 || panels == 0) return;
    const int64_t high = one.product.rows;
    const int64_t step = std::max(high, kTile / depth / high * high);
    thread_local std::vector<float> gathered;  // [tiles, depth, high]
    gathered.resize(static_cast<size_t>((std::min(step, last - first) + high - 1) / high * high * depth));
    for (int64_t at = first; at < last; at += step) {
      const int64_t until = std::min(last, at + step);
      for (int64_t m = at; m < until; m += high) {
        gather(one, packed, m, std::min(high, until - m), gathered.data() + (m - at) * depth);
      }
      for (int64_t p = panel; p < panel + panels;) {
        int64_t across = 1;
        for (int64_t m = at; m < until; m += high) {
          const int64_t rows = std::min(high, until - m), left = panel + panels - p;
          const Product& product = one.product;
          if (until - at <= product.few_rows && left >= product.few) {
            across = product.few;
          } else {
            across = left >= product.panels ? product.panels : 1;
          }
          float sums[kMostSums];
          product.run(gathered.data() + (m - at) * depth, rows, packed.weights.data() + p * depth * kPanel, across, depth,
                      sums);
          scatter(one, packed, p, across, rows, sums, lines.sums + (m - first) * one.width);
        }
        p += across;
      }
    }
  }

  // to[k, i] = x[m + i, columns[k]]
  static void gather(const One& one, const Packed& packed, int64_t m, int64_t rows, float* to) {
    if (one.halves == nullptr) return turn<float>(one, packed, m, rows, to);
    thread_local std::vector<uint16_t> turned;
    turned.resize(static_cast<size_t>(packed.depth() * one.product.rows));
    turn<uint16_t>(one, packed, m, rows, turned.data());
    one.halves->widen(turned.data(), packed.depth() * one.product.rows, to);
  }

  template <class T>
  static void turn(const One& one, const Packed& packed, int64_t m, int64_t rows, T* to) {
    const int64_t depth = packed.depth(), high = one.product.rows;
    for (int64_t i = 0; i < rows; ++i) {
      const T* x = static_cast<const T*>(one.x) + (m + i) * one.depth;
      if (packed.run) {
        x += packed.columns[0];
        for (int64_t k = 0; k < depth; ++k) to[k * high + i] = x[k];
      } else {
        const int32_t* columns = packed.columns.data();
        for (int64_t k = 0; k < depth; ++k) to[k * high + i] = x[columns[k]];
      }
    }
  }

  static void scatter(const One& one, const Packed& packed, int64_t p, int64_t across, int64_t rows, const float* sums,
                      float* to) {
    const auto width = static_cast<int64_t>(packed.rows.size());
    for (int64_t q = 0; q < across; ++q) {
      const int64_t start = (p + q) * kPanel, there = std::min<int64_t>(kPanel, width - start);
      const int32_t* place = packed.rows.data() + start;
      const float* sum = sums + q * kPanel;
      float* out = to;
      if (packed.together[static_cast<size_t>(p + q)]) {
        one.product.add(out + place[0], one.width, sum, across * kPanel, rows, there);
        continue;
      }
      for (int64_t i = 0; i < rows; ++i, out += one.width, sum += across * kPanel) {
        for (int64_t n = 0; n < there; ++n) out[place[n]] += sum[n];
      }
    }
  }

  Blocks about_;
  std::vector<Packed> packed_;
  int64_t work_ = 0;  // multiply-adds for one row of x
};

const Register of_float(describe(kCpu, kFloat, make<GatherGemmScatter>));
const Register of_float16(describe(kCpu, kFloat16, make<GatherGemmScatter>));
const Register of_bfloat16(describe(kCpu, kBfloat16, make<GatherGemmScatter>));

}  // namespace
}  // namespace graphopt
