"""RMSNorm and LayerNorm over an axis with dead positions: the statistics stay those of all positions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import pytest

from graphopt import model as models
from tests.ops.net import Case, Net, dead, examine
from tests.strategies import check

DEAD = [1, 4, 6]
LIVE = 4
MICROSOFT = "com.microsoft"


def source(net: Net, *, fill: float = 0.0, positions: Sequence[int] = DEAD) -> str:
    """``[N, 3]`` to ``[N, 7]``, some of which are zero, or another constant."""
    x = net.input("x", "N", 3)
    y = net("MatMul", x, dead(net.normal(3, 7), 1, positions))
    return net("Add", y, dead(np.zeros(7, np.float32), 0, positions, fill)) if fill else y


def rms(net: Net, x: str, **attributes: Any) -> str:
    scale = net.normal(7)
    if net.opset >= 23:
        return net("RMSNormalization", x, scale, axis=-1, epsilon=0.1, **attributes)
    return net("SimplifiedLayerNormalization", x, scale, axis=-1, epsilon=0.1, **attributes)


def layer(net: Net, x: str, silent: Sequence[int], shift: float | None = 0.0, epsilon: float = 0.1) -> str:
    """LayerNorm whose scale is zero at some positions, and whose shift is ``shift`` there (None: it has none)."""
    parameters = [dead(net.normal(7), 0, silent)]
    if shift is not None:
        parameters.append(dead(net.normal(7), 0, silent, shift))
    return net("LayerNormalization", x, *parameters, axis=-1, epsilon=epsilon)


@pytest.mark.parametrize("opset", [18, 23])
def test_zeros_leave_an_rms_norm(opset: int) -> None:
    def build() -> onnx.ModelProto:
        net = Net(opset)
        return net.model(net("MatMul", rms(net, source(net)), net.normal(7, 2)))

    examine(Case("", build, most=3 * LIVE + LIVE + LIVE * 2))


@pytest.mark.parametrize("opset", [18, 23])
def test_other_constants_leave_an_rms_norm_when_nobody_reads_them(opset: int) -> None:
    def build(unread: Sequence[int]) -> onnx.ModelProto:
        net = Net(opset)
        return net.model(net("MatMul", rms(net, source(net, fill=0.5)), dead(net.normal(7, 2), 0, unread)))

    examine(Case("unread", lambda: build(DEAD), most=3 * LIVE + LIVE + LIVE * 2))
    # One that is read depends on all the others; it has to be there, and its scale with it.
    examine(Case("one is read", lambda: build(DEAD[1:]), least=3 * LIVE + 5 + 5 * 2))


def test_an_rms_norm_of_what_lives_needs_all_of_it() -> None:
    def build() -> onnx.ModelProto:
        net = Net(23)
        y = net("MatMul", net.input("x", "N", 3), net.normal(3, 7))
        return net.model(net("MatMul", rms(net, y), dead(net.normal(7, 2), 0, DEAD)))

    examine(Case("", build, least=3 * 7 + 4 + 4 * 2))


@pytest.mark.parametrize("kind", ["zeros", "a constant", "both axes"])
def test_an_rms_norm_over_two_axes(kind: str) -> None:
    def build() -> onnx.ModelProto:
        net = Net(23)
        rows = [0, 3] if kind == "both axes" else []
        x = net("MatMul", dead(net.normal(5, 2), 0, rows), net.input("x", "N", 2, 3))
        y = net("MatMul", x, dead(net.normal(3, 7), 1, DEAD))
        if kind == "a constant":
            y = net("Add", y, dead(np.zeros(7, np.float32), 0, DEAD, 0.5))
        y = net("RMSNormalization", y, net.normal(5, 7), axis=-2, epsilon=0.1)
        y = net("MatMul", y, dead(net.normal(7, 2), 0, DEAD))
        return net.model(net("MatMul", net.normal(2, 5), y))

    rows = 3 if kind == "both axes" else 5
    examine(Case("", build, most=rows * 2 + 3 * LIVE + rows * LIVE + LIVE * 2 + rows * 2, batches=(1, 5)))


def test_an_rms_norm_over_two_axes_with_constants_in_both() -> None:
    def build() -> onnx.ModelProto:
        net = Net(23)
        y = net("MatMul", net.input("x", "N", 5, 3), dead(net.normal(3, 7), 1, DEAD))
        y = net(
            "Where",
            dead(np.ones((5, 1), bool), 0, [0, 3], False),
            net("Add", y, dead(np.zeros(7, np.float32), 0, DEAD, 0.5)),
            0.5,
        )
        y = net("RMSNormalization", y, dead(dead(net.normal(5, 7), 1, DEAD), 0, [0, 3]), axis=-2, epsilon=0.1)
        return net.model(net("MatMul", y, net.normal(7, 2)))

    examine(Case("", build))


def test_an_rms_norm_by_hand() -> None:
    def build() -> onnx.ModelProto:
        net = Net(18)
        x = source(net)
        mean = net("Add", net("ReduceMean", net("Pow", x, 2.0), [-1]), 0.1)
        y = net("Mul", net("Div", x, net("Sqrt", mean)), net.normal(7))
        return net.model(net("MatMul", y, net.normal(7, 2)))

    # Exponent and epsilon are numbers too.
    examine(Case("", build, most=3 * LIVE + LIVE + LIVE * 2 + 2))


@pytest.mark.parametrize("shown", [False, True])
@pytest.mark.parametrize("biased", [False, True])
def test_a_sum_in_front_of_an_rms_norm(shown: bool, biased: bool) -> None:
    def build() -> onnx.ModelProto:
        net = Net(18)
        x = source(net)
        other = net("MatMul", "x", dead(net.normal(3, 7), 1, DEAD))
        parameters = [net.normal(7)] + ([dead(net.normal(7), 0, DEAD)] if biased else [])
        outputs = net.many(
            "SkipSimplifiedLayerNormalization", x, other, *parameters, outputs=4, domain=MICROSOFT, epsilon=0.1
        )
        y = net("MatMul", outputs[0], net.normal(7, 2))
        if shown:
            y = net("Add", y, net("MatMul", outputs[3], net.normal(7, 2)))
        return net.model(y)

    examine(Case("", build, most=2 * 3 * LIVE + LIVE * (1 + biased) + LIVE * 2 * (1 + shown)))


@pytest.mark.parametrize("opset", [17, 18, 22, 23])
@pytest.mark.parametrize("fill", [0.0, 0.5])
@pytest.mark.parametrize("how", ["silent", "constant", "unread", "no shift"])
def test_a_layer_norm_of_dead_positions_that_nobody_reads(opset: int, fill: float, how: str) -> None:
    def build() -> onnx.ModelProto:
        net = Net(opset)
        silent = [] if how == "unread" else DEAD
        shift = {"silent": 0.0, "constant": 0.7, "unread": 0.7, "no shift": None}[how]
        y = layer(net, source(net, fill=fill), silent, shift)
        return net.model(net("MatMul", y, dead(net.normal(7, 2), 0, DEAD if how == "unread" else [])))

    # Scale and shift, one more element of the scale, and the numbers that correct the statistics; a bias.
    most = (
        3 * LIVE + LIVE * (1 if how == "no shift" else 2) + LIVE * 2 + 1 + 3 + 2 * (fill > 0) + 2 * (how == "constant")
    )
    examine(Case("", build, most=most))


@pytest.mark.parametrize("opset", [17, 23])
def test_a_layer_norm_of_dead_positions_that_are_read(opset: int) -> None:
    """A zero becomes ``-mean / std * scale + shift``, which is none."""

    def build(silent: Sequence[int]) -> onnx.ModelProto:
        net = Net(opset)
        return net.model(net("MatMul", layer(net, source(net), silent), net.normal(7, 2)))

    examine(Case("all", lambda: build([]), most=3 * LIVE + 7 * 2 + 7 * 2, least=3 * LIVE + 7 * 2 + 7 * 2))
    examine(Case("one", lambda: build(DEAD[1:]), least=3 * LIVE + 5 * 2 + 5 * 2))


def test_a_layer_norm_without_an_epsilon() -> None:
    """Where all that is left is equal, its variance alone is zero, and the original's is not."""

    def build() -> onnx.ModelProto:
        net = Net(17)
        return net.model(net("MatMul", layer(net, source(net), DEAD, epsilon=0.0), net.normal(7, 2)))

    examine(Case("", build, least=3 * LIVE + 7 + LIVE * 2, batches=(1, 5)))


