"""lower-int8: what becomes an operator on int8, the numbers of it, and the smallest changes that prevent it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest

from graphopt import model as models
from graphopt import rounds, runtime
from graphopt.context import Context
from graphopt.passes.lower.lower_int8 import LowerInt8
from graphopt.rounds import Settings
from tests.ops.net import Net

STEP = {"x": np.float32(0.03), "w": np.float32(0.01), "y": np.float32(0.05), "r": np.float32(0.04)}


class Layers(Net):
    """A net with Q and DQ of int8."""

    def q(self, x: str, step: Any = STEP["y"], zero: int = -3) -> str:
        return self("QuantizeLinear", x, np.asarray(step), np.array(zero, np.int8))

    def dq(self, x: str, step: Any = STEP["y"], zero: int = -3) -> str:
        return self("DequantizeLinear", x, np.asarray(step), np.array(zero, np.int8))

    def read(self, name: str, *shape: int | str, step: Any = STEP["x"], zero: int = 5) -> str:
        """A graph input through Q and DQ."""
        return self.dq(self.q(self.input(name, *shape), step, zero), step, zero)

    def weight(self, *shape: int, axis: int | None = 0, zero: int = 0) -> str:
        numbers = self.rng.integers(-127, 128, shape).astype(np.int8)
        scale = np.full(shape[axis], STEP["w"]) * self.rng.uniform(0.5, 2, shape[axis]) if axis is not None else None
        step = STEP["w"] if scale is None else scale.astype(np.float32)
        zeros = np.full(np.shape(step), zero, np.int8)
        self.steps = step
        attributes: dict[str, Any] = {} if axis is None else {"axis": axis}
        return self("DequantizeLinear", numbers, np.asarray(step), zeros, **attributes)

    def bias(self, size: int, factor: float = 1.0) -> str:
        """In units of the scales of x and of the last weight."""
        step = np.broadcast_to(np.asarray(STEP["x"] * self.steps * np.float32(factor), np.float32), size).copy()
        numbers = self.rng.integers(-2000, 2000, size).astype(np.int32)
        return self("DequantizeLinear", numbers, step, np.zeros(size, np.int32), axis=0)

    def out(self, x: str, **options: Any) -> onnx.ModelProto:
        """``x`` through Q and DQ, as the output."""
        return self.model(self.dq(self.q(x, **options), **options))


def prepared(proto: onnx.ModelProto) -> Context:
    return rounds.prepare(models.load(proto), Settings((), target="cuda", operators=True))


def lowered(proto: onnx.ModelProto) -> tuple[list[str], Any]:
    """Run the pass; compare with the model as it is written, within one step; return what is called, and the node."""
    context = prepared(proto)
    changed = LowerInt8().run(context)
    models.check(context.model)
    called = [node for node in context.model.graph if node.domain == "graphopt"]
    assert changed == bool(called) and not LowerInt8().run(context)
    if not changed:
        assert models.serialize(context.model) == models.serialize(prepared(proto).model)
        return [], None
    rng = np.random.default_rng(1)
    for batch in (1, 3):
        feeds = {
            value.name: rng.normal(size=[size if isinstance(size, int) else batch for size in value.shape])
            .astype(np.float32)
            for value in context.model.graph.inputs
            if value.name is not None and value.shape is not None
        }  # fmt: skip
        before = runtime.run(runtime.session(models.load(proto), optimize=False), feeds)[0]
        after = runtime.run(runtime.session(context.model), feeds)[0]
        np.testing.assert_allclose(after, before, atol=1.01 * float(STEP["y"]), rtol=0)
        assert np.mean(np.abs(after - before) > STEP["y"] / 2) <= 0.02  # halves that float sums see otherwise
    return [node.op_type for node in called], called[0] if called else None


def conv(net: Layers, x: str, *, channels: int = 4, of: int = 3, bias: bool = True, **attributes: Any) -> str:
    inputs = [x, net.weight(channels, of, 3, 3)]
    return net("Conv", *inputs, *([net.bias(channels)] if bias else []), pads=[1] * 4, **attributes)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("attributes", [{}, {"strides": [2, 1]}, {"dilations": [1, 2]}])
def test_a_convolution(bias: bool, attributes: dict[str, Any]) -> None:
    net = Layers()
    types, node = lowered(net.out(conv(net, net.read("x", "N", 3, 7, 5), bias=bias, **attributes)))
    assert types == ["Int8Conv"]
    found = {name: node.attributes[name].value for name in ("x_zero_point", "y_zero_point", "low", "high")}
    assert found == {"x_zero_point": 5, "y_zero_point": -3, "low": -128, "high": 127}


def test_a_convolution_of_a_line() -> None:
    net = Layers()
    y = net("Conv", net.read("x", "N", 3, 7), net.weight(4, 3, 3), net.bias(4), pads=[1, 0], strides=[2])
    assert lowered(net.out(y))[0] == ["Int8Conv"]


@pytest.mark.parametrize("off", [0.0, 1e-3])
def test_a_bias_of_floats_that_are_integers(off: float) -> None:
    """In units of both scales; zeros are, and a thousandth of a unit beside one is not."""
    net = Layers()
    x, w = net.read("x", "N", 3, 7, 5), net.weight(4, 3, 3, 3)
    whole = np.array([0, 1, -1900, 300], np.float32) + np.float32(off)
    y = net("Conv", x, w, (whole * (STEP["x"] * net.steps)).astype(np.float32))
    assert lowered(net.out(y))[0] == ([] if off else ["Int8Conv"])


def test_a_bias_of_zeros_in_other_units() -> None:
    """As one that several layers share: it is in the units of the first."""
    net = Layers()
    x, w = net.read("x", "N", 3, 7, 5), net.weight(4, 3, 3, 3)
    bias = net("DequantizeLinear", np.zeros(4, np.int32), np.full(4, 7e-5, np.float32), np.zeros(4, np.int32), axis=0)
    assert lowered(net.out(net("Conv", x, w, bias)))[0] == ["Int8Conv"]


@pytest.mark.parametrize("axis", [0, None])
@pytest.mark.parametrize("constant", [True, False])
def test_weights_that_are_quantized_in_the_graph(axis: int | None, constant: bool) -> None:
    """Halves go to the even number and ends saturate, as onnxruntime computes it: the same bits."""
    net = Layers()
    step = np.array([0.01, 0.02, 0.04, 0.08], np.float32) if axis is not None else np.float32(0.01)
    zero = np.zeros(np.shape(step), np.int8)
    attributes: dict[str, Any] = {} if axis is None else {"axis": axis}
    floats = (net.rng.integers(-300, 300, (4, 3, 3, 3)) * np.float32(0.005)).astype(np.float32)
    source = net.constant(floats) if constant else net.input("w", 4, 3, 3, 3)
    x = net.read("x", "N", 3, 7, 5)
    weight = net("QuantizeLinear", source, step, zero, **attributes)
    weight = net("DequantizeLinear", weight, step, zero, **attributes)
    types, node = lowered(net.out(net("Conv", x, weight)))
    assert types == (["Int8Conv"] if constant else [])
    if constant:
        alone = Net()
        proto = alone.model(alone("QuantizeLinear", alone.input("w", 4, 3, 3, 3), step, zero, **attributes))
        proto.graph.output[0].type.tensor_type.elem_type = onnx.TensorProto.INT8
        (expected,) = runtime.run(runtime.session(models.load(proto)), {"w": floats})
        assert node.inputs[1].const_value.numpy().tobytes() == expected.tobytes()


@pytest.mark.parametrize("turned", [0, 1])
def test_a_gemm(turned: int) -> None:
    net = Layers()
    shape = (6, 5) if turned else (5, 6)
    weight = net.weight(*shape, axis=1 - turned)
    y = net("Gemm", net.read("x", "N", 5), weight, net.bias(6), transB=turned)
    assert lowered(net.out(y))[0] == ["Int8Gemm"]


def test_a_product_of_rows_of_rows() -> None:
    net = Layers()
    y = net("MatMul", net.read("x", "N", 2, 5), net.weight(5, 6, axis=None))
    assert lowered(net.out(y))[0] == ["Int8Gemm"]


def test_relu_is_the_range_of_the_output() -> None:
    net = Layers()
    types, node = lowered(net.out(net("Relu", conv(net, net.read("x", "N", 3, 7, 5)))))
    assert types == ["Int8Conv"] and node.attributes["low"].value == -3 and node.attributes["high"].value == 127


def test_clip_is_both_ends_of_it() -> None:
    net = Layers()
    y = net("Clip", conv(net, net.read("x", "N", 3, 7, 5)), -0.5, 1.0)
    types, node = lowered(net.out(y))
    assert types == ["Int8Conv"] and node.attributes["low"].value == -13 and node.attributes["high"].value == 17


@pytest.mark.parametrize("first", [True, False])
def test_a_residual(first: bool) -> None:
    net = Layers()
    r = net.read("r", "N", 4, 7, 5, step=STEP["r"], zero=2)
    y = conv(net, net.read("x", "N", 3, 7, 5))
    types, node = lowered(net.out(net("Relu", net("Add", *([r, y] if first else [y, r])))))
    assert types == ["Int8ConvAdd"] and node.attributes["low"].value == -3
    assert node.attributes["residual_zero_point"].value == 2
    assert node.attributes["residual_scale"].value == pytest.approx(0.8)


def test_layers_in_a_row_read_each_other() -> None:
    """What the first writes is what the second reads: no Q is left between them."""
    net = Layers()
    x = net.dq(net.q(conv(net, net.read("x", "N", 3, 7, 5), channels=3), STEP["x"], 5), STEP["x"], 5)
    y = net("Add", conv(net, x, channels=3, bias=False), x)
    assert lowered(net.out(y))[0] == ["Int8Conv", "Int8ConvAdd"]


def test_several_readers_with_a_q_each() -> None:
    """Equal Q of one sum are one: some tools give every reader its own."""
    net = Layers()
    y = conv(net, net.read("x", "N", 3, 7, 5))
    proto = net.model(net.dq(net.q(y)), net("Sigmoid", net.dq(net.q(y))))
    assert lowered(proto)[0] == ["Int8Conv"]


def test_equal_outputs_keep_their_names() -> None:
    net = Layers()
    y = conv(net, net.read("x", "N", 3, 7, 5))
    proto = net.model(net.q(y), net.q(y), net.dq(net.q(y)))
    for output in proto.graph.output[:2]:
        output.type.tensor_type.elem_type = onnx.TensorProto.INT8
    assert lowered(proto)[0] == []


def _other_q(net: Layers) -> str:
    y = conv(net, net.read("x", "N", 3, 7, 5))
    return net("Mul", net.dq(net.q(y)), net.dq(net.q(y, zero=-2), zero=-2))


def _read_twice(net: Layers) -> str:
    y = conv(net, net.read("x", "N", 3, 7, 5))
    return net("Mul", net.dq(net.q(y)), net("Sigmoid", y))


def _relu_read_twice(net: Layers) -> str:
    y = net("Relu", conv(net, net.read("x", "N", 3, 7, 5)))
    return net("Mul", net.dq(net.q(y)), y)


def _zero_point(net: Layers) -> str:
    return net("Conv", net.read("x", "N", 3, 7, 5), net.weight(4, 3, 3, 3, zero=1))


def _summed_axis(net: Layers) -> str:
    return net("Conv", net.read("x", "N", 3, 7, 5), net.weight(4, 3, 3, 3, axis=1))


def _other_bias(net: Layers) -> str:
    return net("Conv", net.read("x", "N", 3, 7, 5), net.weight(4, 3, 3, 3), net.bias(4, 1.5))


def _float_bias(net: Layers) -> str:
    return net("Conv", net.read("x", "N", 3, 7, 5), net.weight(4, 3, 3, 3), net.normal(4))


def _float_input(net: Layers) -> str:
    return net("Conv", net.input("x", "N", 3, 7, 5), net.weight(4, 3, 3, 3))


def _padded_by_name(net: Layers) -> str:
    return net("Conv", net.read("x", "N", 3, 7, 5), net.weight(4, 3, 3, 3), auto_pad="SAME_LOWER", strides=[2, 2])


def _turned(net: Layers) -> str:
    return net("Gemm", net.read("x", 5, "N"), net.weight(5, 6, axis=1), transA=1)


def _factor(net: Layers) -> str:
    return net("Gemm", net.read("x", "N", 5), net.weight(5, 6, axis=1), alpha=2.0)


def _broadcast(net: Layers) -> str:
    return net("Add", conv(net, net.read("x", "N", 3, 7, 5)), net.read("r", 1, 4, 1, 1))


def _float_residual(net: Layers) -> str:
    return net("Add", conv(net, net.read("x", "N", 3, 7, 5)), net.input("r", "N", 4, 7, 5))


def _computed_clip(net: Layers) -> str:
    high = net("ReduceMax", net.input("r", "N"), keepdims=0)
    return net("Clip", conv(net, net.read("x", "N", 3, 7, 5)), -1.0, high)


@pytest.mark.parametrize("build", [
    _other_q, _read_twice, _relu_read_twice, _zero_point, _summed_axis, _other_bias, _float_bias, _float_input,
    _padded_by_name, _turned, _factor, _broadcast, _float_residual, _computed_clip,
])  # fmt: skip
def test_what_stays(build: Callable[[Layers], str]) -> None:
    net = Layers()
    assert lowered(net.out(build(net)))[0] == []


def _rows_of_bias(net: Layers) -> str:
    """As many rows as columns: the bias is one of rows."""
    weight = net.weight(5, 6, axis=1)
    return net("Gemm", net.read("x", 6, 5), weight, net("Reshape", net.bias(6), np.array([6, 1])))


def _stored_rows(net: Layers) -> str:
    weight = net.weight(5, 6, axis=None)
    step = np.float32(STEP["x"] * net.steps)
    rows = net("DequantizeLinear", net.rng.integers(-2000, 2000, (6, 1)).astype(np.int32), step)
    return net("Gemm", net.read("x", 6, 5), weight, rows)


@pytest.mark.parametrize("build", [_rows_of_bias, _stored_rows])
def test_a_bias_for_each_row_is_none_for_each_column(build: Callable[[Layers], str]) -> None:
    net = Layers()
    assert lowered(net.out(build(net)))[0] == []


@pytest.mark.parametrize(("build", "reason"), [
    (_zero_point, "the weights have zero points (1)"),
    (_float_bias, "the bias is not of integers in units of both scales (1)"),
    (_summed_axis, "the scales of the weights lie along an axis that is summed over (1)"),
    (_padded_by_name, "Conv is not of a form that the operator has (1)"),
    (_relu_read_twice, "no Q follows, or something reads the floats in front of it (1)"),
])  # fmt: skip
def test_the_user_is_told_why(build: Callable[[Layers], str], reason: str) -> None:
    net = Layers()
    context = prepared(net.out(build(net)))
    assert not LowerInt8().run(context)
    (row,) = context.warnings
    assert row.message == f"1 quantized product stays in float between DQ and Q: {reason}"
    net = Layers()
    context = prepared(net.out(conv(net, net.read("x", "N", 3, 7, 5))))
    assert LowerInt8().run(context) and not context.warnings


def test_unsigned_numbers_stay() -> None:
    net = Layers()
    x = net("QuantizeLinear", net.input("x", "N", 3, 7, 5), STEP["x"], np.array(128, np.uint8))
    x = net("DequantizeLinear", x, STEP["x"], np.array(128, np.uint8))
    assert lowered(net.out(conv(net, x)))[0] == []


def test_where_no_operators_were_asked_for() -> None:
    net = Layers()
    proto = net.out(conv(net, net.read("x", "N", 3, 7, 5)))
    context = rounds.prepare(models.load(proto), Settings((), target="cuda"))
    assert not LowerInt8().run(context) and not context.model.functions
