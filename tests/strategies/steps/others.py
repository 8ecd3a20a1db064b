"""Embeddings, subgraphs, functions with layers, and operators that nobody knows."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto, helper

from tests.strategies import masks
from tests.strategies.builder import BATCH, Builder, Value
from tests.strategies.recipe import Choices, InapplicableError
from tests.strategies.steps.contractions import SIZES
from tests.strategies.steps.registry import batch_first, is_float, is_image, is_rows, step
from tests.strategies.weights import weight

WORDS = 11


@step(lambda x: True, weight=2)
def embedding(b: Builder, c: Choices, x: Value) -> None:
    length = 3
    name = "ids"
    if all(i.name != name for i in b.inputs):
        b.input(name, (BATCH if b.dynamic else 2, length), "i")
    width = c.pick(SIZES)
    table = weight(b, c, [WORDS, width], out_axis=1, in_axis=0, fan_in=1)
    y = b.op("Gather", [table.name, name], (BATCH if b.dynamic else 2, length, width), amp=2.0)
    if c.chance(40):
        positions = b.const(c.rng.standard_normal((length, width)).astype(np.float32))
        y = b.op("Add", [y, positions], y.shape, amp=3.0)
    if c.chance(40):
        y = masks.apply(b, c, y, 2)
    b.push(y)


@step(is_float, weight=1)
def branch(b: Builder, c: Choices, x: Value) -> None:
    """An If whose branches read values of the outer graph."""
    condition = b.input_once("flag", (), "b")
    then, other = b.fresh("then"), b.fresh("else")
    info = helper.make_tensor_value_info
    extra = b.const(c.rng.standard_normal(()).astype(np.float32), node=False)
    yes = helper.make_graph(
        [helper.make_node("Mul", [x.name, extra], [then])], "yes", [], [info(then, TensorProto.FLOAT, x.shape)]
    )
    no = helper.make_graph(
        [helper.make_node(c.pick(["Neg", "Relu", "Sigmoid", "Cos"]), [x.name], [other])],
        "no",
        [],
        [info(other, TensorProto.FLOAT, x.shape)],
    )
    b.use(x.name)
    b.push(b.op("If", [condition], x.shape, amp=x.amp + 1, then_branch=yes, else_branch=no))


@step(lambda x: x.dtype == "f" and x.rank >= 2 and x.shape[-1] != BATCH, weight=1)
def loop(b: Builder, c: Choices, x: Value) -> None:
    """A Loop that carries the value, reads it and a weight from outside, and sometimes collects a second output."""
    info = helper.make_tensor_value_info
    size = x.shape[-1]
    assert isinstance(size, int)
    w = weight(b, c, [size, size], out_axis=1, in_axis=0, fan_in=size)
    count = b.const(np.array(c.between(1, 3), np.int64), node=False)
    go = b.const(np.array(True), node=False)
    names = {k: b.fresh(k) for k in ("i", "go", "state", "on", "product", "sum", "next")}
    body = helper.make_graph(
        [
            helper.make_node("Identity", [names["go"]], [names["on"]]),
            helper.make_node("MatMul", [names["state"], w.name], [names["product"]]),
            helper.make_node("Add", [names["product"], x.name], [names["sum"]]),
            helper.make_node(c.pick(["Tanh", "Softsign"]), [names["sum"]], [names["next"]]),
        ],
        "body",
        [
            info(names["i"], TensorProto.INT64, []),
            info(names["go"], TensorProto.BOOL, []),
            info(names["state"], TensorProto.FLOAT, x.shape),
        ],
        [info(names["on"], TensorProto.BOOL, []), info(names["next"], TensorProto.FLOAT, x.shape)],
    )
    b.use(x.name)
    b.push(b.op("Loop", [count, go, x], x.shape, amp=1.0, body=body))


@step(is_image, weight=2)
def function_conv(b: Builder, c: Choices, x: Value) -> None:
    """A masked convolution inside a model-local function: the mask is an argument, or the function's own constant."""
    channels, out = x.shape[1], c.pick(SIZES)
    assert isinstance(channels, int)
    rank = x.rank - 2
    pads = c.pick([[0] * (2 * rank), [1] * (2 * rank)])
    kernel = [1 if not any(pads) else 3] * rank
    w = weight(b, c, [out, channels, *kernel], out_axis=0, in_axis=1, fan_in=channels * kernel[0] ** rank)
    mask = masks.pattern(c, out).astype(np.float32).reshape([out] + [1] * (rank + 1))
    inner = c.chance(50)
    name = b.fresh("MaskedConv")
    body = (
        [helper.make_node("Constant", [], ["m"], value=helper.make_tensor("m", 1, mask.shape, mask.ravel()))]
        if inner
        else []
    )
    body.append(helper.make_node("Mul", ["w", "m"], ["wm"]))
    body.append(helper.make_node("Conv", ["x", "wm"], ["t"], pads=pads))
    body.append(helper.make_node("Relu", ["t"], ["y"]))
    arguments = ["x", "w"] if inner else ["x", "w", "m"]
    opset = [helper.make_opsetid("", b.opset)]
    b.function(name, lambda: helper.make_function("local", name, arguments, ["y"], body, opset))
    inputs: list[Value | str] = [x, w]
    if not inner:
        inputs.append(b.const(mask, prefix="mask"))
    y = b.op(name, inputs, (x.shape[0], out, *x.shape[2:]), amp=x.amp, domain="local")
    b.push(y)
    if c.chance(40) and out == channels:
        b.push(b.op(name, [y, *inputs[1:]], y.shape, amp=y.amp, domain="local"))


@step(lambda x: is_rows(x) and x.rank >= 2 and x.shape[-2] != BATCH, weight=1, since=14)
def trilu(b: Builder, c: Choices, x: Value) -> None:
    b.push(b.op("Trilu", [x], x.shape, grain=x.grain, upper=c.below(2)))


@step(lambda x: x.dtype == "f" and x.rank >= 2 and batch_first(x), weight=1)
def reverse_sequence(b: Builder, c: Choices, x: Value) -> None:
    size = x.shape[0]
    if not isinstance(size, int):
        raise InapplicableError("lengths would need the batch")
    t = x.shape[1]
    assert isinstance(t, int)
    lengths = b.ints([c.between(1, t) for _ in range(size)])
    b.push(b.op("ReverseSequence", [x, lengths], x.shape, grain=x.grain, batch_axis=0, time_axis=1))


@step(lambda x: x.dtype == "f" and x.rank == 2 and x.shape[1] != BATCH, weight=1)
def one_hot_of_shape(b: Builder, c: Choices, x: Value) -> None:
    """A number computed from the shape, as position counts are: Shape, Gather, Cast, Div."""
    whole = b.raw("Shape", [x.name])[0]
    size = b.raw("Gather", [whole, b.const(np.array(1, np.int64))], axis=0)[0]
    number = b.raw("Cast", [size], to=TensorProto.FLOAT)[0]
    b.push(b.op("Div", [x, number], x.shape))
