"""Batch normalization is transparent; what mixes positions is a barrier, or is rewritten exactly."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

from tests.ops.net import Case, Net, dead, examine

DEAD = [1, 4, 6]


def _norm(
    net: Net, y: str, channels: int = 7, zero_scale: list[int] | None = None, shift: list[int] | None = None
) -> str:
    scale = dead(np.abs(net.normal(channels)), 0, zero_scale or [])
    b = dead(net.normal(channels), 0, shift or [])
    return net("BatchNormalization", y, scale, b, net.normal(channels), np.abs(net.normal(channels)))


def test_batch_normalization_of_dead_channels() -> None:
    def build() -> onnx.ModelProto:
        net = Net()
        y = net("Conv", net.input("x", "N", 3, 4, 5), dead(net.normal(7, 3, 1, 1), 0, DEAD))
        return net.model(net("Conv", net("Relu", _norm(net, y)), net.normal(2, 7, 1, 1), net.normal(2)))

    examine(Case("", build, most=4 * 3 + 4 * 4 + 4 * 2 + 2))


@pytest.mark.parametrize("padded", [False, True])
def test_a_zero_scale_kills_a_living_channel(padded: bool) -> None:
    def build() -> onnx.ModelProto:
        net = Net()
        y = net("Conv", net.input("x", "N", 3, 4, 5), net.normal(7, 3, 1, 1), net.normal(7))
        y = net("Relu", _norm(net, y, zero_scale=DEAD, shift=DEAD))
        if padded:
            return net.model(net("Conv", y, net.normal(2, 7, 3, 3), pads=[1, 1, 1, 1]))
        return net.model(net("Conv", y, net.normal(2, 7, 1, 1)))

    examine(Case("", build, most=4 * 4 + 4 * 4 + 4 * 2 * (9 if padded else 1)))


def test_a_zero_scale_with_a_shift_before_a_padded_conv() -> None:
    def build() -> onnx.ModelProto:
        net = Net()
        y = net("Conv", net.input("x", "N", 3, 4, 5), net.normal(7, 3, 1, 1))
        y = net("Sigmoid", _norm(net, y, zero_scale=DEAD))
        return net.model(net("Conv", y, net.normal(2, 7, 3, 3), pads=[1, 1, 1, 1]))

    # The channels are constant but not zero; their own weights are dead all the same.
    examine(Case("", build, least=4 * 3 + 4 * 18 + 1, most=4 * 3 + 7 * 4 + 7 * 18 + 3))


def test_batch_normalization_of_features() -> None:
    def build() -> onnx.ModelProto:
        net = Net(13)
        y = net("Gemm", net.input("x", "N", 3), dead(net.normal(7, 3), 0, DEAD), transB=1)
        return net.model(net("Gemm", net("Relu", _norm(net, y)), net.normal(7, 2), net.normal(2)))

    examine(Case("", build, most=4 * 3 + 4 * 4 + 4 * 2 + 2))


BARRIERS: list[tuple[str, dict[str, Any], int, list[str]]] = [
    ("Softmax", {"axis": 1}, 18, []),
    ("LogSoftmax", {"axis": 1}, 18, []),
    ("LayerNormalization", {"axis": -1, "epsilon": 0.1}, 18, ["scale", "bias"]),
    ("RMSNormalization", {"axis": -1, "epsilon": 0.1}, 23, ["scale"]),
    ("LRN", {"size": 3, "alpha": 0.1}, 18, []),
    ("Hardmax", {"axis": 1}, 18, []),
    ("LpNormalization", {"axis": 1, "p": 2}, 18, []),
]


@pytest.mark.parametrize(("op", "attributes", "opset", "extra"), BARRIERS, ids=[b[0] for b in BARRIERS])
def test_over_the_dead_axis(op: str, attributes: dict[str, Any], opset: int, extra: list[str]) -> None:
    """Exact, whatever is done: the dead positions count in the statistics."""

    def build() -> onnx.ModelProto:
        net = Net(opset)
        if op == "LRN":
            y = net("Conv", net.input("x", "N", 3, 4, 5), dead(net.normal(7, 3, 1, 1), 0, DEAD))
            return net.model(net("Conv", net(op, y, **attributes), net.normal(2, 7, 1, 1)))
        y = net(
            "Gemm",
            net.input("x", "N", 3),
            dead(net.normal(7, 3), 0, DEAD),
            net.normal(7) if "Soft" in op else np.zeros(7, np.float32),
            transB=1,
        )
        if op == "LpNormalization":
            y = net("Add", net("Abs", y), 0.5)
        y = net(op, y, *[net.normal(7) for _ in extra], **attributes)
        return net.model(net("Gemm", y, net.normal(7, 2)))

    # The dead rows of the first weight need not be there, whatever the barrier reads.
    examine(Case("", build, most=None, stays=("Softmax",) if op == "Softmax" else ()))


@pytest.mark.parametrize("op", ["Softmax", "LogSoftmax"])
def test_a_softmax_over_another_axis_is_transparent(op: str) -> None:
    def build() -> onnx.ModelProto:
        net = Net()
        y = net("Conv", net.input("x", "N", 3, 4, 5), dead(net.normal(7, 3, 1, 1), 0, DEAD))
        return net.model(net("Conv", net(op, y, axis=3), net.normal(2, 7, 1, 1), net.normal(2)))

    # The softmax of a constant row of five is 1/5.
    examine(Case("", build))


def test_layer_normalization_divides_by_the_original_size() -> None:
    def build() -> onnx.ModelProto:
        net = Net()
        y = net("MatMul", net.input("x", "N", 4, 3), dead(net.normal(3, 7), 1, DEAD))
        y = net("LayerNormalization", y, net.normal(7), net.normal(7), axis=-1, epsilon=0.1)
        return net.model(net("MatMul", y, net.normal(7, 2)))

    examine(Case("", build))


def test_a_dead_scale_behind_layer_normalization() -> None:
    def build() -> onnx.ModelProto:
        net = Net()
        y = net("MatMul", net.input("x", "N", 4, 3), net.normal(3, 7))
        y = net("LayerNormalization", y, dead(net.normal(7), 0, DEAD), net.normal(7), axis=-1, epsilon=0.1)
        return net.model(net("MatMul", y, net.normal(7, 2)))

    # All seven are in the statistics.
    examine(Case("", build, least=7 * 3 + 4 + 4 * 2))


@pytest.mark.parametrize("op", ["InstanceNormalization", "GroupNormalization"])
def test_statistics_per_channel_or_group(op: str) -> None:
    def build() -> onnx.ModelProto:
        net = Net(21)
        y = net("Conv", net.input("x", "N", 3, 4, 5), dead(net.normal(6, 3, 1, 1), 0, [0, 1, 4]))
        groups: dict[str, Any] = {"num_groups": 3} if op == "GroupNormalization" else {}
        y = net(op, y, net.normal(6), net.normal(6), epsilon=0.1, **groups)
        return net.model(net("Conv", y, net.normal(2, 6, 1, 1)))

    examine(Case("", build, batches=(1, 5)))
