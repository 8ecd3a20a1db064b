"""Batch normalization, and the barriers: softmax and the normalizations that mix positions.

The epsilons are large: with a small one a constant channel's rounding noise would be blown up a thousandfold.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.strategies import masks
from tests.strategies.builder import BATCH, Builder, Value
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
