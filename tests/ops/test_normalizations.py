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

    # The softmax of a constant row of five is 1/5, which goes into the bias.
    examine(Case("", build, most=4 * 3 + 4 * 2 + 2))


def channels(net: Net, count: int, positions: list[int], fill: float = 0.0) -> str:
    """An image whose channels at these positions are zero, or another constant."""
    weight = dead(net.normal(count, 3, 1, 1), 0, positions)
    bias = [dead(np.zeros(count, np.float32), 0, positions, fill)] if fill else []
    return net("Conv", net.input("x", "N", 3, 4, 5), weight, *bias)


@pytest.mark.parametrize("p", [1, 2])
def test_zeros_leave_a_norm(p: int) -> None:
    def build(fill: float, axis: int) -> onnx.ModelProto:
        net = Net(13)
        y = net(
            "Gemm",
            net.input("x", "N", 3),
            dead(net.normal(7, 3), 0, DEAD),
            dead(net.normal(7), 0, DEAD, fill),
            transB=1,
        )
        return net.model(net("Gemm", net("LpNormalization", y, axis=axis, p=p), net.normal(7, 2)))

    examine(Case("zeros", lambda: build(0.0, -1), most=4 * 3 + 4 + 4 * 2, batches=(1, 5)))
    examine(Case("constants count", lambda: build(0.5, 1), least=4 * 3 + 4 + 7 * 2, batches=(1, 5)))


@pytest.mark.parametrize("fill", [0.0, 0.5])
@pytest.mark.parametrize("padded", [False, True])
def test_a_constant_channel_is_the_shift_behind_an_instance_norm(fill: float, padded: bool) -> None:
    def build(shift: float) -> onnx.ModelProto:
        net = Net(18)
        y = channels(net, 7, DEAD, fill)
        shifts = dead(net.normal(7), 0, DEAD, shift)
        y = net("InstanceNormalization", y, net.normal(7), shifts, epsilon=0.1)
        size, pads = 3 if padded else 1, 1 if padded else 0
        return net.model(net("Conv", y, net.normal(2, 7, size, size), pads=[pads] * 4))

    taps = 9 if padded else 1
    bias = 4 * (fill > 0)
    examine(Case("zero", lambda: build(0.0), most=4 * 3 + bias + 2 * 4 + 4 * 2 * taps))
    # Not in front of zero padding: there, it takes a map or a plane.
    examine(Case("constant", lambda: build(0.5), most=None if padded else 4 * 3 + bias + 2 * 4 + 4 * 2 + 2))


def test_a_living_channel_with_a_scale_of_zero_is_not_normalized() -> None:
    def build(silent: list[int]) -> onnx.ModelProto:
        net = Net(18)
        y = channels(net, 7, [])
        y = net("InstanceNormalization", y, dead(net.normal(7), 0, silent), net.normal(7), epsilon=0.1)
        return net.model(net("Conv", y, net.normal(2, 7, 1, 1)))

    examine(Case("", lambda: build(DEAD), most=4 * 3 + 2 * 4 + 4 * 2 + 2))
    examine(Case("alive", lambda: build([]), least=7 * 3 + 2 * 7 + 7 * 2))


