"""Weights of blocks in any order, and constant channels in front of zero padding, dense and in groups."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.strategies import masks
from tests.strategies.builder import Builder, Value
from tests.strategies.recipe import Choices, InapplicableError
from tests.strategies.steps.registry import is_image, is_rows, step
from tests.strategies.weights import bias

SIDES = [(16, 16), (20, 13), (3, 3), (7, 5), (1, 1), (24, 12)]


def _blocks(c: Choices) -> np.ndarray:
    """A weight [o, i] of two to five blocks, equal ones or not; now and then one number joins two of them."""
    shapes = [c.pick(SIDES)] * c.between(2, 5)
    if c.chance(60):
        shapes = [c.pick(SIDES) for _ in shapes]
    weight = np.zeros((sum(o for o, _ in shapes), sum(i for _, i in shapes)), np.float32)
    row = column = 0
    for outputs, inputs in shapes:
        weight[row : row + outputs, column : column + inputs] = c.rng.standard_normal((outputs, inputs))
        row, column = row + outputs, column + inputs
    if c.chance(15):
        weight[0, -1] = 1.0
    if c.chance(15):
        weight[c.below(len(weight))] = 0
    if c.chance(70):
        weight = weight[c.rng.permutation(row)][:, c.rng.permutation(column)]
    return (weight / 4).astype(np.float32)


def _dense(b: Builder, c: Choices, shape: list[int]) -> str:
    return b.const((c.rng.standard_normal(shape) / 4).astype(np.float32), prefix="w")


@step(is_rows, weight=2)
def block_product(b: Builder, c: Choices, x: Value) -> None:
    """Widened, multiplied by blocks, sometimes narrowed again: neighbours may take the order over."""
    weight = _blocks(c)
    outputs, inputs = weight.shape
    k = x.shape[-1]
    if not isinstance(k, int) or any(isinstance(d, int) and d > 8 for d in x.shape[:-1]):
        raise InapplicableError("large")
    wide = b.op("MatMul", [x, _dense(b, c, [k, inputs])], (*x.shape[:-1], inputs), amp=x.amp)
    if c.chance(50):
        wide = b.op("Add", [wide, bias(b, c, [inputs])], wide.shape, amp=wide.amp + 1)
    if c.chance(50):
        wide = b.op(c.pick(["Relu", "Tanh"]), [wide], wide.shape)
    if c.chance(15):
        b.push(wide)
    if x.rank == 2 and c.chance(40):
        trans = c.chance(50)
        array = weight if trans else np.ascontiguousarray(weight.T)
        extra = [bias(b, c, c.pick([[outputs], [1, outputs], [1]]))] if c.chance(50) else []
        w = b.const(array, prefix="w")
        y = b.op("Gemm", [wide, w, *extra], (x.shape[0], outputs), amp=wide.amp * 2, transB=1 if trans else None)
    else:
        w = b.const(np.ascontiguousarray(weight.T), prefix="w")
        y = b.op("MatMul", [wide, w], (*x.shape[:-1], outputs), amp=wide.amp * 2)
    if c.chance(40):
        y = masks.apply(b, c, y, -1)
    if c.chance(70):
        y = b.op("Relu", [y], y.shape)
        y = b.op("MatMul", [y, _dense(b, c, [outputs, 4])], (*y.shape[:-1], 4), amp=y.amp)
    b.push(y)


@step(is_image, weight=2)
def block_conv(b: Builder, c: Choices, x: Value) -> None:
    """A convolution by blocks between two of single pixels."""
    weight = _blocks(c)
    outputs, inputs = weight.shape
    channels, rank = x.shape[1], x.rank - 2
    assert isinstance(channels, int)
    pixels = int(np.prod([d for d in x.shape[2:] if isinstance(d, int)]))
    if pixels * max(outputs, inputs) > 1500:
        raise InapplicableError("large")
    point: dict[str, Any] = {"kernel_shape": [1] * rank}
    wide = b.op("Conv", [x, _dense(b, c, [inputs, channels, *[1] * rank])], (x.shape[0], inputs, *x.shape[2:]), **point)
    if c.chance(50):
        wide = b.op("Relu", [wide], wide.shape)
    if c.chance(15):
        b.push(wide)
    taps = (c.rng.standard_normal([1, 1, *[3] * rank]) / 2).astype(np.float32)
    w = b.const(weight.reshape(*weight.shape, *[1] * rank) * taps, prefix="w")
    extra = [bias(b, c, [outputs])] if c.chance(50) else []
    same: dict[str, Any] = {"kernel_shape": [3] * rank, "pads": [1] * (2 * rank)}
    y = b.op("Conv", [wide, w, *extra], (x.shape[0], outputs, *x.shape[2:]), amp=wide.amp * 4, **same)
    if c.chance(40):
        y = masks.apply(b, c, y, 1)
    narrow = b.op("Conv", [y, _dense(b, c, [3, outputs, *[1] * rank])], (x.shape[0], 3, *x.shape[2:]), **point)
    b.push(narrow)


@step(is_image, weight=4)
def constants_before_padding(b: Builder, c: Choices, x: Value) -> None:
    """Masked filters with a bias, a function, and one or two padded convolutions that read them, dense or in groups."""
    channels, rank, inner = x.shape[1], x.rank - 2, c.pick([6, 8, 4, 12])
    assert isinstance(channels, int)
    array = (c.rng.standard_normal([inner, channels, *[1] * rank]) / channels).astype(np.float32)
    array[~masks.pattern(c, inner)] = 0
    point: dict[str, Any] = {"kernel_shape": [1] * rank}
    y = b.op("Conv", [x, b.const(array, prefix="w"), bias(b, c, [inner])], (x.shape[0], inner, *x.shape[2:]), **point)
    y = b.op(c.pick(["Relu", "Sigmoid", "Tanh"]), [y], y.shape)
    if c.chance(20):
        b.push(y)
    parts = [_padded(b, c, y, inner) for _ in range(c.between(1, 2))]
    if len(parts) == 2 and parts[0].shape == parts[1].shape:
        parts = [b.op("Add", parts, parts[0].shape, amp=parts[0].amp * 2)]
    b.push(*parts)


def _padded(b: Builder, c: Choices, y: Value, inner: int) -> Value:
    rank, group = y.rank - 2, c.pick([1, 1, 2, inner])
    each = c.between(1, 3)
    out = each * group
    kernel = [c.pick([3, 2, 3])] * rank
    begin, end = c.between(0, 1), 1
    op = c.pick(["Conv", "Conv", "ConvTranspose"])
    stride = c.pick([1, 1, 2])
    sizes = []
    for size in y.shape[2:]:
        assert isinstance(size, int)
        if op == "Conv":
            sizes.append((size + begin + end - kernel[0]) // stride + 1)
        else:
            sizes.append((size - 1) * stride + kernel[0] - begin - end)
    if min(sizes) < 1:
        raise InapplicableError("the window is larger than the value")
    shape = [out, inner // group, *kernel] if op == "Conv" else [inner, each, *kernel]
    array = (c.rng.standard_normal(shape) / inner).astype(np.float32)
    if c.chance(30):
        array[~masks.pattern(c, len(array))] = 0
    if c.chance(30):
        array[:, ~masks.pattern(c, array.shape[1])] = 0
    extra = [bias(b, c, [out])] if c.chance(50) else []
    return b.op(
        op,
        [y, b.const(array, prefix="w"), *extra],
        (y.shape[0], out, *sizes),
        amp=2.0,
        kernel_shape=kernel,
        strides=[stride] * rank,
        pads=[begin] * rank + [end] * rank,
        group=group if group > 1 else None,
    )
