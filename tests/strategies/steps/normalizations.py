"""Batch normalization, and the barriers: softmax and the normalizations that mix positions.

The epsilons are large: with a small one a constant channel's rounding noise would be blown up a thousandfold.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.strategies import masks
from tests.strategies.builder import BATCH, Builder, Value, static_size
from tests.strategies.recipe import Choices, InapplicableError
from tests.strategies.steps.contractions import divisors
from tests.strategies.steps.guards import small
from tests.strategies.steps.registry import is_image, is_rows, static_axes, step
from tests.strategies.weights import bias


def _scale(b: Builder, c: Choices, shape: list[int], *, axis: int = 0) -> str:
    data = (c.rng.random(shape) + 0.5).astype(np.float32)
    way = c.pick(["alive", "zeros", "masked", "zeros"])
    if way == "zeros":
        np.moveaxis(data, axis, 0)[~masks.pattern(c, shape[axis])] = 0
    value = Value(b.const(data, prefix="scale"), tuple(shape), amp=1.5)
    return masks.apply(b, c, value, axis).name if way == "masked" else value.name


@step(lambda x: x.dtype == "f" and x.rank >= 2 and x.shape[1] != BATCH and x.shape[0] != 0, weight=4)
def batch_normalization(b: Builder, c: Choices, x: Value) -> None:
    channels = x.shape[1]
    assert isinstance(channels, int)
    inputs: list[Value | str] = [x, _scale(b, c, [channels]), bias(b, c, [channels])]
    inputs.append(b.const((c.rng.standard_normal(channels) * 0.3).astype(np.float32), prefix="mean"))
    inputs.append(b.const((c.rng.random(channels) + 0.5).astype(np.float32), prefix="var"))
    y = b.op("BatchNormalization", inputs, x.shape, amp=x.amp * 1.5 + 1, epsilon=c.pick([1e-3, None]))
    if c.chance(50):
        y = b.op("Relu", [y], y.shape)
    if c.chance(30):
        y = masks.apply(b, c, y, 1)
    b.push(y)


@step(lambda x: x.dtype == "f" and bool(static_axes(x)), weight=2)
def softmax(b: Builder, c: Choices, x: Value) -> None:
    axis = c.pick(static_axes(x))
    op = c.pick(["Softmax", "LogSoftmax"])
    x = small(b, x)
    b.push(
        b.op(op, [x], x.shape, amp=1.0 if op == "Softmax" else x.amp + 2, axis=axis - x.rank if c.chance(40) else axis)
    )


@step(is_rows, weight=2, since=17)
def layer_normalization(b: Builder, c: Choices, x: Value) -> None:
    axis = x.rank - 1
    while axis > 1 and isinstance(x.shape[axis - 1], int) and c.chance(25):
        axis -= 1
    shape = [d for d in x.shape[axis:] if isinstance(d, int)]
    inputs: list[Value | str] = [x, _scale(b, c, shape, axis=len(shape) - 1)]
    rms = b.opset >= 23 and c.chance(40)
    if c.chance(70) and not rms:
        inputs.append(bias(b, c, shape, axis=len(shape) - 1))
    at = axis - x.rank if c.chance(50) else axis
    op = "RMSNormalization" if rms else "LayerNormalization"
    b.push(b.op(op, inputs, x.shape, amp=3.0, axis=at, epsilon=0.1))


@step(lambda x: is_rows(x), weight=1)
def rms_by_hand(b: Builder, c: Choices, x: Value) -> None:
    x = small(b, x)
    square = (
        b.op("Mul", [x, x], x.shape, amp=x.amp**2)
        if c.chance(50)
        else b.op("Pow", [x, b.const(np.float32(2))], x.shape, amp=x.amp**2)
    )
    axes: list[Value | str] = [square]
    attributes: dict[str, Any] = {"keepdims": 1}
    if b.opset >= 18:
        axes.append(b.ints([x.rank - 1 if b.zero else -1]))
    else:
        attributes["axes"] = [x.rank - 1 if b.zero else -1]
    mean = b.op("ReduceMean", axes, (*x.shape[:-1], 1), **attributes)
    mean = b.op("Add", [mean, b.const(np.float32(0.1))], mean.shape)
    root = b.op("Sqrt", [mean], mean.shape)
    y = b.op("Div", [x, root], x.shape, amp=3.0)
    size = x.shape[-1]
    assert isinstance(size, int)
    b.push(b.op("Mul", [y, _scale(b, c, [size])], x.shape, amp=3.0))


@step(is_image, weight=1)
def instance_normalization(b: Builder, c: Choices, x: Value) -> None:
    channels = x.shape[1]
    assert isinstance(channels, int)
    inputs: list[Value | str] = [x, _scale(b, c, [channels]), bias(b, c, [channels])]
    b.push(b.op("InstanceNormalization", inputs, x.shape, amp=3.0, epsilon=0.1))


@step(is_image, weight=1, since=18)
def group_normalization(b: Builder, c: Choices, x: Value) -> None:
    channels = x.shape[1]
    assert isinstance(channels, int)
    b.not_at_zero("onnxruntime's expansion reshapes to [0, groups, -1]")
    groups = c.pick(divisors(channels))
    size = channels if b.opset >= 21 else groups
    inputs: list[Value | str] = [x, _scale(b, c, [size]), bias(b, c, [size])]
    b.push(b.op("GroupNormalization", inputs, x.shape, amp=3.0, epsilon=0.1, num_groups=groups))


@step(lambda x: is_image(x) and x.rank == 4, weight=1)
def lrn(b: Builder, c: Choices, x: Value) -> None:
    b.push(b.op("LRN", [small(b, x)], x.shape, size=c.pick([3, 1, 5]), alpha=0.2, beta=0.75, bias=1.0))


@step(is_rows, weight=1)
def lp_normalization(b: Builder, c: Choices, x: Value) -> None:
    axis = c.pick(static_axes(x))
    if x.rank < 2:
        raise InapplicableError("a vector")
    y = b.op("Abs", [x], x.shape)
    y = b.op("Add", [y, b.const(np.float32(0.5))], y.shape, amp=x.amp + 0.5)
    b.push(b.op("LpNormalization", [y], x.shape, amp=1.0, axis=axis, p=c.pick([2, 1])))


# -- norms of which the dead positions agree with those of what they normalize ----------------------------------------


def _silenced(b: Builder, c: Choices, size: int, alive: np.ndarray, rest: float, *, prefix: str) -> str:
    data = (c.rng.random(size) + 0.5).astype(np.float32)
    data[~alive] = rest
    return b.const(data, prefix=prefix)


def _writer(b: Builder, c: Choices, x: Value, alive: np.ndarray, fill: float) -> Value:
    """A product of `x` that is `fill` where it is dead."""
    inputs = x.shape[-1]
    assert isinstance(inputs, int)
    weight = (c.rng.standard_normal((inputs, alive.size)) / np.sqrt(inputs)).astype(np.float32)
    weight[:, ~alive] = 0
    y = b.op("MatMul", [x, b.const(weight, prefix="w")], (*x.shape[:-1], alive.size), amp=x.amp + 0.5)
    if not fill and c.chance(50):
        return y
    shift = (c.rng.standard_normal(alive.size) * 0.3).astype(np.float32)
    shift[~alive] = fill
    return b.op("Add", [y, b.const(shift, prefix="b")], y.shape, amp=y.amp + 1)


@step(is_rows, weight=3)
def stream(b: Builder, c: Choices, x: Value) -> None:
    """A stream whose writers, norms and readers have the same dead positions, but for a mistake now and then."""
    alive = masks.pattern(c, c.pick([6, 5, 8, 3]))
    if not alive.any():
        alive[0] = True
    fill = c.pick([0.0, 0.0, 0.5])
    y = _writer(b, c, x, alive, fill)
    kinds = ["layer", "rms", "skip layer", "skip rms"] if b.opset >= 17 else ["rms", "skip rms", "skip layer"]
    for _ in range(1 + c.below(2)):
        kind = c.pick(kinds)
        own = alive.copy()
        if c.chance(20):
            own[c.below(own.size)] ^= True
        if kind.startswith("skip") and y.rank == 3:
            other = _writer(b, c, y, alive, fill)
            normed, total = _skip_norm(b, c, y, other, own, kind == "skip layer")
            y = total if total is not None and c.chance(60) else normed
        else:
            normed = _norm(b, c, y, own, "layer" in kind and b.opset >= 17)
        branch = _writer(b, c, b.op("Relu", [normed], normed.shape), alive, 0.0 if c.chance(70) else 0.5)
        fill = 0.0
        y = b.op("Add", [y if c.chance(50) else normed, branch], y.shape, amp=y.amp + branch.amp)
    b.push(y)


def _norm(b: Builder, c: Choices, x: Value, alive: np.ndarray, centred: bool) -> Value:
    inputs: list[Value | str] = [x, _silenced(b, c, alive.size, alive, 0.0, prefix="scale")]
    if not centred:
        op = "RMSNormalization" if b.opset >= 23 else "SimplifiedLayerNormalization"
        return b.op(op, inputs, x.shape, amp=3.0, axis=-1, epsilon=0.1)
    if c.chance(80):
        inputs.append(_silenced(b, c, alive.size, alive, c.pick([0.0, 0.0, 0.7]), prefix="shift"))
    if c.chance(80):
        return b.op("LayerNormalization", inputs, x.shape, amp=3.0, axis=-1, epsilon=0.1)
    names = [v.name if isinstance(v, Value) else v for v in inputs]
    result, mean, inverse = b.raw("LayerNormalization", names, outputs=3, axis=-1, epsilon=0.1)
    for name in (mean, inverse) if c.chance(50) else ():
        b.push(Value(name, (*x.shape[:-1], 1), amp=3.0))
    return Value(result, x.shape, amp=3.0)


def _skip_norm(
    b: Builder, c: Choices, x: Value, other: Value, alive: np.ndarray, centred: bool
) -> tuple[Value, Value | None]:
    names = [x.name, other.name, _silenced(b, c, alive.size, alive, 0.0, prefix="scale")]
    if centred:
        names.append(_silenced(b, c, alive.size, alive, 0.0, prefix="shift"))
    if c.chance(30):
        names.append(_silenced(b, c, alive.size, alive, 0.25, prefix="b"))
    op = "SkipLayerNormalization" if centred else "SkipSimplifiedLayerNormalization"
    results = b.raw(op, names, outputs=4, domain="com.microsoft", epsilon=0.1)
    return Value(results[0], x.shape, amp=3.0), Value(results[3], x.shape, amp=x.amp + other.amp + 0.5)


@step(is_image, weight=2)
def norm_of_dead_groups(b: Builder, c: Choices, x: Value) -> None:
    """A group or instance norm behind channels that are dead by groups, as torch writes it too."""
    inputs = x.shape[1]
    assert isinstance(inputs, int)
    groups, each = c.pick([(3, 2), (2, 3), (4, 1), (2, 2)])
    channels = groups * each
    alive = np.repeat(masks.pattern(c, groups), each)
    if c.chance(20):
        alive[c.below(channels)] ^= True
    weight = (c.rng.standard_normal((channels, inputs, *[1] * (x.rank - 2))) / np.sqrt(inputs)).astype(np.float32)
    weight[~alive] = 0
    parts: list[Value | str] = [x, b.const(weight, prefix="w")]
    if c.chance(40):
        parts.append(_silenced(b, c, channels, alive, 0.5, prefix="b"))
    y = b.op("Conv", parts, (x.shape[0], channels, *x.shape[2:]), amp=x.amp + 1)
    silent = alive if c.chance(60) else np.ones(channels, bool)
    way = c.pick(["torch", "group", "instance"])
    if way == "instance":
        inputs_of = [y, _silenced(b, c, channels, silent, 0.0, prefix="scale"), bias(b, c, [channels])]
        b.push(b.op("InstanceNormalization", inputs_of, y.shape, amp=3.0, epsilon=0.1))
        return
    if way == "group" and b.opset >= 18 and not b.zero:
        size = channels if b.opset >= 21 else groups
        inputs_of = [y, _silenced(b, c, size, silent if size == channels else silent[::each], 0.0, prefix="scale")]
        inputs_of.append(bias(b, c, [size]))
        b.push(b.op("GroupNormalization", inputs_of, y.shape, amp=3.0, epsilon=0.1, num_groups=groups))
        return
    pixels = static_size(y.shape[2:])
    flat = b.op("Reshape", [y, b.ints([0, groups, each * pixels])], (y.shape[0], groups, each * pixels))
    unit = [b.const(np.ones(groups, np.float32)), b.const(np.zeros(groups, np.float32))]
    flat = b.op("InstanceNormalization", [flat, *unit], flat.shape, amp=3.0, epsilon=0.1)
    shape = b.raw("Shape", [y.name])[0] if c.chance(50) else b.ints([0, channels, *[int(d) for d in y.shape[2:]]])
    y = b.op("Reshape", [flat, shape], y.shape, amp=3.0)
    ones = [1] * (y.rank - 2)
    scale = (c.rng.random((channels, *ones)) + 0.5).astype(np.float32)
    scale[~silent] = 0
    y = b.op("Mul", [y, b.const(scale, prefix="scale")], y.shape)
    b.push(b.op("Add", [y, b.const(_spread(c, silent, ones), prefix="shift")], y.shape, amp=4.0))


def _spread(c: Choices, alive: np.ndarray, ones: list[int]) -> np.ndarray:
    data = (c.rng.standard_normal((alive.size, *ones)) * 0.5).astype(np.float32)
    if c.chance(60):
        data[~alive] = 0
    return data
