// ScatterAdd on the CPU: where the output lies on the data and nothing is to be done to the other positions, only those
// that are written are read.

#include <algorithm>
#include <atomic>
#include <cstring>

#include "add.h"
#include "axis.h"
#include "schema.h"
#include "spread.h"

namespace graphopt {
namespace {

constexpr int64_t kPart = 1 << 16;  // bytes that are worth a thread's while
constexpr int64_t kShort = 16;      // numbers in a row below which whole lines are added instead

struct Work {
  const char *data, *updates, *fill;
  const void* floor;  // null where there is none
  char* out;
  const int64_t *indices, *map;
  int64_t fills, outer, size, count, inner;
  size_t width;
  bool sparse;
  Adding add;
  Ranks ranks;  // of the map, for short rows
  bool floats;
};

class ScatterAdd : public Kernel {
 public:
  explicit ScatterAdd(const Info& info) : axis_(info.integer("axis", 0)) {
    const Tensor indices = info.constant(1);
    if (!indices.present()) return;
    check_flat(indices, "indices");
    indices_.assign(indices.as<int64_t>(), indices.as<int64_t>() + indices.count());
    constant_ = true;
  }

  void compute(Call& call) override {
    const Tensor data = call.input(0), indices = call.input(1), updates = call.input(2), fill = call.input(3);
    const Tensor floor = call.input(4);
    const Around in = around(data.shape, axis_, "data");
    check_flat(indices, "indices");
    check_fill(fill, in.size);
    Shape expected = data.shape;
    expected[static_cast<size_t>(in.axis)] = indices.count();
    require(updates.shape == expected, "updates must be as large as data, with a position for each of the indices");
    require(!floor.present() || floor.count() == 1, "floor must hold one number");
    Work work{data.as<char>(), updates.as<char>(), fill.as<char>(), floor.present() ? floor.data : nullptr, nullptr,
              indices.as<int64_t>(), nullptr, fill.count(), in.outer, in.size, indices.count(), in.inner,
              bytes_of(data.type), false, adding(data.type), {}, data.type == kFloat};
    std::shared_ptr<const std::vector<int64_t>> map = inverse(work);
    work.map = map->data();
    work.out = call.output(0, data.shape).to<char>();
    work.sparse = work.out == work.data && !floor.present() && untouched(work);
    if (in.outer * in.size * in.inner == 0) return;
    const int64_t across = work.sparse ? work.count : work.size;
    const auto row = std::max<int64_t>(1, in.inner * static_cast<int64_t>(work.width));
    if (in.inner < kShort) {
      if (in.inner == 1 && in.outer > 1) work.ranks = ranks_of(work.map, work.size, work.width);
      const int64_t grain = std::max<int64_t>(1, kPart / std::max<int64_t>(1, row * across));
      call.parallel(in.outer, grain, [&](int64_t first, int64_t last) { lines(work, first, last); });
    } else {
      call.parallel(in.outer * across, std::max<int64_t>(1, kPart / row),
                    [&](int64_t first, int64_t last) { rows(work, first, last); });
    }
  }

 private:
  // Which update goes to which position: made once where the indices are constant and the size stays the same.
  std::shared_ptr<const std::vector<int64_t>> inverse(const Work& work) {
    if (!constant_) return std::make_shared<std::vector<int64_t>>(places(work.indices, work.count, work.size));
    auto known = std::atomic_load(&map_);  // sessions may run in several threads
    if (known == nullptr || static_cast<int64_t>(known->size()) != work.size) {
      known = std::make_shared<const std::vector<int64_t>>(places(indices_.data(), work.count, work.size));
      std::atomic_store(&map_, known);
    }
    return known;
  }

  static bool untouched(const Work& work) {
    for (int64_t i = 0; i < work.fills; ++i) {
      if (work.fills > 1 && work.map[i] >= 0) continue;
      if (!work.add.nothing(work.fill + static_cast<size_t>(i) * work.width)) return false;
    }
    return true;
  }

