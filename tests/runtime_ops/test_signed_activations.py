"""signed-activations: which integers of uint8 become int8, the same bits behind them, and what prevents it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import helper

from graphopt import model as models
from graphopt import runtime
from graphopt.passes.lower.lower_int8 import LowerInt8
from graphopt.passes.lower.signed_activations import SignedActivations
from tests.runtime_ops.test_lower_int8 import STEP, Layers, conv, prepared

SHAPE = (3, 7, 5)
BYTE = np.uint8


class Unsigned(Layers):
    """A net with Q and DQ of uint8."""

    def q(self, x: str, step: Any = STEP["y"], zero: Any = 125, **attributes: Any) -> str:
        return self("QuantizeLinear", x, np.asarray(step), np.array(zero, BYTE), **attributes)

    def dq(self, x: str, step: Any = STEP["y"], zero: Any = 125, **attributes: Any) -> str:
        return self("DequantizeLinear", x, np.asarray(step), np.array(zero, BYTE), **attributes)

    def read(self, name: str, *shape: int | str, step: Any = STEP["x"], zero: int = 133) -> str:
        return self.dq(self.q(self.input(name, *shape), step, zero), step, zero)


def moved(proto: onnx.ModelProto, sizes: tuple[int, ...] = (1,)) -> tuple[bool, list[str]]:
    """Run the pass; assert that not one bit is another; return whether it changed anything, and what it said."""
    context = prepared(proto)
    changed = SignedActivations().run(context)
    models.check(context.model)
    assert not SignedActivations().run(context)
    if not changed:
        assert models.serialize(context.model) == models.serialize(prepared(proto).model)
        return False, [row.message for row in context.warnings]
    rng = np.random.default_rng(2)
    for size in sizes:
        feeds = {}
        for value in context.model.graph.inputs:
            assert value.shape is not None and value.name is not None
            shape = [one if isinstance(one, int) else size for one in value.shape]
            array = rng.normal(scale=3, size=shape).astype(np.float32)
            odd = [np.nan, np.inf, -np.inf, 1e30, -0.0, 3e38, -1e-45]
            array.reshape(-1)[: len(odd)] = odd[: array.size]
            feeds[value.name] = array
        for optimize in (False, True):
            before, after = (
                runtime.run(runtime.session(model, optimize=optimize), feeds)
                for model in (models.load(proto), context.model)
            )
            assert [one.tobytes() for one in before] == [one.tobytes() for one in after]
    return True, [row.message for row in context.warnings]


def types(proto: onnx.ModelProto) -> list[ir.DataType | None]:
    """Return the types that Q write behind the pass."""
    context = prepared(proto)
    SignedActivations().run(context)
    return [node.outputs[0].dtype for node in context.model.graph if node.op_type == "QuantizeLinear"]


def test_a_layer_becomes_signed_and_is_lowered() -> None:
    net = Unsigned()
    proto = net.out(conv(net, net.read("x", "N", *SHAPE)))
    assert moved(proto, (0, 1, 7))[0]
    context = prepared(proto)
    SignedActivations().run(context)
    assert LowerInt8().run(context)
    (node,) = [node for node in context.model.graph if node.op_type == "Int8Conv"]
    assert (node.attributes["x_zero_point"].value, node.attributes["y_zero_point"].value) == (5, -3)


@pytest.mark.parametrize("zero", [0, 1, 128, 255])
def test_zero_points_at_the_ends(zero: int) -> None:
    net = Unsigned()
    assert moved(net.out(conv(net, net.read("x", "N", *SHAPE, zero=zero)), zero=zero), (1, 3))[0]


def test_relu_is_the_zero_point_of_uint8() -> None:
    """What onnxruntime's quantizer leaves of a Relu: a Q whose zero point is its lowest number."""
    net = Unsigned()
    context = prepared(net.out(conv(net, net.read("x", "N", *SHAPE)), zero=0))
    assert SignedActivations().run(context) and LowerInt8().run(context)
    (node,) = [node for node in context.model.graph if node.op_type == "Int8Conv"]
    assert node.attributes["low"].value == node.attributes["y_zero_point"].value == -128