def test_a_layer_norm_of_equal_numbers() -> None:
    """Of the positions that are left the variance is zero."""

    def build() -> onnx.ModelProto:
        net = Net(17)
        y = net("MatMul", net.input("x", "N", 1), dead(np.ones((1, 7), np.float32), 1, DEAD))
        return net.model(net("MatMul", layer(net, y, DEAD), net.normal(7, 2)))

    examine(Case("", build, most=LIVE + 2 * LIVE + LIVE * 2 + 2))


@pytest.mark.parametrize("opset", [17, 23])
@pytest.mark.parametrize("fill", [0.0, 0.5])
def test_the_statistics_of_a_layer_norm_are_those_of_all(opset: int, fill: float) -> None:
    def build() -> onnx.ModelProto:
        net = Net(opset)
        x = source(net, fill=fill)
        scale, shift = dead(net.normal(7), 0, DEAD), dead(net.normal(7), 0, DEAD)
        outputs = net.many("LayerNormalization", x, scale, shift, outputs=3, epsilon=0.1)
        return net.model(net("MatMul", outputs[0], net.normal(7, 2)), outputs[1], outputs[2])

    examine(Case("", build, most=3 * LIVE + 2 * LIVE + LIVE * 2 + 3 + 2 * (fill > 0)))


def test_only_the_statistics_of_a_layer_norm() -> None:
    def build() -> onnx.ModelProto:
        net = Net(17)
        outputs = net.many("LayerNormalization", source(net), net.normal(7), outputs=3, epsilon=0.1)
        return net.model(outputs[1], outputs[2])

    examine(Case("", build, most=3 * LIVE + LIVE + 3))


