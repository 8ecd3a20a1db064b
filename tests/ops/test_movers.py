"""Operators that use some axes and pass the others on: indices, scans, images, blocks of channels."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx
import pytest

from tests.ops.net import Case, Net, dead, examine

DEAD = [1, 4, 6]
SHAPE = (7, 4, 6)
FEW = 4 * 3 + 4 * 2
"""Four of seven filters, and the columns of two filters that read them."""

Move = Callable[[Net, str], str]
"""Behind a value (N, 7, 4, 6) of which channels 1, 4, 6 are dead."""


def _ids(*shape: int, top: int) -> np.ndarray:
    return np.random.default_rng(1).integers(0, top, shape).astype(np.int64)


def _read(net: Net, y: str, rank: int = 4) -> str:
    return net("Conv", y, net.normal(2, 7, *[1] * (rank - 2)))


def _batch(net: Net, size: int) -> str:
    """(N,): the same number for every sample."""
    rows = net("Slice", net("Shape", "x"), [0], [1])
    return net("Expand", np.array([size]), rows)


def _reversed(net: Net, y: str, perm: list[int]) -> str:
    """The first axis of the permuted value as samples, or as time, whatever is the other one."""
    time = int(perm[0] == 0)
    return net("ReverseSequence", net("Transpose", y, perm=perm), _batch(net, 3), time_axis=time, batch_axis=1 - time)


def _grid(net: Net) -> str:
    """(N, 3, 5, 2): places to sample at."""
    rows = net("Concat", net("Slice", net("Shape", "x"), [0], [1]), [3, 5, 2], axis=0)
    return net("Expand", np.clip(net.normal(3, 5, 2), -1.2, 1.2), rows)


PASSES: dict[str, Move] = {
    "CumSum along the width": lambda n, y: _read(n, n("CumSum", y, np.array(3))),
    "CumSum, exclusive and backwards": lambda n, y: _read(n, n("CumSum", y, np.array(-2), exclusive=1, reverse=1)),
    "TopK of the width": lambda n, y: _read(n, n.many("TopK", y, [3], outputs=2, axis=-1)[0]),
    "ArgMax of the width": lambda n, y: _read(n, n("Cast", n("ArgMax", y, axis=3), to=1)),
    "ArgMin, without the axis": lambda n, y: _read(n, n("Cast", n("ArgMin", y, axis=-1, keepdims=0), to=1), 3),
    "Trilu of the images": lambda n, y: _read(n, n("Trilu", y, upper=1)),
    "ReverseSequence of rows": lambda n, y: _read(n, n("Transpose", _reversed(n, y, [2, 0, 1, 3]), perm=[1, 2, 0, 3])),
    "Compress of the width": lambda n, y: _read(n, n("Compress", y, np.array([1, 0, 1, 1, 0, 1], bool), axis=3)),
    "GatherND of pixels": lambda n, y: n(
        "MatMul", n("GatherND", n("Transpose", y, perm=[2, 3, 0, 1]), _ids(5, 2, top=4)), n.normal(7, 2)
    ),
    "GatherND of rows of each sample": lambda n, y: n(
        "MatMul",
        n("GatherND", n("Transpose", y, perm=[0, 2, 3, 1]), n("Unsqueeze", _batch(n, 3), [1]), batch_dims=1),
        n.normal(7, 2),
    ),
    "Gather of a matrix of columns": lambda n, y: _read(n, n("Gather", y, _ids(2, 3, top=6), axis=3), 5),
    "GridSample": lambda n, y: _read(n, n("GridSample", y, _grid(n))),
    "GridSample of the border": lambda n, y: _read(n, n("GridSample", y, _grid(n), padding_mode="border")),
    "RoiAlign": lambda n, y: _read(
        n,
        n("RoiAlign", y, np.array([[0, 0, 3, 3], [1, 1, 5, 3]], np.float32), np.array([0, 0]), output_height=2),
    ),
    "Roll of the width": lambda n, y: _read(
        n, n("Concat", n("Slice", y, [-2], [2**40], [3]), n("Slice", y, [0], [-2], [3]), axis=3)
    ),
    "Roll of the channels": lambda n, y: _read(
        n, n("Concat", n("Slice", y, [-2], [2**40], [1]), n("Slice", y, [0], [-2], [1]), axis=1)
    ),
}  # fmt: skip
EXTRA = {"GridSample": 30, "GridSample of the border": 30, "RoiAlign": 8}
"""Parameters of the operands."""


def _behind(move: Move, fill: Callable[[Net, str], str] = lambda net, y: y) -> Callable[[], onnx.ModelProto]:
    def build() -> onnx.ModelProto:
        net = Net(18)
        y = net("Conv", net.input("x", "N", 3, 4, 6), dead(net.normal(7, 3, 1, 1), 0, DEAD))
        return net.model(move(net, fill(net, y)))

    return build


@pytest.mark.parametrize("row", PASSES)
def test_channels_pass(row: str) -> None:
    # batch 0: several kernels of onnxruntime refuse it
    examine(Case(row, _behind(PASSES[row]), most=FEW + EXTRA.get(row, 0), batches=(1, 5)))


@pytest.mark.parametrize("row", PASSES)
def test_constants_that_are_not_zero(row: str) -> None:
    """Halves: passed on, or kept where the operator would make something else of them."""
    mixes = row.split()[0] in ("CumSum", "Trilu", "GridSample", "RoiAlign")
    whole = 7 * 2 + 4 * 3
    case = Case(row, _behind(PASSES[row], lambda n, y: n("Sigmoid", y)), least=whole if mixes else FEW, batches=(1, 5))
    examine(case)


NEEDS_ALL: dict[str, Move] = {
    "CumSum along the channels": lambda n, y: _read(n, n("CumSum", y, np.array(1))),
    "TopK of the channels": lambda n, y: n.many("TopK", y, [5], outputs=2, axis=1)[0],
    "ArgMax of the channels": lambda n, y: n("ArgMax", y, axis=1),
    "Trilu of channels": lambda n, y: n("MatMul", n("Trilu", n("Transpose", y, perm=[0, 2, 3, 1])), n.normal(7, 2)),
    "ReverseSequence of channels": lambda n, y: _read(n, _reversed(n, y, [0, 1, 2, 3])),
    "Compress of all": lambda n, y: n("Compress", y, np.arange(168) % 3 == 0),
    "GatherND of channels": lambda n, y: n("GatherND", n("Transpose", y, perm=[1, 2, 0, 3]), _ids(2, 2, top=4)),
    "NonZero": lambda n, y: n("NonZero", n("Greater", y, np.float32(100))),
    "OneHot": lambda n, y: n("OneHot", n("ArgMax", y, axis=1), np.array(7), np.array([0, 1], np.float32)),
    "Unique": lambda n, y: n.many("Unique", n("Round", y), outputs=1)[0],
}  # fmt: skip


@pytest.mark.parametrize("row", NEEDS_ALL)
def test_an_axis_that_is_needed_whole(row: str) -> None:
    examine(Case(row, _behind(NEEDS_ALL[row]), stays=(row.split()[0],), batches=(1,)))


@pytest.mark.parametrize("op", ["GatherElements", "ScatterElements"])
def test_indices_per_element(op: str) -> None:
    def build(constant: bool, axis: int) -> onnx.ModelProto:
        net = Net(22)
        y = net("Conv", net.input("x", 2, 3, 4, 6), dead(net.normal(7, 3, 1, 1), 0, DEAD))
        shape = [2, 7, 4, 3] if axis == 3 else [2, 5, 4, 6]
        index = _ids(*shape, top=min(5, shape[axis]))
        if op == "ScatterElements":  # distinct, or the result is nobody's choice
            index = np.broadcast_to(np.arange(shape[axis]).reshape([-1 if i == axis else 1 for i in range(4)]), shape)
        at = np.ascontiguousarray(index) if constant else net("Mod", net.input("ids", *shape, dtype="i"), np.array(5))
        if op == "GatherElements":
            y = net(op, y, at, axis=axis)
            return net.model(net("Conv", y, net.normal(2, shape[1], 1, 1)))
        updates = dead(net.normal(*shape), 1, [p for p in DEAD if p < shape[1]])
        return net.model(_read(net, net(op, y, at, updates, axis=axis)))

    updates = 2 * 4 * 4 * 3 if op == "ScatterElements" else 0
    examine(Case("", lambda: build(True, 3), most=FEW + updates, batches=(2,)))
    least = 5 * 2 if op == "GatherElements" else 7 * 2
    examine(Case("", lambda: build(True, 1), least=least + 4 * 3, batches=(2,)))
    if op == "GatherElements":
        examine(Case("", lambda: build(False, 3), least=4 * 3 + 7 * 2, batches=(2,)))


def test_updates_that_wake_a_channel() -> None:
    def build() -> onnx.ModelProto:
        net = Net(22)
        y = net("Conv", net.input("x", 2, 3, 4, 6), dead(net.normal(7, 3, 1, 1), 0, DEAD))
        index = np.zeros((2, 7, 4, 1), np.int64)
        updates = dead(net.normal(2, 7, 4, 1), 1, [1, 4])
        return net.model(_read(net, net("ScatterElements", y, index, updates, axis=3)))

    # Channel 6 is awake in the first column.
    examine(Case("", build, most=5 * 3 + 5 * 2 + 2 * 5 * 4, least=4 * 3 + 5 * 2 + 2 * 5 * 4, batches=(2,)))


def _written(
    updates: Callable[[Net], np.ndarray], index: np.ndarray, **attributes: str
) -> Callable[[], onnx.ModelProto]:
    def build() -> onnx.ModelProto:
        net = Net(22)
        y = net("Conv", net.input("x", "N", 3, 4, 6), dead(net.normal(7, 3, 1, 1), 0, DEAD))
        y = net("Transpose", y, perm=[2, 3, 1, 0])  # [4, 6, 7, N]
        y = net("ReduceMean", y, [3], keepdims=0)
        y = net("ScatterND", y, index, updates(net), **attributes)
        return net.model(net("MatMul", y, net.normal(7, 2)))

    return build


def test_one_index_a_row() -> None:
    def build(index: np.ndarray) -> onnx.ModelProto:
        net = Net(22)
        y = net("Conv", net.input("x", "N", 3, 4, 6), dead(net.normal(7, 3, 1, 1), 0, DEAD))
        y = net("GatherND", net("Transpose", y, perm=[1, 0, 2, 3]), index)
        y = net("Transpose", y, perm=[1, 0, 2, 3])
        return net.model(net("Conv", y, net.normal(2, len(index), 1, 1)))

    examine(Case("", lambda: build(np.array([[3], [1], [-7], [5]])), most=3 * 3 + 3 * 2, batches=(1, 5)))
    examine(Case("again", lambda: build(np.array([[3], [3], [4]])), most=3 + 2 * 2, batches=(1, 5)))
    examine(Case("all", lambda: build(np.arange(7)[:, None]), most=FEW, batches=(1, 5)))


def test_rows_that_are_written_over() -> None:
    spots = np.array([[0, 1], [3, 3]])
    zeros = lambda net: dead(net.normal(2, 7), 1, DEAD)  # noqa: E731
    examine(Case("", _written(zeros, spots), most=FEW + 2 * 4, batches=(1, 5)))
    rows = _written(lambda net: dead(net.normal(2, 6, 7), 2, DEAD), np.array([[0], [3]]))
    examine(Case("rows", rows, most=FEW + 2 * 6 * 4, batches=(1, 5)))
    examine(Case("awake", _written(lambda n: n.normal(2, 7), spots), least=4 * 3 + 7 * 2 + 14, batches=(1, 5)))
    added = _written(zeros, spots, reduction="add")
    examine(Case("added", added, least=4 * 3 + 4 * 2 + 2 * 4, batches=(1, 5)))


def _shuffled(channels: int, down: bool, factor: int, dead_channels: Sequence[int]) -> Callable[[], onnx.ModelProto]:
    """nn.PixelShuffle and nn.PixelUnshuffle as Reshape, Transpose, Reshape."""

    def build() -> onnx.ModelProto:
        net = Net(22)
        y = net("Conv", net.input("x", "N", 3, 4, 6), dead(net.normal(channels, 3, 1, 1), 0, dead_channels))
        if down:
            y = net("Reshape", y, [0, channels, 4 // factor, factor, 6 // factor, factor])
            y = net("Transpose", y, perm=[0, 1, 3, 5, 2, 4])
            y = net("Reshape", y, [0, channels * factor**2, 4 // factor, 6 // factor])
            return net.model(net("Conv", y, net.normal(2, channels * factor**2, 1, 1)))
        out = channels // factor**2
        y = net("Reshape", y, [0, out, factor, factor, 4, 6])
        y = net("Transpose", y, perm=[0, 1, 4, 2, 5, 3])
        y = net("Reshape", y, [0, out, 4 * factor, 6 * factor])
        return net.model(net("Conv", y, net.normal(2, out, 1, 1)))

    return build


def test_pixel_shuffle() -> None:
    examine(Case("up", _shuffled(16, False, 2, [4, 5, 6, 7]), most=12 * 3 + 3 * 2))
    examine(Case("part of a block", _shuffled(16, False, 2, [4, 5, 6]), least=4 * 2 + 13 * 3))
    examine(Case("down", _shuffled(5, True, 2, [1, 3]), most=3 * 3 + 3 * 4 * 2))


@pytest.mark.parametrize("mode", ["DCR", "CRD"])
def test_depth_to_space_of_constants(mode: str) -> None:
    def build(biases: list[float]) -> onnx.ModelProto:
        net = Net(22)
        c = [3, 7, 11, 15] if mode == "DCR" else [12, 13, 14, 15]
        bias = net.normal(16)
        bias[c] = biases
        y = net("Conv", net.input("x", "N", 3, 4, 5), dead(net.normal(16, 3, 1, 1), 0, c), bias)
        y = net("DepthToSpace", net("Sigmoid", y), blocksize=2, mode=mode)
        return net.model(net("Conv", y, net.normal(2, 4, 1, 1)))

    examine(Case("equal", lambda: build([0.0] * 4), most=12 * 4 + 3 * 2 + 2))
    examine(Case("unequal", lambda: build([0.0, 0.0, 1.0, 0.0]), least=12 * 3 + 4 * 2))


def test_unread_channels_of_depth_to_space() -> None:
    def build() -> onnx.ModelProto:
        net = Net(22)
        y = net("Relu", net("Conv", net.input("x", "N", 3, 4, 5), net.normal(16, 3, 1, 1)))
        y = net("DepthToSpace", y, blocksize=2)
        return net.model(net("Conv", y, dead(net.normal(2, 4, 3, 3), 1, [0, 2]), pads=[1, 1, 1, 1]))

    examine(Case("", build, most=8 * 3 + 2 * 2 * 9))


def test_space_to_depth_that_is_read_in_part() -> None:
    def build(unread: list[int]) -> onnx.ModelProto:
        net = Net(22)
        y = net("Relu", net("Conv", net.input("x", "N", 3, 4, 6), net.normal(5, 3, 1, 1)))
        y = net("SpaceToDepth", y, blocksize=2)
        return net.model(net("Conv", y, dead(net.normal(2, 20, 1, 1), 1, unread)))

    examine(Case("a channel", lambda: build([1, 6, 11, 16]), most=4 * 3 + 16 * 2))
    examine(Case("three pixels of it", lambda: build([1, 6, 11]), least=5 * 3 + 17 * 2))


def test_columns_that_become_an_image() -> None:
    def build(c: list[int]) -> onnx.ModelProto:
        net = Net(22)
        y = net("Conv", net.input("x", "N", 3, 6), dead(net.normal(12, 3, 1), 0, c))
        y = net("Col2Im", y, np.array([3, 4]), np.array([2, 2]))
        return net.model(net("Conv", y, net.normal(2, 3, 1, 1)))

    examine(Case("a channel", lambda: build([4, 5, 6, 7]), most=8 * 3 + 2 * 2, batches=(1, 5)))
    examine(Case("part of one", lambda: build([4, 5, 6]), least=9 * 3 + 3 * 2, batches=(1, 5)))


@pytest.mark.parametrize("times", [1, 2, 3])
def test_tile(times: int) -> None:
    def build(unread: Sequence[int] = ()) -> onnx.ModelProto:
        net = Net(22)
        y = net("Sigmoid", net("Conv", net.input("x", "N", 3, 4, 6), dead(net.normal(7, 3, 1, 1), 0, DEAD)))
        y = net("Tile", y, [1, times, 1, 2])
        return net.model(net("Conv", y, dead(net.normal(2, 7 * times, 1, 1), 1, unread)))

    examine(Case("", build, most=4 * 3 + 4 * times * 2 + 2))
    nobody = [7 * k + 2 for k in range(times)]
    examine(Case("read by nobody", lambda: build(nobody), most=3 * 3 + 3 * times * 2 + 2))
    examine(Case("read once", lambda: build(nobody[1:]), least=4 * 3 + 4 * 2))


def test_zeros_of_a_shape() -> None:
    def build() -> onnx.ModelProto:
        net = Net(22)
        y = net("Conv", net.input("x", "N", 3, 4, 6), dead(net.normal(7, 3, 1, 1), 0, DEAD))
        zeros = net("ConstantOfShape", net("Concat", net("Slice", net("Shape", y), [0], [1]), [2, 4, 6], axis=0))
        return net.model(net("Conv", net("Concat", y, zeros, axis=1), net.normal(2, 9, 3, 3), pads=[1] * 4))

    examine(Case("", build, most=4 * 3 + 4 * 2 * 9))


def copies(how: str, gone: list[int], shift: float = 0.0) -> onnx.ModelProto:
    """Six copies of one row, some of them hidden by a mask."""
    net = Net()
    y = net("Relu", net("MatMul", net.input("x", "N", 1, 4), net.normal(4, 5)))
    if how == "computed":
        y = net("Expand", y, net("Concat", net("Gather", net("Shape", y), [0], axis=0), [6, 1], axis=0))
    else:
        y = net("Tile", y, [1, 6, 1]) if how == "Tile" else net("Expand", y, [1, 6, 1])
    y = net("Mul", y, dead(net.normal(6, 5), 0, gone))
    if shift:
        y = net("Add", y, shift)
    return net.model(net("MatMul", net("Reshape", y, [-1, 30]), net.normal(30, 3)))


@pytest.mark.parametrize("how", ["Expand", "Tile", "computed"])
def test_as_many_copies_as_are_wanted(how: str) -> None:
    examine(Case("dead", lambda: copies(how, [1, 4]), most=20 + 20 + 60 + 6))
    examine(Case("one is left", lambda: copies(how, [0, 1, 2, 3, 5]), most=20 + 5 + 15 + 6))
    examine(Case("not zero", lambda: copies(how, [1, 4], 0.5), most=20 + 20 + 60 + 10))
    examine(Case("none", lambda: copies(how, []), least=20 + 30 + 90))


def _messages(op: str, reduction: str, form: str) -> Callable[[], onnx.ModelProto]:
    """A graph layer: features of nodes are gathered along edges, an input, and accumulated where the edges lead."""

    def build() -> onnx.ModelProto:
        net = Net(18)
        x, edges = net.input("x", 5, 3), net.input("edges", "E", dtype="i")
        source, target = (net("Mod", net("Add", edges, np.array(shift)), np.array(5)) for shift in (0, 3))
        sent = net("Gather", net("Gemm", x, dead(net.normal(3, 7), 1, DEAD)), source)
        onto = np.zeros((5, 7), np.float32)
        if form == "a constant is sent":
            sent = net("Add", sent, np.where(np.isin(np.arange(7), DEAD), np.float32(0.5), np.float32(0)))
        if form == "onto something else":
            onto[2, 4] = 1
        column = net("Unsqueeze", target, [1])
        if op == "ScatterElements":
            column = net("Expand", column, net("Shape", sent))
            if form == "an index for each element":
                column = net("Mod", net("Add", column, np.arange(7)), np.array(5))
        attributes = {} if reduction == "none" else {"reduction": reduction}
        y = net(op, onto, column, sent, **attributes)
        return net.model(net("Gemm", y, net.normal(7, 2)))

    return build


NARROW = 4 * 3 + 4 * 2 + 5 * 4


@pytest.mark.parametrize("op", ["ScatterElements", "ScatterND"])
def test_what_is_accumulated_along_edges(op: str) -> None:
    """Sums over neighbours keep channels apart, in the two forms in which torch writes ``index_add``."""
    for reduction in ("add", "max", "min", "mul"):
        examine(Case(reduction, _messages(op, reduction, ""), most=NARROW, batches=(1, 5)))
    awake = 4 * 3 + 7 * 2
    examine(Case("sent", _messages(op, "add", "a constant is sent"), least=awake, batches=(1, 5)))
    examine(Case("onto", _messages(op, "add", "onto something else"), least=4 * 3 + 5 * 2, batches=(1, 5)))
    # The smaller of the two is the 0 that is there already, however often it is compared.
    examine(Case("min", _messages(op, "min", "a constant is sent"), most=NARROW + 7, batches=(1, 5)))
    examine(Case("max", _messages(op, "max", "a constant is sent"), least=awake, batches=(1, 5)))
    if op == "ScatterElements":
        examine(Case("each", _messages(op, "add", "an index for each element"), least=awake, batches=(1, 5)))