def test_a_residual() -> None:
    net = Unsigned()
    r = net.read("r", "N", 4, 7, 5, step=STEP["r"], zero=2)
    proto = net.out(net("Relu", net("Add", conv(net, net.read("x", "N", *SHAPE)), r)))
    assert moved(proto, (1, 3))[0] and types(proto) == [ir.DataType.INT8] * 3


def test_no_zero_point_is_zero() -> None:
    net = Unsigned(opset=21)
    step = np.full(3, 0.03, np.float32)
    x = net("QuantizeLinear", net.input("x", "N", *SHAPE), STEP["x"], output_dtype=onnx.TensorProto.UINT8)
    x = net("DequantizeLinear", x, STEP["x"])
    side = net("QuantizeLinear", x, step, output_dtype=onnx.TensorProto.UINT8)
    proto = net.out(net("Add", conv(net, x, channels=3), net("DequantizeLinear", side, step)))
    assert not moved(proto)[0]  # a residual with several scales is none
    assert moved(net.out(conv(net, x)), (1, 3))[0]


def test_zero_points_of_channels() -> None:
    """Who else reads the integers may have a zero point for each channel."""
    net = Unsigned()
    q = net.q(net.input("x", "N", *SHAPE), STEP["x"], 133)
    other = net.dq(q, np.array([0.1, 0.2, 0.3], np.float32), [0, 133, 255], axis=1)
    proto = net.model(net.dq(net.q(conv(net, net.dq(q, STEP["x"], 133)))), net("Relu", other))
    assert moved(proto, (1, 3))[0] and types(proto) == [ir.DataType.INT8] * 2


def _slice(net: Unsigned, x: str) -> str:
    return net("Slice", x, np.array([1]), np.array([6]), np.array([2]))


def _concat(net: Unsigned, x: str) -> str:
    other = net.q(net.input("z", "N", 2, 7, 5), STEP["x"], 133)
    return net("Concat", x, other, net.rng.integers(0, 256, (1, 1, 7, 5)).astype(BYTE), axis=1)


def _split(net: Unsigned, x: str) -> str:
    first, second = net.many("Split", x, np.array([1, 2]), outputs=2, axis=1)
    return net("Concat", second, first, axis=1)


MOVERS: dict[str, tuple[Callable[[Unsigned, str], str], int]] = {
    "Reshape": (lambda net, x: net("Reshape", x, np.array([0, 3, 5, 7])), 3),
    "Transpose": (lambda net, x: net("Transpose", x, perm=[0, 2, 1, 3]), 7),
    "Squeeze": (lambda net, x: net("Squeeze", net("Unsqueeze", x, np.array([0])), np.array([0])), 3),
    "Slice": (_slice, 3),
    "Concat": (_concat, 6),
    "Split": (_split, 3),
    "Gather": (lambda net, x: net("Gather", x, np.array([2, 0, 2, 1]), axis=1), 4),
    "GatherElements": (lambda net, x: net("GatherElements", x, np.zeros((1, 2, 7, 5), np.int64), axis=1), 2),
    "Expand": (lambda net, x: net("Expand", x, np.array([1, 3, 7, 5])), 3),
    "Tile": (lambda net, x: net("Tile", x, np.array([1, 2, 1, 1])), 6),
    "Identity": (lambda net, x: net("Identity", x), 3),
    "MaxPool": (lambda net, x: net("MaxPool", x, kernel_shape=[3, 3], strides=[2, 1], pads=[1, 1, 1, 1]), 3),
    "Pad with its value": (
        lambda net, x: net("Pad", x, np.array([0, 1, 0, 0, 0, 0, 2, 1]), np.array(133, BYTE)), 4,
    ),
    "Pad with 0": (lambda net, x: net("Pad", x, np.array([0, 0, 1, 0, 0, 0, 0, 2])), 3),
    "Pad with edges": (lambda net, x: net("Pad", x, np.array([0, 0, 1, 0, 0, 0, 0, 2]), mode="edge"), 3),
    "Clip": (lambda net, x: net("Clip", x, np.array(100, BYTE), np.array(180, BYTE)), 3),
    "Clip above": (lambda net, x: net("Clip", x, "", np.array(140, BYTE)), 3),
}  # fmt: skip


