"""Unary and binary operators over dead channels: what f makes of the fill, and where it may be absorbed."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

from tests.ops.net import Case, Net, dead, examine

DEAD = [1, 4, 6]

# operator, attributes, opset, f(0) is 0, a second operand that makes any input legal
UNARY: list[tuple[str, dict[str, Any], int, bool, str]] = [
    ("Relu", {}, 18, True, ""),
    ("LeakyRelu", {"alpha": 0.2}, 18, True, ""),
    ("Elu", {}, 18, True, ""),
    ("Selu", {}, 18, True, ""),
    ("Celu", {}, 18, True, ""),
    ("ThresholdedRelu", {"alpha": 0.0}, 18, True, ""),
    ("HardSwish", {}, 18, True, ""),
    ("HardSigmoid", {}, 18, False, ""),
    ("Sigmoid", {}, 18, False, ""),
    ("Softplus", {}, 18, False, ""),
    ("Softsign", {}, 18, True, ""),
    ("Tanh", {}, 18, True, ""),
    ("Erf", {}, 18, True, ""),
    ("Gelu", {}, 20, True, ""),
    ("Gelu", {"approximate": "tanh"}, 20, True, ""),
    ("Mish", {}, 18, True, ""),
    ("Abs", {}, 18, True, ""),
    ("Neg", {}, 18, True, ""),
    ("Sin", {}, 18, True, ""),
    ("Cos", {}, 18, False, ""),
    ("Tan", {}, 18, True, "small"),
    ("Asin", {}, 18, True, "small"),
    ("Acos", {}, 18, False, "small"),
    ("Atan", {}, 18, True, ""),
    ("Sinh", {}, 18, True, "small"),
    ("Cosh", {}, 18, False, "small"),
    ("Asinh", {}, 18, True, ""),
    ("Acosh", {}, 18, False, "above one"),
    ("Atanh", {}, 18, True, "small"),
    ("Exp", {}, 18, False, "small"),
    ("Log", {}, 18, False, "positive"),
    ("Sqrt", {}, 18, True, "absolute"),
    ("Reciprocal", {}, 18, False, "positive"),
    ("Shrink", {"lambd": 0.5, "bias": 0.5}, 18, True, ""),
    ("Floor", {}, 18, True, "whole"),
    ("Ceil", {}, 18, True, "whole"),
    ("Round", {}, 18, True, "whole"),
    ("Sign", {}, 18, True, "whole"),
    ("Identity", {}, 18, True, ""),
    ("Dropout", {}, 18, True, ""),
    ("Cast", {"to": 1}, 18, True, ""),
]


def _first(net: Net, whole: bool = False) -> str:
    """Channels 0, 2, 3 and 5 of 7 live, the others are zero."""
    w = np.round(net.normal(7, 3, 1, 1) * 2 + 0.5) if whole else net.normal(7, 3, 1, 1)
    x = net.input("counts" if whole else "x", "N", 3, 4, 5)
    w[w == 0] = 1
    return net("Conv", x, dead(w.astype(np.float32), 0, DEAD))


def _legal(net: Net, y: str, guard: str) -> str:
    if guard == "small":
        return net("Mul", net("Tanh", y), 0.9)
    if guard in ("positive", "above one"):
        return net("Add", net("Abs", y), 0.5 if guard == "positive" else 1.5)
    return net("Abs", y) if guard == "absolute" else y


def _unary(op: str, attributes: dict[str, Any], opset: int, guard: str, padded: bool) -> onnx.ModelProto:
    net = Net(opset)
    y = net(op, _legal(net, _first(net, guard == "whole"), guard), **attributes)
    if padded:
        return net.model(net("Conv", y, net.normal(2, 7, 3, 3), net.normal(2), pads=[1, 1, 1, 1]))
    return net.model(net("Conv", y, net.normal(2, 7, 1, 1), net.normal(2)))


ROWS = [pytest.param(*row, id=f"{row[0]}{row[1] or ''}") for row in UNARY]


@pytest.mark.parametrize(("op", "attributes", "opset", "zero", "guard"), ROWS)
def test_unary_before_a_conv_that_absorbs_any_constant(
    op: str, attributes: dict[str, Any], opset: int, zero: bool, guard: str
) -> None:
    most = 4 * 3 + 4 * 2 + 2 + (guard in ("small", "positive", "above one"))
    examine(Case(op, lambda: _unary(op, attributes, opset, guard, False), most=most))


@pytest.mark.parametrize(("op", "attributes", "opset", "zero", "guard"), ROWS)
def test_unary_before_a_zero_padded_conv(
    op: str, attributes: dict[str, Any], opset: int, zero: bool, guard: str
) -> None:
    extra = guard in ("small", "positive", "above one")
    small = 4 * 3 + 4 * 2 * 9 + 2 + extra
    # A constant that is not zero is no bias at the border: exact whatever is kept, and something is.
    case = Case(
        op,
        lambda: _unary(op, attributes, opset, guard, True),
        most=small if zero else None,
        least=0 if zero else small + 1,
    )
    examine(case)


# Binary operators with a constant per channel: the constant is narrowed with the channels.
BINARY: list[tuple[str, str, bool]] = [
    ("Add", "normal", False),
    ("Sub", "normal", False),
    ("Mul", "normal", False),
    ("Div", "positive", False),
    ("Max", "normal", False),
    ("Min", "normal", False),
    ("Pow", "exponent", False),
    ("PRelu", "normal", False),
    ("Add", "normal", True),
    ("Sub", "normal", True),
    ("Mul", "normal", True),
    ("Div", "normal", True),
    ("Max", "normal", True),
    ("Pow", "positive", True),
]


@pytest.mark.parametrize(("op", "kind", "swapped"), BINARY)
@pytest.mark.parametrize("shape", [(1, 7, 1, 1), (7, 1, 1), (1,), (7, 4, 5), ()])
def test_binary_with_a_constant(op: str, kind: str, swapped: bool, shape: tuple[int, ...]) -> None:
    def build() -> onnx.ModelProto:
        net = Net()
        y = _first(net)
        numbers = net.normal(*shape)
        if kind in ("positive", "exponent"):
            numbers = np.abs(numbers) + 0.5
        if op == "Pow" or (op == "Div" and swapped):
            y = net("Add", net("Abs", net("Tanh", y)), 0.5)
        y = net(op, numbers, y) if swapped else net(op, y, numbers)
        return net.model(net("Conv", y, net.normal(2, 7, 1, 1), net.normal(2)))

    guard = op == "Pow" or (op == "Div" and swapped)
    if shape == (7, 4, 5):
        # An array per pixel makes the dead channels vary over the picture: they are zero only where 0 op c is 0.
        zero = (op in ("Mul", "PRelu") or (op == "Div" and not swapped)) and not guard
        examine(Case("", build, most=4 * 3 + 4 * 2 + 2 + 4 * 20 if zero else None))
        return
    numbers = 4 if 7 in shape else 1
    examine(Case("", build, most=4 * 3 + 4 * 2 + 2 + numbers + guard))


@pytest.mark.parametrize("op", ["Add", "Sub", "Mul", "Max", "Min", "Sum", "Mean"])
@pytest.mark.parametrize("other", [[1, 4, 6], [1, 2], []])
def test_binary_of_two_values(op: str, other: list[int]) -> None:
    def build() -> onnx.ModelProto:
        net = Net()
        x = net.input("x", "N", 3, 4, 5)
        y = net("Conv", x, dead(net.normal(7, 3, 1, 1), 0, [1, 4, 6]))
        z = net("Conv", x, dead(net.normal(7, 3, 1, 1), 0, other))
        return net.model(net("Conv", net(op, y, z), net.normal(2, 7, 1, 1)))

    left, right = 4, 7 - len(other)
    both = len({1, 4, 6} & set(other))
    if op == "Mul":  # the product is zero where either is
        live = len({0, 1, 2, 3, 4, 5, 6} - {1, 4, 6} - set(other))
        left = right = live
    else:
        live = 7 - both
    # Where one side alone is dead it is a delayed scatter: its own weights need not be there.
    # Bringing the sides together may cost a zero for each.
    examine(Case("", build, most=3 * left + 3 * right + 2 * live + 2))


@pytest.mark.parametrize(
    ("low", "high", "zero"), [(0.0, 6.0, True), (-1.0, 1.0, True), (0.5, 2.0, False), (None, -0.5, False)]
)
@pytest.mark.parametrize("padded", [False, True])
def test_clip(low: float | None, high: float, zero: bool, padded: bool) -> None:
    def build() -> onnx.ModelProto:
        net = Net()
        y = net("Clip", _first(net), net.constant(low) if low is not None else "", high)
        k, pads = (3, [1, 1, 1, 1]) if padded else (1, [0, 0, 0, 0])
        return net.model(net("Conv", y, net.normal(2, 7, k, k), net.normal(2), pads=pads))

    bounds = 2 if low is not None else 1
    if padded:
        small = 4 * 3 + 4 * 18 + 2 + bounds
        examine(Case("", build, most=small if zero else None, least=0 if zero else small + 1))
    else:
        examine(Case("", build, most=4 * 3 + 4 * 2 + 2 + bounds))


def test_relu_over_a_negative_bias_kills_the_channel() -> None:
    def build() -> onnx.ModelProto:
        net = Net()
        y = net("Conv", net.input("x", "N", 3, 4, 5), dead(net.normal(7, 3, 1, 1), 0, DEAD), -np.abs(net.normal(7)))
        y = net("Relu", y)
        return net.model(net("Conv", y, net.normal(2, 7, 3, 3), net.normal(2), pads=[1, 1, 1, 1]))

    examine(Case("", build, most=4 * 4 + 4 * 18 + 2))  # relu(b) = 0: the padding does not matter


def test_relu_over_a_positive_bias_does_not() -> None:
    def build() -> onnx.ModelProto:
        net = Net()
        y = net("Conv", net.input("x", "N", 3, 4, 5), dead(net.normal(7, 3, 1, 1), 0, DEAD), np.abs(net.normal(7)))
        y = net("Relu", y)
        return net.model(net("Conv", y, net.normal(2, 7, 3, 3), net.normal(2), pads=[1, 1, 1, 1]))

    examine(Case("", build, least=4 * 4 + 4 * 18 + 2 + 1))


def test_where_between_two_values_with_a_constant_condition() -> None:
    def build() -> onnx.ModelProto:
        net = Net()
        x = net.input("x", "N", 3, 4, 5)
        y, z = net("Conv", x, net.normal(7, 3, 1, 1)), net("Conv", x, net.normal(7, 3, 1, 1))
        choose = np.isin(np.arange(7), DEAD).reshape(1, 7, 1, 1)
        return net.model(net("Conv", net("Where", choose, y, z), net.normal(2, 7, 1, 1)))

    # 3 channels of one, 4 of the other.
    examine(Case("", build, most=3 * 3 + 4 * 3 + 2 * 7))


def test_where_with_a_dynamic_condition_needs_both() -> None:
    def build() -> onnx.ModelProto:
        net = Net()
        y = _first(net)
        return net.model(
            net("Conv", net("Where", net.input("gate_c", 7, 1, 1, dtype="b"), y, 1.0), net.normal(2, 7, 1, 1))
        )

    # A dead channel is 0 or 1: seven channels stay at least behind the Where.
    examine(Case("", build, least=4 * 3 + 2 * 7))


def test_a_residual_add_at_the_output_stays_whole() -> None:
    def build() -> onnx.ModelProto:
        net = Net()
        x = net.input("x", "N", 7, 4, 5)
        y = net("Conv", x, dead(net.normal(7, 7, 1, 1), 0, DEAD))
        return net.model(net("Add", x, y))

    # The branch is narrowed, the stream is not.
    examine(Case("", build, most=4 * 7, least=4 * 7))