@pytest.mark.parametrize("opset", [17, 23])
def test_a_layer_norm_over_two_axes(opset: int) -> None:
    def build() -> onnx.ModelProto:
        net = Net(opset)
        y = net("MatMul", net.input("x", "N", 5, 3), dead(net.normal(3, 7), 1, DEAD))
        y = net("Add", y, dead(np.zeros(7, np.float32), 0, DEAD, 0.5))
        y = net("LayerNormalization", y, net.normal(5, 7), net.normal(5, 7), axis=1, epsilon=0.1)
        return net.model(net("MatMul", y, dead(net.normal(7, 2), 0, DEAD)))

    examine(Case("", build, most=3 * LIVE + 2 * 5 * LIVE + LIVE * 2 + 4))


@pytest.mark.parametrize("opset", [17, 23])
@pytest.mark.parametrize("shown", [False, True])
@pytest.mark.parametrize("biased", [False, True])
def test_a_sum_in_front_of_a_layer_norm(opset: int, shown: bool, biased: bool) -> None:
    def build() -> onnx.ModelProto:
        net = Net(opset)
        x = net("MatMul", net.input("x", "N", 4, 3), dead(net.normal(3, 7), 1, DEAD))
        other = net("MatMul", "x", dead(net.normal(3, 7), 1, DEAD))
        parameters = [dead(net.normal(7), 0, DEAD), dead(net.normal(7), 0, DEAD)]
        parameters += [dead(net.normal(7), 0, DEAD, 0.5)] if biased else []
        outputs = net.many("SkipLayerNormalization", x, other, *parameters, outputs=4, domain=MICROSOFT, epsilon=0.1)
        y = net("MatMul", outputs[0], net.normal(7, 2))
        if shown:
            y = net("Add", y, net("MatMul", outputs[3], net.normal(7, 2)))
        return net.model(y)

    most = 2 * 3 * LIVE + LIVE * (2 + biased) + LIVE * 2 * (1 + shown) + 1 + 3 + 2 * biased + 2 * (shown and biased)
    examine(Case("", build, most=most))


@pytest.mark.parametrize(
    ("op", "opset"), [("LayerNormalization", 17), ("LayerNormalization", 23), ("RMSNormalization", 23)]
)
def test_halves_are_as_exact_as_before(op: str, opset: int) -> None:
    """The narrowed model is as near to what floats give as the original is; the scale of an RMSNorm is rounded anew."""

    def build(dtype: type) -> onnx.ModelProto:
        net = Net(opset)
        to = onnx.TensorProto.FLOAT16 if dtype is np.float16 else onnx.TensorProto.FLOAT
        halves = [dead(net.normal(3, 64), 1, range(20)), dead(net.normal(64), 0, range(20))]
        halves += [dead(net.normal(64), 0, range(20))] if op == "LayerNormalization" else []
        weight, *parameters = (array.astype(np.float16).astype(dtype) for array in halves)
        y = net("MatMul", net("Cast", net.input("x", "N", 3), to=to), weight)
        y = net("Cast", net(op, y, *parameters, axis=-1), to=onnx.TensorProto.FLOAT)
        return net.model(net("MatMul", y, net.normal(64, 2)))

    x = {"x": np.random.default_rng(0).standard_normal((50, 3)).astype(np.float16).astype(np.float32)}
    model = build(np.float16)
    exact, before = (np.asarray(check.session(m).run(None, x)[0]) for m in (build(np.float32), model))
    narrow = check.optimized(model, "optimize", plan="smallest")
    after = np.asarray(check.session(models.serialize(narrow.model)).run(None, x)[0])
    assert narrow.report.after.parameters <= 44 * (5 + len(model.graph.node[2].input) - 1) + 10
    assert np.abs(after - exact).max() <= (2 if op[0] == "R" else 1.2) * np.abs(before - exact).max()