  // Short rows: [first, last) of the outer axes, a line of [size, inner] numbers each.
  static void lines(const Work& w, int64_t first, int64_t last) {
    const int64_t line = w.size * w.inner, given = w.count * w.inner;
    const auto width = static_cast<int64_t>(w.width);
    if (w.sparse) {
      for (int64_t o = first; o < last; ++o) {
        char* out = w.out + o * line * width;
        const char* updates = w.updates + o * given * width;
        if (w.floats && !w.ranks.empty()) {
          add_in_order(w.ranks, reinterpret_cast<const float*>(updates), reinterpret_cast<float*>(out), w.size);
          continue;
        }
        if (w.inner == 1) {
          w.add.places(out, updates, w.indices, w.count);
          continue;
        }
        for (int64_t i = 0; i < w.count; ++i) {
          char* at = out + w.indices[i] * w.inner * width;
          w.add.rows(at, at, updates + i * w.inner * width, w.inner);
        }
      }
      return;
    }
    thread_local std::vector<int64_t> scratch;  // as numbers of eight bytes: aligned for every type
    scratch.resize(static_cast<size_t>((line * width + 7) / 8));
    auto* addend = reinterpret_cast<char*>(scratch.data());
    for (int64_t o = first; o < last; ++o) {
      spread({w.updates + o * given * width, addend, w.map, w.fill, w.fills, 1, w.count, w.size, w.inner, w.width,
              w.ranks.empty() ? nullptr : &w.ranks},
             0, w.size);
      char* out = w.out + o * line * width;
      w.add.rows(out, w.data + o * line * width, addend, line);
      if (w.floor != nullptr) w.add.lift(out, w.floor, line);
    }
  }

  // Long rows: [first, last) of the outer axes times the positions (those that are written, if no others matter).
  static void rows(const Work& w, int64_t first, int64_t last) {
    const auto width = static_cast<int64_t>(w.width);
    const int64_t row = w.inner * width, across = w.sparse ? w.count : w.size;
    int64_t o = first / across, j = first % across;
    for (int64_t at = first; at < last; ++at) {
      const int64_t position = w.sparse ? w.indices[j] : j;
      const int64_t i = w.sparse ? j : w.map[j];
      char* out = w.out + (o * w.size + position) * row;
      const char* data = w.data + (o * w.size + position) * row;
      if (i >= 0) {
        w.add.rows(out, data, w.updates + (o * w.count + i) * row, w.inner);
      } else {
        const char* fill = w.fill + (w.fills == 1 ? 0 : position * width);
        if (!w.add.nothing(fill)) {
          w.add.number(out, data, fill, w.inner);
        } else if (out != data) {
          std::memcpy(out, data, static_cast<size_t>(row));
        }
      }
      if (w.floor != nullptr) w.add.lift(out, w.floor, w.inner);
      if (++j == across) {
        j = 0;
        ++o;
      }
    }
  }

  int64_t axis_;
  bool constant_ = false;
  std::vector<int64_t> indices_;
  std::shared_ptr<const std::vector<int64_t>> map_;
};

const Register of_float(describe(kCpu, kFloat, make<ScatterAdd>));
const Register of_double(describe(kCpu, kDouble, make<ScatterAdd>));
const Register of_float16(describe(kCpu, kFloat16, make<ScatterAdd>));
const Register of_bfloat16(describe(kCpu, kBfloat16, make<ScatterAdd>));
const Register of_int8(describe(kCpu, kInt8, make<ScatterAdd>));
const Register of_uint8(describe(kCpu, kUint8, make<ScatterAdd>));
const Register of_int32(describe(kCpu, kInt32, make<ScatterAdd>));
const Register of_int64(describe(kCpu, kInt64, make<ScatterAdd>));

}  // namespace
}  // namespace graphopt