@pytest.mark.parametrize("opset", [18, 21])
@pytest.mark.parametrize("fill", [0.0, 0.5])
def test_groups_leave_as_a_whole(opset: int, fill: float) -> None:
    def build(positions: list[int]) -> onnx.ModelProto:
        net = Net(opset)
        y = channels(net, 6, positions, fill)
        size = 6 if opset >= 21 else 3
        y = net("GroupNormalization", y, net.normal(size), net.normal(size), num_groups=3, epsilon=0.1)
        return net.model(net("Conv", y, net.normal(2, 6, 1, 1)))

    per = 1 if opset >= 21 else 2
    bias = 4 * (fill > 0)
    # What is left of the dead group is its shift, which goes into a bias.
    examine(Case("one", lambda: build([2, 3]), most=4 * 3 + bias + 2 * 4 // per + 4 * 2 + 2, batches=(1, 5)))
    examine(Case("half of one", lambda: build([3]), least=5 * 3 + 2 * 6 // per + 6 * 2, batches=(1, 5)))


def test_a_group_of_different_constants() -> None:
    """Its mean and variance are known, so that its channels are constants as well."""

    def build() -> onnx.ModelProto:
        net = Net(21)
        weight = dead(net.normal(6, 3, 1, 1), 0, [2, 3])
        y = net("Conv", net.input("x", "N", 3, 4, 5), weight, np.array([0, 0, 0.5, -2, 0, 0], np.float32))
        y = net("GroupNormalization", y, net.normal(6), net.normal(6), num_groups=3, epsilon=0.1)
        return net.model(net("Conv", y, net.normal(2, 6, 1, 1)))

    examine(Case("", build, most=4 * 3 + 4 + 2 * 4 + 4 * 2 + 2, batches=(1, 5)))


def test_a_group_whose_scales_are_zero() -> None:
    def build(silent: list[int]) -> onnx.ModelProto:
        net = Net(21)
        y = channels(net, 6, [])
        y = net("GroupNormalization", y, dead(net.normal(6), 0, silent), net.normal(6), num_groups=3, epsilon=0.1)
        return net.model(net("Conv", y, net.normal(2, 6, 1, 1)))

    examine(Case("all", lambda: build([2, 3]), most=4 * 3 + 2 * 4 + 4 * 2 + 2, batches=(1, 5)))
    examine(Case("one", lambda: build([3]), least=6 * 3 + 2 * 5 + 5 * 2, batches=(1, 5)))


def test_a_channel_of_zeros_between_others_stays_where_it_is() -> None:
    """LRN divides by what is beside it; the zero itself stays zero, and its reader need not read it."""

    def build() -> onnx.ModelProto:
        net = Net(18)
        y = net("LRN", channels(net, 7, DEAD), size=3, alpha=0.5)
        return net.model(net("Conv", y, net.normal(2, 7, 1, 1)))

    examine(Case("", build, most=4 * 3 + 4 * 2))


@pytest.mark.parametrize("axes", [[2, 3], [0, 2, 3], [1]])
def test_unread_channels_of_a_mean_variance_normalization(axes: list[int]) -> None:
    """Channels that nobody reads leave where they are not normalized over; a constant one is the runtime's choice."""

    def build() -> onnx.ModelProto:
        net = Net(13)
        y = net("MeanVarianceNormalization", channels(net, 7, []), axes=axes)
        return net.model(net("Conv", y, dead(net.normal(2, 7, 1, 1), 1, DEAD)))

    whole = axes == [1]
    rows = 7 if whole else 4
    examine(Case("", build, most=rows * 3 + 4 * 2, least=rows * 3 + 4 * 2, batches=(1, 5)))


@pytest.mark.parametrize("shape", ["numbers", "computed", "unknown sizes"])
def test_a_group_norm_as_torch_writes_it(shape: str) -> None:
    """``[N, C, H, W] -> [N, G, C/G*H*W]``, an instance norm, and back."""

    def build(positions: list[int]) -> onnx.ModelProto:
        net = Net(18)
        x = net.input("x", "N", 3, *([4, 5] if shape != "unknown sizes" else ["h", "w"]))
        y = net("Conv", x, dead(net.normal(6, 3, 1, 1), 0, positions))
        groups = net("Reshape", y, [0, 3, -1])
        groups = net("InstanceNormalization", groups, np.ones(3, np.float32), np.zeros(3, np.float32), epsilon=0.1)
        back = [-1, 6, 4, 5] if shape == "numbers" else net("Shape", y)
        scale, shift = (dead(net.normal(6, 1, 1), 0, positions) for _ in range(2))
        y = net("Add", net("Mul", net("Reshape", groups, back), scale), shift)
        return net.model(net("Conv", y, net.normal(2, 6, 1, 1)))

    unit = 2 * 2
    examine(Case("a group", lambda: build([2, 3]), most=4 * 3 + unit + 2 * 4 + 4 * 2, gone=("Pad",), batches=(1, 5)))
    # The other channel of its group counts in the statistics: a scatter brings it back.
    examine(Case("half of one", lambda: build([3]), least=5 * 3 + 6 + 2 * 5 + 5 * 2, batches=(1, 5)))


@pytest.mark.parametrize(("shift", "claimed"), [(0.0, False), (1.5, True)])
def test_constants_behind_which_only_rounding_is_left(shift: float, claimed: bool) -> None:
    """The mean of equal numbers is not quite that number: nobody can say what comes out, unless the shift drowns it."""

    def build() -> onnx.ModelProto:
        net = Net(21)
        y = net("Conv", net.input("x", "N", 3, 4, 5), dead(net.normal(4, 3, 1, 1), 0, [0, 1, 2, 3]), net.normal(4))
        shifts = np.full(4, shift, np.float32)
        return net.model(net("InstanceNormalization", y, net.normal(4), shifts, epsilon=0.1))

    examine(Case("", build, batches=(1, 5), stays=() if claimed else ("InstanceNormalization",)))
