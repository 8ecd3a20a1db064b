"""Data movement: where positions go, and what happens to supports on the way. The rows of movement are bit-exact."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest

from tests.ops.net import Case, Net, dead, examine

DEAD = [1, 4, 6]
BIG = 2**63 - 1

Move = Callable[[Net, str], str]
"""Behind a value (N, 7, 4, 6) of which channels 1, 4, 6 are zero."""


def _net(move: Move, dead_channels: list[int], channels: int = 7) -> onnx.ModelProto:
    """A 1x1 Conv 3 -> 7, the movement, a product over the last axis but two: (N, C', ...) -> (N, 2, ...)."""
    net = Net()
    y = net("Conv", net.input("x", "N", 3, 4, 6), dead(net.normal(channels, 3, 1, 1), 0, dead_channels))
    return net.model(move(net, y))


def _conv(net: Net, y: str, channels: int, rank: int = 2) -> str:
    return net("Conv", y, net.normal(2, channels, *[1] * rank))


# movement, living channels of the first Conv that are still read, channels the last Conv reads
ROWS: dict[str, tuple[Move, int, int]] = {
    "identity": (lambda n, y: _conv(n, n("Identity", y), 7), 4, 4),
    "slice of channels": (lambda n, y: _conv(n, n("Slice", y, [2], [6], [1]), 4), 3, 3),
    "slice backwards": (lambda n, y: _conv(n, n("Slice", y, [-1], [-BIG], [1], [-1]), 7), 4, 4),
    "slice every second": (lambda n, y: _conv(n, n("Slice", y, [1], [BIG], [-3], [2]), 3), 2, 2),
    "slice of pixels": (lambda n, y: _conv(n, n("Slice", y, [1], [-1], [3]), 7), 4, 4),
    "gather of channels": (lambda n, y: _conv(n, n("Gather", y, [0, 1, 5], axis=1), 3), 2, 2),
    "gather, negative": (lambda n, y: _conv(n, n("Gather", y, [-7, -1, -2], axis=1), 3), 2, 2),
    "gather, permuted": (lambda n, y: _conv(n, n("Gather", y, [6, 5, 4, 3, 2, 1, 0], axis=1), 7), 4, 4),
    "gather of a column": (lambda n, y: _conv(n, n("Gather", y, np.array(2), axis=3), 7, 1), 4, 4),
    "transpose, inner": (lambda n, y: _conv(n, n("Transpose", y, perm=[0, 1, 3, 2]), 7), 4, 4),
    "transpose and back": (
        lambda n, y: _conv(n, n("Transpose", n("Relu", n("Transpose", y, perm=[0, 2, 3, 1])), perm=[0, 3, 1, 2]), 7),
        4,
        4,
    ),
    "channels last": (lambda n, y: n("MatMul", n("Transpose", y, perm=[0, 2, 3, 1]), n.normal(7, 2)), 4, 4),
    "unsqueeze and squeeze": (lambda n, y: _conv(n, n("Squeeze", n("Relu", n("Unsqueeze", y, [2])), [2]), 7), 4, 4),
    "reshape of pixels": (lambda n, y: _conv(n, n("Reshape", y, [0, 7, 24]), 7, 1), 4, 4),
    "reshape of pixels, -1 first": (lambda n, y: _conv(n, n("Reshape", y, [-1, 7, 24]), 7, 1), 4, 4),
    "reshape from shape": (
        lambda n, y: _conv(n, n("Reshape", y, n("Concat", n("Slice", n("Shape", y), [0], [1]), [7, 24], axis=0)), 7, 1),
        4,
        4,
    ),
    "reshape and back": (
        lambda n, y: _conv(n, n("Reshape", n("Relu", n("Reshape", y, [0, 168])), [0, 7, 4, 6]), 7),
        4,
        4,
    ),
    "resize, nearest": (
        lambda n, y: _conv(n, n("Resize", y, "", np.array([1, 1, 2, 2], np.float32), mode="nearest"), 7),
        4,
        4,
    ),
    "resize, linear": (
        lambda n, y: _conv(n, n("Resize", y, "", np.array([1, 1, 2, 2], np.float32), mode="linear"), 7),
        4,
        4,
    ),
    "pad of pixels": (lambda n, y: _conv(n, n("Pad", y, [0, 0, 1, 1, 0, 0, 1, 0]), 7), 4, 4),
    "pad of pixels, cropping": (lambda n, y: _conv(n, n("Pad", y, [0, 0, -1, 1, 0, 0, 0, -2]), 7), 4, 4),
    "pad, reflect": (lambda n, y: _conv(n, n("Pad", y, [0, 0, 1, 1, 0, 0, 1, 0], mode="reflect"), 7), 4, 4),
    "pad, edge": (lambda n, y: _conv(n, n("Pad", y, [0, 0, 1, 1, 0, 0, 1, 0], mode="edge"), 7), 4, 4),
    "pad of channels": (lambda n, y: _conv(n, n("Pad", y, [0, 2, 0, 0, 0, 1, 0, 0]), 10), 4, 4),
    "concat with itself": (lambda n, y: _conv(n, n("Concat", y, n("Neg", y), axis=1), 14), 4, 8),
    "concat along the width": (lambda n, y: _conv(n, n("Concat", y, n("Neg", y), axis=3), 7), 4, 4),
    "split, equal": (
        lambda n, y: _conv(n, n.many("Split", n("Slice", y, [0], [6], [1]), outputs=2, num_outputs=2, axis=1)[1], 3),
        2,
        2,
    ),
    "split, uneven": (lambda n, y: _conv(n, n.many("Split", y, [2, 5], outputs=2, axis=1)[1], 5), 3, 3),
    "split and concat": (
        lambda n, y: _conv(n, n("Concat", *reversed(n.many("Split", y, [2, 5], outputs=2, axis=1)), axis=1), 7),
        4,
        4,
    ),
    "tile of pixels": (lambda n, y: _conv(n, n("Tile", y, [1, 1, 2, 1]), 7), 4, 4),
    "tile of channels": (lambda n, y: _conv(n, n("Tile", y, [1, 2, 1, 1]), 14), 4, 8),
    "expand in front": (
        lambda n, y: n("MatMul", n("Transpose", n("Expand", y, [2, 1, 1, 1, 1]), perm=[0, 1, 3, 4, 2]), n.normal(7, 2)),
        4,
        4,
    ),
    "flatten": (lambda n, y: n("Gemm", n("Flatten", n("GlobalMaxPool", y)), n.normal(7, 2)), 4, 4),
    "dropout": (lambda n, y: _conv(n, n("Dropout", y, 0.5), 7), 4, 4),
    "cast and back": (lambda n, y: _conv(n, n("Cast", n("Cast", y, to=11), to=1), 7), 4, 4),
}


@pytest.mark.parametrize("row", ROWS)
def test_movement(row: str) -> None:
    move, produced, read = ROWS[row]
    scales = 4 if row.startswith("resize") else 1 if row == "dropout" else 0
    flips = ("Slice",) if row == "slice of channels" else ()
    # batch 0: a few kernels of onnxruntime refuse it
    batches = (1, 5) if row in ("expand in front",) else (0, 1, 5)
    most = produced * 3 + read * 2 + scales
    examine(Case(row, lambda: _net(move, DEAD), most=most, gone=flips, batches=batches))


def test_flatten_splits_the_weight_into_blocks() -> None:
    def build() -> onnx.ModelProto:
        net = Net()
        y = net("Conv", net.input("x", "N", 3, 2, 2), dead(net.normal(7, 3, 1, 1), 0, DEAD))
        return net.model(net("Gemm", net("Flatten", net("Relu", y)), net.normal(28, 5), net.normal(5)))

    examine(Case("", build, most=4 * 3 + 16 * 5 + 5))


def test_a_flat_mask_that_kills_no_whole_channel() -> None:
    def build() -> onnx.ModelProto:
        net = Net()
        y = net("Relu", net("Conv", net.input("x", "N", 3, 2, 2), net.normal(5, 3, 1, 1)))
        w = dead(net.normal(20, 4), 0, [0, 5, 10, 15])  # one pixel of each of four channels
        return net.model(net("Gemm", net("Flatten", y), w))

    examine(Case("", build, least=5 * 3 + 16 * 4))


def test_a_flat_mask_that_kills_a_channel() -> None:
    def build() -> onnx.ModelProto:
        net = Net()
        y = net("Relu", net("Conv", net.input("x", "N", 3, 2, 2), net.normal(5, 3, 1, 1)))
        w = dead(net.normal(20, 4), 0, [4, 5, 6, 7, 17])
        return net.model(net("Gemm", net("Flatten", y), w))

    examine(Case("", build, most=4 * 3 + 16 * 4))


def test_channel_shuffle() -> None:
    def build() -> onnx.ModelProto:
        net = Net()
        y = net("Conv", net.input("x", "N", 3, 4, 5), dead(net.normal(6, 3, 1, 1), 0, [0, 3]))  # first of each group
        y = net("Reshape", y, [0, 2, 3, 4, 5])
        y = net("Reshape", net("Transpose", y, perm=[0, 2, 1, 3, 4]), [0, 6, 4, 5])
        return net.model(net("Conv", y, net.normal(2, 6, 1, 1)))

    examine(Case("", build, most=4 * 3 + 4 * 2))


def test_channel_shuffle_with_unequal_groups_is_exact() -> None:
    def build() -> onnx.ModelProto:
        net = Net()
        y = net("Conv", net.input("x", "N", 3, 4, 5), dead(net.normal(6, 3, 1, 1), 0, [0, 1, 5]))
        y = net("Reshape", y, [0, 2, 3, 4, 5])
        y = net("Reshape", net("Transpose", y, perm=[0, 2, 1, 3, 4]), [0, 6, 4, 5])
        return net.model(net("Conv", y, net.normal(2, 6, 1, 1)))

    examine(Case("", build, most=6 * 3 + 6 * 2))


@pytest.mark.parametrize("mode", ["DCR", "CRD"])
def test_depth_to_space(mode: str) -> None:
    def build() -> onnx.ModelProto:
        net = Net()
        c = [3, 7, 11, 15] if mode == "DCR" else [12, 13, 14, 15]  # what becomes channel 3
        y = net("Conv", net.input("x", "N", 3, 4, 5), dead(net.normal(16, 3, 1, 1), 0, c))
        y = net("DepthToSpace", y, blocksize=2, mode=mode)
        return net.model(net("Conv", y, net.normal(2, 4, 1, 1)))

    examine(Case("", build, most=12 * 3 + 3 * 2))


@pytest.mark.parametrize("mode", ["DCR", "CRD"])
def test_depth_to_space_of_part_of_a_block(mode: str) -> None:
    def build() -> onnx.ModelProto:
        net = Net()
        c = [3, 7] if mode == "DCR" else [12, 13]
        y = net("Conv", net.input("x", "N", 3, 4, 5), dead(net.normal(16, 3, 1, 1), 0, c))
        y = net("DepthToSpace", y, blocksize=2, mode=mode)
        return net.model(net("Conv", y, net.normal(2, 4, 1, 1)))

    examine(Case("", build, least=4 * 2 + 14 * 3))


def test_space_to_depth() -> None:
    def build() -> onnx.ModelProto:
        net = Net()
        y = net("Conv", net.input("x", "N", 3, 4, 6), dead(net.normal(5, 3, 1, 1), 0, [1, 3]))
        y = net("SpaceToDepth", y, blocksize=2)
        return net.model(net("Conv", y, net.normal(2, 20, 1, 1)))

    examine(Case("", build, most=3 * 3 + 12 * 2))


def test_pad_with_another_constant_than_the_fill() -> None:
    def build() -> onnx.ModelProto:
        net = Net()
        y = net("Conv", net.input("x", "N", 3, 4, 6), dead(net.normal(7, 3, 1, 1), 0, DEAD))
        y = net("Pad", y, [0, 0, 1, 1, 0, 0, 1, 0], 0.5)
        return net.model(net("Conv", y, net.normal(2, 7, 1, 1)))

    # The dead channels hold 0 inside and 1/2 at the border: no constant.
    examine(Case("", build, least=4 * 3 + 4 * 2 + 1))


def test_pad_with_the_fill() -> None:
    def build() -> onnx.ModelProto:
        net = Net()
        y = net("Sigmoid", net("Conv", net.input("x", "N", 3, 4, 6), dead(net.normal(7, 3, 1, 1), 0, DEAD)))
        y = net("Pad", y, [0, 0, 1, 1, 0, 0, 1, 0], 0.5)
        return net.model(net("Conv", y, net.normal(2, 7, 1, 1)))

    examine(Case("", build, most=4 * 3 + 4 * 2 + 2 + 1))  # a bias, and Pad's constant


def test_gather_that_repeats_positions() -> None:
    def build() -> onnx.ModelProto:
        net = Net()
        y = net("Conv", net.input("x", "N", 3, 4, 6), dead(net.normal(7, 3, 1, 1), 0, DEAD))
        return net.model(net("Conv", net("Gather", y, [0, 0, 1, 2, 2, 2], axis=1), net.normal(2, 6, 1, 1)))

    examine(Case("", build, most=2 * 3 + 5 * 2))


def test_gather_with_indices_from_the_data_needs_the_axis_whole() -> None:
    def build() -> onnx.ModelProto:
        net = Net()
        y = net("Gemm", net.input("x", "N", 3), dead(net.normal(11, 3), 0, [2, 3]), transB=1)
        y = net("Gather", y, net.input("ids", 2, dtype="i"), axis=1)
        return net.model(net("Gemm", y, net.normal(2, 2)))

    examine(Case("", build, least=9 * 3 + 4))


def test_embedding_columns() -> None:
    def build() -> onnx.ModelProto:
        net = Net()
        y = net("Gather", dead(net.normal(11, 7), 1, DEAD), net.input("ids", "N", 3, dtype="i"))
        y = net("Add", y, dead(net.normal(3, 7), 1, DEAD))
        return net.model(net("MatMul", y, net.normal(7, 2)))

    examine(Case("", build, most=11 * 4 + 3 * 4 + 4 * 2))


def test_a_word_that_is_zero_stays_in_the_table() -> None:
    def build() -> onnx.ModelProto:
        net = Net()
        y = net("Gather", dead(net.normal(11, 7), 0, [0, 10]), net.input("ids", "N", 3, dtype="i"))
        return net.model(net("MatMul", y, net.normal(7, 2)))

    examine(Case("", build, least=11 * 7 + 14))


def test_dense_net() -> None:
    def build() -> onnx.ModelProto:
        net = Net()
        y = net.input("x", "N", 4, 5, 5)
        stream = y
        for i in range(3):
            w = dead(net.normal(3, 4 + 3 * i, 1, 1), 0, [i % 3])
            stream = net("Concat", stream, net("Relu", net("Conv", stream, w)), axis=1)
        return net.model(net("Conv", stream, net.normal(2, 13, 1, 1)))

    examine(Case("", build, most=2 * 4 + 2 * 6 + 2 * 8 + 10 * 2))


@pytest.mark.parametrize("axis", [1, 2, 3])
def test_a_graph_output_keeps_its_shape(axis: int) -> None:
    def build() -> onnx.ModelProto:
        net = Net()
        y = net("Conv", net.input("x", "N", 3, 4, 6), dead(net.normal(7, 3, 1, 1), 0, DEAD))
        perm = {1: [0, 1, 2, 3], 2: [0, 2, 1, 3], 3: [0, 3, 2, 1]}[axis]
        return net.model(net("Transpose", y, perm=perm))

    # The scatter of the output costs the zeros it fills in at most.
    examine(Case("", build, most=4 * 3 + 3))


def test_a_value_that_is_also_an_output_is_narrowed_for_its_other_reader() -> None:
    def build() -> onnx.ModelProto:
        net = Net()
        y = net("Relu", net("Conv", net.input("x", "N", 3, 4, 6), dead(net.normal(7, 3, 1, 1), 0, DEAD)))
        return net.model(y, net("Conv", y, net.normal(2, 7, 3, 3), pads=[1, 1, 1, 1]))

    examine(Case("", build, most=4 * 3 + 4 * 18 + 3))
