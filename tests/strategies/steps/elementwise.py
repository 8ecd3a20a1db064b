"""Unary and binary elementwise operators, Clip, PRelu, Where, casts, masks as steps of their own."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import TensorProto, numpy_helper

from tests.strategies import masks
from tests.strategies.builder import Builder, Shape, Value, broadcast
from tests.strategies.recipe import Choices, InapplicableError
from tests.strategies.steps.guards import positive, small, within
from tests.strategies.steps.registry import is_float, static_axes, step

# name, guard, since, attributes to choose from
UNARY: list[tuple[str, str, int, list[dict[str, Any]]]] = [
    ("Relu", "", 1, [{}]),
    ("LeakyRelu", "", 1, [{}, {"alpha": 0.3}]),
    ("Elu", "", 1, [{}, {"alpha": 0.5}]),
    ("Selu", "", 1, [{}]),
    ("Celu", "", 12, [{}, {"alpha": 0.7}]),
    ("ThresholdedRelu", "", 10, [{"alpha": 0.0}]),
    ("HardSigmoid", "", 1, [{}, {"alpha": 0.3, "beta": 0.4}]),
    ("HardSwish", "", 14, [{}]),
    ("Sigmoid", "", 1, [{}]),
    ("Softplus", "", 1, [{}]),
    ("Softsign", "", 1, [{}]),
    ("Tanh", "", 1, [{}]),
    ("Erf", "", 9, [{}]),
    ("Gelu", "", 20, [{}, {"approximate": "tanh"}]),
    ("Mish", "", 18, [{}]),
    ("Abs", "", 1, [{}]),
    ("Neg", "", 1, [{}]),
    ("Sin", "", 7, [{}]),
    ("Cos", "", 7, [{}]),
    ("Atan", "", 7, [{}]),
    ("Asinh", "", 9, [{}]),
    ("Shrink", "", 9, [{"lambd": 0.5, "bias": 0.5}]),
    ("Exp", "small", 1, [{}]),
    ("Sinh", "small", 9, [{}]),
    ("Cosh", "small", 9, [{}]),
    ("Tan", "within", 7, [{}]),
    ("Asin", "within", 7, [{}]),
    ("Acos", "within", 7, [{}]),
    ("Atanh", "within", 9, [{}]),
    ("Acosh", "above 1.5", 9, [{}]),
    ("Log", "positive", 1, [{}]),
    ("Sqrt", "positive", 1, [{}]),
    ("Reciprocal", "positive", 1, [{}]),
]
GROWS = {"Exp": 8.0, "Sinh": 6.0, "Cosh": 6.0, "Reciprocal": 2.0, "Acos": 2.0, "Softplus": 1.5, "Selu": 1.8, "Tan": 1.3}
ADDS = {"Exp": 1.0, "Cosh": 1.0, "Softplus": 0.7, "Cos": 1.0, "Sigmoid": 0.5}


def unary_of(b: Builder, c: Choices, x: Value) -> Value:
    """A smooth or at least continuous unary operator of `x`."""
    name, guard, _, attributes = c.pick([row for row in UNARY if row[2] <= b.opset])
    if guard == "small":
        x = small(b, x, 2.0)
    elif guard == "within":
        x = within(b, x)
    elif guard == "above 1.5":
        x = positive(b, x, 1.5)
    elif guard == "positive":
        x = positive(b, x)
    grain = x.grain if name in ("Relu", "Abs", "Neg") else None
    return b.op(
        name, [x], x.shape, amp=x.amp * GROWS.get(name, 1.0) + ADDS.get(name, 0), grain=grain, **c.pick(attributes)
    )


@step(is_float, weight=8)
def unary(b: Builder, c: Choices, x: Value) -> None:
    b.push(unary_of(b, c, x))


@step(lambda x: x.dtype == "f" and x.exact, weight=3)
def jump(b: Builder, c: Choices, x: Value) -> None:
    grain = x.grain or 0
    kind = c.pick(["Floor", "Ceil", "Round", "Sign", "ThresholdedRelu", "Shrink", "Mod", "Hardmax", "IsNaN"])
    if kind == "ThresholdedRelu":
        y = b.op(kind, [x], x.shape, grain=grain, alpha=c.pick([0.5, 1.0]))
    elif kind == "Shrink":
        y = b.op(kind, [x], x.shape, amp=x.amp + 1, grain=grain + 1, lambd=1.0, bias=c.pick([0.0, -0.5]))
    elif kind == "Mod":
        y = b.op(kind, [x, b.const(np.float32(c.pick([2, 3])))], x.shape, amp=3.0, grain=grain, fmod=1)
    elif kind == "Hardmax":
        axes = [a for a in static_axes(x)]
        y = b.op(kind, [x], x.shape, amp=1.0, grain=0, axis=c.pick(axes))
    elif kind == "IsNaN":
        y = b.op(kind, [x], x.shape, dtype="b", amp=1.0, grain=0)
    else:
        y = b.op(kind, [x], x.shape, amp=x.amp + 1, grain=0)
    b.push(y)


@step(is_float, weight=2)
def clip(b: Builder, c: Choices, x: Value) -> None:
    low, high = c.pick([(0.0, 6.0), (-1.0, 1.0), (0.5, 2.0), (-2.0, -0.25), (None, 1.0), (-0.5, None)])
    lo = b.const(np.float32(low), prefix="lo") if low is not None else ""
    inputs: list[Value | str] = [x, lo]
    if high is not None:
        inputs.append(b.const(np.float32(high), prefix="hi"))
    b.push(b.op("Clip", inputs, x.shape, amp=max(x.amp, 2.0), grain=max(x.grain, 2) if x.grain is not None else None))


@step(lambda x: x.dtype == "f" and x.rank >= 2, weight=2)
def prelu(b: Builder, c: Choices, x: Value) -> None:
    slope = constant_for(b, c, x)
    grain = x.grain + 1 if x.grain is not None else None
    b.push(b.op("PRelu", [x, slope], x.shape, amp=x.amp * 2, grain=grain))


def constant_for(b: Builder, c: Choices, x: Value, *, above: float | None = None, exact: bool = True) -> str:
    """A constant that broadcasts against `x`: a scalar, one number per channel, a whole array, with dead positions."""
    form = c.pick(["channel", "scalar", "last", "channel", "full", "one"])
    axis = min(1, x.rank - 1)
    shape: list[int] = []
    if form in ("channel", "last"):
        at = axis if form == "channel" else x.rank - 1
        size = x.shape[at]
        if not isinstance(size, int):
            form = "scalar"
        shape = [1] * (x.rank - at)
        if isinstance(size, int):
            shape[0] = size
        if c.chance(30):
            shape = [1] * at + shape
    if form == "full":
        shape = [d if isinstance(d, int) else 1 for d in x.shape]
    elif form == "scalar":
        shape = []
    elif form == "one":
        shape = [1]
    data = c.rng.choice([-1.0, -0.5, 0.5, 1.0, 2.0], shape) if exact else c.rng.standard_normal(shape)
    data = np.asarray(data, np.float32)
    if data.ndim and data.size > 1 and c.chance(50):
        alive = masks.pattern(c, data.shape[int(np.argmax(data.shape))])
        np.moveaxis(data, int(np.argmax(data.shape)), 0)[~alive] = c.pick([0.0, 0.0, 1.0])
    if above is not None:
        data = np.abs(data) + np.float32(above)
    return b.const(data)


def _grain(*values: Value) -> int | None:
    grains = [v.grain for v in values if v.grain is not None]
    return max(grains) if len(grains) == len(values) else None


@step(is_float, weight=5)
def binary_constant(b: Builder, c: Choices, x: Value) -> None:
    op = c.pick(["Add", "Mul", "Sub", "Max", "Min", "Div", "Pow", "Sum", "Mean"])
    first = c.chance(30)
    if op == "Div":
        if first:
            numerator = constant_for(b, c, x)
            b.push(b.op("Div", [numerator, positive(b, x)], x.shape, amp=4.0))
            return
        b.push(b.op("Div", [x, constant_for(b, c, x, above=0.5)], x.shape, amp=x.amp * 2))
        return
    if op == "Pow":
        if first:
            b.push(b.op("Pow", [constant_for(b, c, x, above=0.5), small(b, x, 2.0)], x.shape, amp=6.0))
            return
        y = small(b, x)
        if c.chance(60):
            b.push(b.op("Pow", [y, b.const(np.float32(c.pick([2.0, 3.0, 1.0])))], x.shape, amp=y.amp**2))
        else:
            b.push(b.op("Pow", [positive(b, y), constant_for(b, c, y)], x.shape, amp=y.amp**2 + 2))
        return
    constant = constant_for(b, c, x)
    inputs: list[Value | str] = [constant, x] if first else [x, constant]
    grain = x.grain + 1 if x.grain is not None and op != "Mean" else None
    b.push(b.op(op, inputs, x.shape, amp=x.amp * 2 if op == "Mul" else x.amp + 2, grain=grain))


def partner(b: Builder, c: Choices, x: Value, dtype: str = "f") -> tuple[Value, Shape]:
    """Another value that broadcasts against `x`, and the common shape."""
    found = [
        (v, s)
        for v in b.candidates(lambda v: v.dtype == dtype)
        if v.name != x.name and (s := broadcast(x.shape, v.shape)) is not None and len(s) <= 5
    ]
    same = [(v, s) for v, s in found if v.shape == x.shape]
    if same and c.chance(60):
        return c.pick(same)
    if not found:
        return x, x.shape
    return c.pick(found)


@step(is_float, weight=9)
def binary(b: Builder, c: Choices, x: Value) -> None:
    y, shape = partner(b, c, x)
    op = c.pick(["Add", "Mul", "Add", "Sub", "Max", "Min", "Div", "Pow", "Sum", "Mean", "PRelu", "Add"])
    if c.chance(40) and op not in ("Div", "Pow", "PRelu"):
        x, y = y, x
    grain = _grain(x, y)
    if op == "Div":
        b.push(b.op(op, [x, positive(b, y)], shape, amp=x.amp * 2))
    elif op == "Pow":
        b.push(b.op(op, [positive(b, small(b, x)), small(b, y, 2.0)], shape, amp=6.0))
    elif op == "PRelu":
        if shape != x.shape:
            raise InapplicableError("the slope is larger")
        b.push(b.op(op, [x, y], shape, amp=x.amp * (1 + y.amp)))
    elif op == "Mul":
        both = x.grain + y.grain if x.grain is not None and y.grain is not None else None
        b.push(b.op(op, [x, y], shape, amp=x.amp * max(y.amp, 1.0), grain=both))
    elif op in ("Sum", "Mean") and c.chance(50):
        third = constant_for(b, c, x)
        b.push(b.op(op, [x, third, y], shape, amp=x.amp + y.amp + 2, grain=None))
    else:
        b.push(b.op(op, [x, y], shape, amp=x.amp + y.amp, grain=grain if op != "Mean" else None))


@step(is_float, weight=3)
def gate(b: Builder, c: Choices, x: Value) -> None:
    y, shape = partner(b, c, x)
    y = b.op(c.pick(["Sigmoid", "HardSigmoid", "Tanh"]), [y], y.shape, amp=1.0)
    b.push(b.op("Mul", [x, y], shape))


@step(lambda x: x.dtype == "f" and bool(static_axes(x)), weight=10)
def mask(b: Builder, c: Choices, x: Value) -> None:
    axes = static_axes(x)
    axis = 1 if 1 in axes and c.chance(60) else c.pick(axes)
    y = masks.apply_constant_function(b, c, x, axis) if c.chance(8) else masks.apply(b, c, x, axis)
    b.push(y)


@step(lambda x: x.dtype == "f" and x.exact, weight=4)
def compare(b: Builder, c: Choices, x: Value) -> None:
    op = c.pick(["Greater", "Less", "GreaterOrEqual", "LessOrEqual", "Equal"])
    if c.chance(50):
        other: Value | str = b.const(np.float32(c.pick([0.0, 0.5, -1.0])))
        shape = x.shape
    else:
        found = [
            (v, s)
            for v in b.candidates(lambda v: v.dtype == "f" and v.exact)
            if (s := broadcast(x.shape, v.shape)) is not None and len(s) <= 5
        ]
        other, shape = c.pick(found)
    b.push(b.op(op, [x, other] if c.chance(70) else [other, x], shape, dtype="b", amp=1.0, grain=0))


@step(lambda x: x.dtype == "b", weight=3)
def logic(b: Builder, c: Choices, x: Value) -> None:
    op = c.pick(["Not", "And", "Or", "Xor"])
    if op == "Not":
        b.push(b.op(op, [x], x.shape, dtype="b", amp=1.0, grain=0))
        return
    axes = static_axes(x)
    if axes and c.chance(50):
        axis = c.pick(axes)
        shape = [1] * x.rank
        size = x.shape[axis]
        assert isinstance(size, int)
        shape[axis] = size
        other: Value | str = b.const(masks.pattern(c, size).reshape(shape))
        result = x.shape
    else:
        other, result = partner(b, c, x, "b")
    b.push(b.op(op, [x, other], result, dtype="b", amp=1.0, grain=0))


@step(lambda x: x.dtype == "b", weight=5)
def select(b: Builder, c: Choices, x: Value) -> None:
    values = [v for v in b.candidates(is_float) if (s := broadcast(x.shape, v.shape)) is not None and len(s) <= 5]
    if not values:
        b.push(b.op("Cast", [x], x.shape, amp=1.0, grain=0, to=TensorProto.FLOAT))
        return
    y = c.pick(values)
    shape = broadcast(x.shape, y.shape)
    assert shape is not None
    if c.chance(50):
        other: Value | str = constant_for(b, c, y)
        grain = y.grain + 1 if y.grain is not None else None
    else:
        z, s = partner(b, c, y)
        wide = broadcast(s, shape)
        if wide is None:
            raise InapplicableError("three shapes")
        other, shape, grain = z, wide, _grain(y, z)
    order = [x, y, other] if c.chance(60) else [x, other, y]
    b.push(b.op("Where", order, shape, amp=y.amp + 2, grain=grain))


@step(lambda x: x.dtype in "bi", weight=3)
def to_float(b: Builder, c: Choices, x: Value) -> None:
    b.push(b.op("Cast", [x], x.shape, amp=x.amp, grain=0, to=TensorProto.FLOAT))


@step(lambda x: x.dtype == "f" and x.exact, weight=2)
def to_int(b: Builder, c: Choices, x: Value) -> None:
    b.push(b.op("Cast", [x], x.shape, dtype="i", amp=x.amp, grain=0, to=TensorProto.INT64))


@step(lambda x: x.dtype == "i", weight=3)
def integers(b: Builder, c: Choices, x: Value) -> None:
    op = c.pick(["Add", "Mul", "Sub", "Abs", "Neg", "Mod", "Div", "BitwiseAnd", "Max", "Min", "Equal"])
    if op in ("Abs", "Neg"):
        b.push(b.op(op, [x], x.shape, dtype="i", grain=0))
        return
    if op == "BitwiseAnd" and b.opset < 18:
        op = "Add"
    if c.chance(50) or op in ("Mod", "Div"):
        size = x.shape[-1]
        shape = [size] if isinstance(size, int) and c.chance(60) else []
        data = c.rng.integers(1, 4, shape)
        if op in ("Mul", "BitwiseAnd"):
            data = np.asarray(data * (c.rng.random(shape) < 0.6))
        other: Value | str = b.const(data.astype(np.int64))
        shape_out, amp = x.shape, x.amp * 3 + 3
    else:
        other, shape_out = partner(b, c, x, "i")
        amp = (x.amp + 1) * (other.amp + 1)
    if amp > 10_000:
        raise InapplicableError("large integers")
    b.push(b.op(op, [x, other], shape_out, dtype="b" if op == "Equal" else "i", amp=amp, grain=0))


@step(lambda x: True, weight=2)
def plain(b: Builder, c: Choices, x: Value) -> None:
    op = c.pick(["Identity", "Dropout", "Cast", "double"])
    if op == "Dropout" and x.dtype == "f":
        inputs: list[Value | str] = [x]
        if c.chance(50):
            inputs.append(b.const(np.float32(0.5)))
            if c.chance(50):
                inputs.append(b.const(np.array(False)))
        b.push(b.op(op, inputs, x.shape, grain=x.grain))
    elif op == "Cast" and x.dtype == "f":
        b.push(b.op(op, [x], x.shape, grain=x.grain, to=TensorProto.FLOAT))
    elif op == "double" and x.dtype == "f":
        name = b.raw("Cast", [x.name], to=TensorProto.DOUBLE)[0]
        name = b.raw("Mul", [name, _double(b, c)])[0]
        b.push(b.op("Cast", [name], x.shape, amp=x.amp, to=TensorProto.FLOAT))
    else:
        b.push(b.op("Identity", [x], x.shape, dtype=x.dtype, amp=x.amp, grain=x.grain))


def _double(b: Builder, c: Choices) -> str:
    return b.raw("Constant", [], value=numpy_helper.from_array(np.array(c.pick([1.0, 0.5, 0.0]), np.float64)))[0]
