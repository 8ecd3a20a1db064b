"""Reduce*: over the dead axis the dead positions become a constant; over the others they stay what they were."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

from tests.ops.net import Case, Net, dead, examine

DEAD = [1, 4, 6]
KINDS = ["Mean", "Sum", "Max", "Min", "Prod", "L1", "L2", "SumSquare", "LogSum", "LogSumExp"]


def _reduce(net: Net, kind: str, y: str, axes: list[int], **attributes: Any) -> str:
    if net.opset >= 18 or kind == "Sum":
        return net("Reduce" + kind, y, axes, **attributes)
    return net("Reduce" + kind, y, axes=axes, **attributes)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("opset", [13, 18])
@pytest.mark.parametrize("keep", [0, 1])
def test_over_the_pixels(kind: str, opset: int, keep: int) -> None:
    def build() -> onnx.ModelProto:
        net = Net(opset)
        y = net("Conv", net.input("x", "N", 3, 4, 5), dead(net.normal(7, 3, 1, 1), 0, DEAD))
        if kind == "LogSum":
            y = net("Add", net("Abs", y), 0.5)
        elif kind == "Prod":
            y = net("Tanh", y)
        y = _reduce(net, kind, y, [2, 3], keepdims=keep)
        if keep:
            return net.model(net("Conv", y, net.normal(2, 7, 1, 1), net.normal(2)))
        return net.model(net("Gemm", y, net.normal(7, 2), net.normal(2)))

    examine(Case("", build, most=4 * 3 + 4 * 2 + 2 + (kind == "LogSum")))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("keep", [0, 1])
@pytest.mark.parametrize("fill", ["zero", "one half"])
def test_over_the_channels(kind: str, keep: int, fill: str) -> None:
    def build() -> onnx.ModelProto:
        net = Net()
        y = net("Conv", net.input("x", "N", 3, 4, 5), dead(net.normal(7, 3, 1, 1), 0, DEAD))
        if fill == "one half" or kind == "LogSum":
            y = net("Sigmoid", y)
        return net.model(_reduce(net, kind, y, [1], keepdims=keep))

    # Four rows are enough, and at most three numbers for what the dead ones were.
    easy = kind in ("Mean", "Sum", "L1", "SumSquare") or (fill == "zero" and kind in ("L2",))
    examine(Case("", build, most=4 * 3 + 3 if easy else None))


def test_the_mean_keeps_its_divisor() -> None:
    def build() -> onnx.ModelProto:
        net = Net()
        y = net("Gemm", net.input("x", "N", 3), dead(net.normal(7, 3), 0, DEAD), transB=1)
        return net.model(net("ReduceMean", y, [1]))

    examine(Case("", build, most=4 * 3 + 1))


def test_the_maximum_of_negative_numbers_is_the_dead_zero() -> None:
    def build() -> onnx.ModelProto:
        net = Net()
        y = net("Conv", net.input("x", "N", 3, 4, 5), dead(net.normal(7, 3, 1, 1), 0, DEAD))
        y = net("Mul", net("Abs", y), np.full((1, 7, 1, 1), -1, np.float32))
        return net.model(net("ReduceMax", y, [1]))

    examine(Case("", build))


def test_a_product_over_a_dead_channel_is_zero() -> None:
    def build() -> onnx.ModelProto:
        net = Net()
        y = net("Conv", net.input("x", "N", 3, 4, 5), dead(net.normal(7, 3, 1, 1), 0, [1]))
        y = net("ReduceProd", net("Tanh", y), [1])
        return net.model(net("Conv", y, net.normal(2, 1, 1, 1), net.normal(2)))

    examine(Case("", build))


def test_no_axes_and_noop() -> None:
    def build() -> onnx.ModelProto:
        net = Net()
        y = net("Conv", net.input("x", "N", 3, 4, 5), dead(net.normal(7, 3, 1, 1), 0, DEAD))
        y = net("ReduceSum", y, noop_with_empty_axes=1)
        return net.model(net("Conv", y, net.normal(2, 7, 1, 1)))

    examine(Case("", build, most=4 * 3 + 4 * 2))


def test_no_axes_reduce_all() -> None:
    def build() -> onnx.ModelProto:
        net = Net()
        y = net("Conv", net.input("x", 2, 3, 4, 5), dead(net.normal(7, 3, 1, 1), 0, DEAD))
        return net.model(net("ReduceSum", y))

    examine(Case("", build, most=4 * 3, batches=(2,)))
