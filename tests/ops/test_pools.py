"""Pools over dead channels: where the fill survives the padding, and where it does not."""

from __future__ import annotations

from typing import Any

import onnx
import pytest

from tests.ops.net import Case, Net, dead, examine

DEAD = [1, 4, 6]
SMALL = 4 * 3 + 4 * 2 + 2

POOLS: list[tuple[str, dict[str, Any]]] = [
    ("MaxPool", {"kernel_shape": [2, 2]}),
    ("MaxPool", {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "strides": [2, 2]}),
    ("MaxPool", {"kernel_shape": [3, 3], "pads": [1, 0, 0, 1], "ceil_mode": 1, "strides": [2, 2]}),
    ("MaxPool", {"kernel_shape": [2, 2], "dilations": [2, 2]}),
    ("MaxPool", {"kernel_shape": [3, 3], "auto_pad": "SAME_UPPER"}),
    ("AveragePool", {"kernel_shape": [2, 2]}),
    ("AveragePool", {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "strides": [2, 2]}),
    ("AveragePool", {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "count_include_pad": 1}),
    ("AveragePool", {"kernel_shape": [2, 3], "ceil_mode": 1, "strides": [2, 2]}),
    ("AveragePool", {"kernel_shape": [3, 3], "auto_pad": "SAME_LOWER", "count_include_pad": 1}),
    ("LpPool", {"kernel_shape": [2, 2], "p": 2}),
    ("LpPool", {"kernel_shape": [3, 3], "p": 1, "pads": [1, 1, 1, 1]}),
    ("GlobalAveragePool", {}),
    ("GlobalMaxPool", {}),
    ("GlobalLpPool", {"p": 2}),
]
ROWS = [pytest.param(op, a, id=f"{op}{a}") for op, a in POOLS]


def _net(op: str, attributes: dict[str, Any], before: str | None) -> onnx.ModelProto:
    net = Net()
    y = net("Conv", net.input("x", "N", 3, 6, 7), dead(net.normal(7, 3, 1, 1), 0, DEAD))
    y = net(op, net(before, y) if before else y, **attributes)
    return net.model(net("Conv", y, net.normal(2, 7, 1, 1), net.normal(2)))


@pytest.mark.parametrize(("op", "attributes"), ROWS)
def test_zero_channels_stay_zero(op: str, attributes: dict[str, Any]) -> None:
    examine(Case("", lambda: _net(op, attributes, None), most=SMALL))


@pytest.mark.parametrize(("op", "attributes"), ROWS)
def test_constant_channels(op: str, attributes: dict[str, Any]) -> None:
    """Sigmoid(0) = 1/2: constant behind the pool, unless padding is counted or summed."""
    padded = "pads" in attributes or "auto_pad" in attributes
    mixed = padded and (op == "LpPool" or attributes.get("count_include_pad") == 1)
    summed = op in ("LpPool", "GlobalLpPool")  # a constant, but another one
    if mixed:
        examine(Case("", lambda: _net(op, attributes, "Sigmoid"), least=SMALL + 1))
    else:
        examine(Case("", lambda: _net(op, attributes, "Sigmoid"), most=None if summed else SMALL))


def test_the_indices_of_a_max_pool_need_every_channel() -> None:
    """They count through all channels: with channels cut they would be others."""

    def build() -> onnx.ModelProto:
        net = Net()
        y = net("Conv", net.input("x", "N", 3, 6, 6), dead(net.normal(7, 3, 1, 1), 0, DEAD))
        values, indices = net.many("MaxPool", y, outputs=2, kernel_shape=[2, 2], strides=[2, 2])
        z = net("Cast", net("ReduceMax", net("Cast", indices, to=1), [1, 2, 3], keepdims=0), to=7)
        return net.model(net("Conv", values, net.normal(2, 7, 1, 1)), z)

    examine(Case("", build, batches=(1, 5)))


def test_squeeze_and_excite() -> None:
    def build() -> onnx.ModelProto:
        net = Net()
        y = net("Relu", net("Conv", net.input("x", "N", 3, 6, 7), dead(net.normal(7, 3, 1, 1), 0, DEAD)))
        s = net(
            "Relu", net("Conv", net("GlobalAveragePool", y), dead(net.normal(5, 7, 1, 1), 0, [0, 3]), net.normal(5))
        )
        s = net("Sigmoid", net("Conv", s, net.normal(7, 5, 1, 1), net.normal(7)))
        return net.model(net("Conv", net("Mul", y, s), net.normal(2, 7, 1, 1)))

    # The gate of a dead channel is not read; two hidden units are constant.
    examine(Case("", build, most=4 * 3 + (4 + 1) * 3 + 4 * 3 + 4 + 4 * 2))


def test_a_gate_whose_unit_is_dead_is_a_constant_gate() -> None:
    def build() -> onnx.ModelProto:
        net = Net()
        y = net("Conv", net.input("x", "N", 3, 6, 7), net.normal(5, 3, 1, 1))
        s = net("Sigmoid", net("Conv", net("GlobalAveragePool", y), dead(net.normal(5, 5, 1, 1), 0, [2])))
        return net.model(net("Conv", net("Mul", y, s), net.normal(2, 5, 1, 1)))

    # Sigmoid(0) = 1/2 does not kill channel 2: it must survive, halved.
    examine(Case("", build, least=5 * 3 + 4 * 5 + 5 * 2))