@pytest.mark.parametrize("name", MOVERS)
def test_what_stands_between_comes_along(name: str) -> None:
    build, channels = MOVERS[name]
    net = Unsigned()
    x = build(net, net.q(net.input("x", "N", *SHAPE), STEP["x"], 133))
    proto = net.out(conv(net, net.dq(x, STEP["x"], 133), of=channels))
    assert moved(proto, (1,))[0] and set(types(proto)) == {ir.DataType.INT8}


def _as_input(net: Unsigned) -> onnx.ModelProto:
    proto = net.out(conv(net, net.dq(net.input("x", "N", *SHAPE), STEP["x"], 133)))
    proto.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.UINT8
    return proto


def _as_output(net: Unsigned) -> onnx.ModelProto:
    q = net.q(conv(net, net.read("x", "N", *SHAPE)))
    proto = net.model(net.dq(q), net("Identity", q))
    proto.graph.output[1].type.tensor_type.elem_type = onnx.TensorProto.UINT8
    return proto


def _computes(net: Unsigned) -> onnx.ModelProto:
    q = net.q(conv(net, net.read("x", "N", *SHAPE)))
    return net.model(net.dq(q), net("Cast", q, to=onnx.TensorProto.FLOAT))


def _in_a_body(net: Unsigned) -> onnx.ModelProto:
    """A branch reads the integers of the graph around it."""
    q = net.q(conv(net, net.read("x", "N", *SHAPE)))
    scale, zero, flag = net.constant(STEP["y"]), net.constant(np.array(125, BYTE)), net.constant(np.array(True))
    out = helper.make_tensor_value_info("inside", onnx.TensorProto.FLOAT, None)
    branch = helper.make_graph([helper.make_node("DequantizeLinear", [q, scale, zero], ["inside"])], "body", [], [out])
    return net.model(net.dq(q), net("If", flag, then_branch=branch, else_branch=branch))


def _no_layer(net: Unsigned) -> onnx.ModelProto:
    return net.out(net("Sigmoid", net.read("x", "N", *SHAPE)))


def _computed_zero(net: Unsigned) -> onnx.ModelProto:
    q = net.q(conv(net, net.read("x", "N", *SHAPE)))
    zero = net("Cast", net("ReduceMax", net.input("z", 3), keepdims=0), to=onnx.TensorProto.UINT8)
    return net.model(net.dq(q), net("DequantizeLinear", q, STEP["y"], zero))


@pytest.mark.parametrize(("build", "said"), [
    (_as_input, "x is an input"), (_as_output, "is an output"), (_computes, "Cast reads"), (_no_layer, None),
    (_in_a_body, "a body reads"),
    (_computed_zero, "is computed"),
])  # fmt: skip
def test_what_stays(build: Callable[[Unsigned], onnx.ModelProto], said: str | None) -> None:
    changed, messages = moved(build(Unsigned()))
    assert not changed and (messages == [] if said is None else said in messages[0])


def test_one_group_may_stay_where_another_changes() -> None:
    """The first layer reads an input of uint8; the second reads what the first writes."""
    net = Unsigned()
    x = net.dq(net.input("x", "N", *SHAPE), STEP["x"], 133)
    y = net.dq(net.q(conv(net, x, channels=3), STEP["x"], 133), STEP["x"], 133)
    proto = net.out(conv(net, y))
    proto.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.UINT8
    context = prepared(proto)
    assert SignedActivations().run(context) and LowerInt8().run(context)
    kinds = [node.op_type for node in context.model.graph if node.op_type in ("Conv", "Int8Conv")]
    assert kinds == ["Conv", "Int8Conv"] and "1 layer stays" in context.warnings[0].message


@pytest.mark.parametrize("zero", [128, 127])
def test_weights_of_uint8(zero: int) -> None:
    """Around 128 they are int8; around anything else they have a zero point."""
    net = Unsigned()
    numbers = net.rng.integers(0, 256, (4, 3, 3, 3)).astype(BYTE)
    weight = net("DequantizeLinear", numbers, STEP["w"], np.array(zero, BYTE))
    proto = net.out(net("Conv", net.read("x", "N", *SHAPE), weight))
    context = prepared(proto)
    assert SignedActivations().run(context) == LowerInt8().run(context) == (zero == 128)
