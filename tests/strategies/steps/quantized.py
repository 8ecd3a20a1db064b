"""Weights that are stored as integers, values that are quantized and come back, and integer operators between the two.

Only exact values are quantized: a difference in rounding would become a difference of one step.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.strategies import masks
from tests.strategies.builder import Builder, Dim, Value
from tests.strategies.recipe import Choices
from tests.strategies.steps.contractions import SIZES, divisors, window
from tests.strategies.steps.registry import batch_first, is_image, is_rows, static_axes, step
from tests.strategies.weights import bias

MICROSOFT = "com.microsoft"


def is_exact(x: Value) -> bool:
    """A float value of numbers with few digits."""
    return x.dtype == "f" and x.exact and x.rank >= 2


def _integers(c: Choices, shape: list[int], zero: np.ndarray, out_axis: int, in_axis: int, kind: type) -> np.ndarray:
    """Integers of a weight, at its zero point in some rows or columns."""
    low, high = (max(np.iinfo(kind).min, -4), 5)
    data = c.rng.integers(low, high, shape)
    for axis in ([out_axis], [in_axis], [out_axis, in_axis], [])[c.below(4)]:
        dead = ~masks.pattern(c, shape[axis])
        place = tuple(dead if i == axis else slice(None) for i in range(len(shape)))
        data[place] = np.broadcast_to(zero, shape)[place]
    return data.astype(kind)


def stored(
    b: Builder, c: Choices, shape: list[int], out_axis: int, in_axis: int, fan_in: int, *, rows_only: bool = False
) -> Value:
    """A weight behind DequantizeLinear: one scale, one for every output, or one for every block of inputs."""
    kind = c.pick([np.int8, np.uint8])
    way = c.pick(["one", "rows", "rows and points"] + (["blocks"] if b.opset >= 21 and not rows_only else []))
    size = 0.5 / max(fan_in, 1) ** 0.5
    attributes: dict[str, Any] = {}
    count = shape[out_axis]
    lined = [-1 if i == out_axis else 1 for i in range(len(shape))]
    zero = np.array(1, kind)
    scale = np.array(size, np.float32)
    if way.startswith("rows"):
        attributes["axis"] = out_axis
        scale = (size * (0.5 + c.rng.random(count))).astype(np.float32)
        zero = (c.rng.integers(0, 3, count) if way == "rows and points" else np.ones(count)).astype(kind)
    q = _integers(c, shape, zero.reshape(lined if zero.ndim else ()), out_axis, in_axis, kind)
    if way == "blocks":
        block = c.between(1, shape[in_axis])
        blocks = [-(-s // block) if i == in_axis else s for i, s in enumerate(shape)]
        attributes |= {"axis": in_axis, "block_size": block}
        scale, zero = (size * (0.5 + c.rng.random(blocks))).astype(np.float32), np.ones(blocks, kind)
    inputs: list[Value | str] = [b.const(q, prefix="q"), b.const(scale, prefix="scale")]
    if zero.any() or c.chance(50):
        inputs.append(b.const(zero, prefix="zero"))
    return b.op("DequantizeLinear", inputs, tuple(shape), amp=2.0, **attributes)


@step(is_rows, weight=2, since=13)
def stored_matmul(b: Builder, c: Choices, x: Value) -> None:
    width = x.shape[-1]
    assert isinstance(width, int)
    out = c.pick(SIZES)
    if x.rank == 2 and c.chance(50):
        turned = c.chance(50)
        shape, places = ([out, width], (0, 1)) if turned else ([width, out], (1, 0))
        w = stored(b, c, shape, *places, width)
        inputs: list[Value | str] = [x, w]
        if c.chance(60):
            inputs.append(bias(b, c, [out]))
        b.push(b.op("Gemm", inputs, (x.shape[0], out), amp=x.amp + 1, transB=int(turned)))
        return
    b.push(b.op("MatMul", [x, stored(b, c, [width, out], 1, 0, width)], (*x.shape[:-1], out), amp=x.amp + 1))


@step(is_image, weight=2, since=13)
def stored_conv(b: Builder, c: Choices, x: Value) -> None:
    channels = x.shape[1]
    assert isinstance(channels, int)
    attributes, sizes = window(c, [d for d in x.shape[2:] if isinstance(d, int)])
    group = c.pick([1, 1, channels, c.pick(divisors(channels))])
    out = group * c.between(1, 3) if group > 1 else c.pick(SIZES)
    shape = [out, channels // group, *attributes["kernel_shape"]]
    fan_in = int(np.prod(shape[1:]))
    inputs: list[Value | str] = [x, stored(b, c, shape, 0, 1, fan_in)]
    if c.chance(50):
        numbers = c.rng.integers(-40, 40, out).astype(np.int32) * (c.rng.random(out) < 0.6)
        scales = b.const(np.float32(0.01)) if c.chance(50) else b.const(np.full(out, 0.01, np.float32))
        q = b.const(numbers.astype(np.int32), prefix="q")
        inputs.append(b.op("DequantizeLinear", [q, scales], (out,), amp=1.0, axis=0))
    attributes |= {"group": group if group > 1 else None}
    b.push(b.op("Conv", inputs, (x.shape[0], out, *sizes), amp=x.amp + 1, **attributes))


def quantize(b: Builder, c: Choices, x: Value, step_: float, *, kind: type | None = None) -> tuple[str, list[str]]:
    """Quantize a value; returns it, and its scale and zero point. Steps are powers of two: all is exact."""
    kind = kind or c.pick([np.uint8, np.int8])
    zero = c.pick([0, 3, 128]) if kind == np.uint8 else c.pick([0, -5, 7])
    given = [b.const(np.float32(step_), prefix="scale"), b.const(np.array(zero, kind), prefix="zero")]
    return b.raw("QuantizeLinear", [x.name, *given])[0], given


def dequantize(b: Builder, q: str, given: list[str], shape: tuple[Dim, ...], step_: float) -> Value:
    """Come back; what is there are multiples of the step."""
    return b.op("DequantizeLinear", [q, *given], shape, amp=256 * step_, grain=max(0, -int(np.log2(step_))))


@step(lambda x: x.name in ("x", "y", "tokens"), weight=2, since=13)
def coarse(b: Builder, c: Choices, x: Value) -> None:
    """A graph input is the same in both models: what is rounded of it is exact."""
    y = b.op("Round", [b.op("Mul", [x, b.const(np.float32(2))], x.shape)], x.shape, amp=2 * x.amp + 1, grain=0)
    b.push(b.op("Mul", [y, b.const(np.float32(0.5))], x.shape, amp=x.amp + 1, grain=1))


@step(is_exact, weight=2, since=13)
def round_trip(b: Builder, c: Choices, x: Value) -> None:
    size = c.pick([0.25, 0.5, 1.0, 2.0])
    axes = static_axes(x)
    if c.chance(60) or not axes:
        q, given = quantize(b, c, x, size)
        b.push(dequantize(b, q, given, x.shape, size))
        return
    axis = c.pick(axes)
    count = x.shape[axis]
    assert isinstance(count, int)
    scales = c.rng.choice([0.5, 1.0, 2.0], count).astype(np.float32)
    zeros = c.rng.integers(-9, 9, count).astype(np.int8) if c.chance(50) else np.full(count, 3, np.int8)
    given = [b.const(scales, prefix="scale"), b.const(zeros, prefix="zero")]
    q = b.raw("QuantizeLinear", [x.name, *given], axis=axis)[0]
    b.push(b.op("DequantizeLinear", [q, *given], x.shape, amp=512.0, grain=1, axis=axis))


@step(lambda x: is_exact(x) and is_image(x), weight=3, since=13)
def integer_conv(b: Builder, c: Choices, x: Value) -> None:
    channels = x.shape[1]
    assert isinstance(channels, int)
    q, given = quantize(b, c, x, 0.5, kind=np.uint8)
    attributes, sizes = window(c, [d for d in x.shape[2:] if isinstance(d, int)])
    group = c.pick([1, 1, channels, c.pick(divisors(channels))])
    out = group * c.between(1, 2) if group > 1 else c.pick(SIZES)
    shape = [out, channels // group, *attributes["kernel_shape"]]
    rows = c.chance(40)
    zero = np.full(out, 1, np.int8) if rows else np.array(1, np.int8)
    w = b.const(_integers(c, shape, np.array(1), 0, 1, np.int8), prefix="q")
    attributes |= {"group": group if group > 1 else None}
    fan_in = int(np.prod(shape[1:]))
    whole = (x.shape[0], out, *sizes)
    if c.chance(40):
        zero = np.array(1, np.int8)
        point = given[1] if c.chance(70) else b.const(np.array(9, np.uint8))
        y = b.raw("ConvInteger", [q, w, point, b.const(zero)], **attributes)[0]
        y = b.op("Cast", [y], whole, amp=256.0 * 5 * fan_in, grain=0, to=1)
        b.push(y)
        return
    step_ = 2.0 ** int(np.ceil(np.log2(max(fan_in, 1))))
    inner = b.const(np.full(out, 0.5, np.float32) if rows else np.float32(0.5))
    target = [b.const(np.float32(step_)), b.const(np.array(100, np.uint8))]
    inputs = [q, *given, w, inner, b.const(zero), *target]
    if c.chance(50):
        inputs.append(b.const((c.rng.integers(-50, 50, out) * (c.rng.random(out) < 0.6)).astype(np.int32)))
    b.push(dequantize(b, b.raw("QLinearConv", inputs, **attributes)[0], target, whole, step_))


@step(lambda x: is_exact(x) and is_rows(x), weight=3, since=13)
def integer_matmul(b: Builder, c: Choices, x: Value) -> None:
    width = x.shape[-1]
    assert isinstance(width, int)
    out = c.pick(SIZES)
    whole = (*x.shape[:-1], out)
    zero = c.rng.integers(0, 3, out).astype(np.int8) if c.chance(40) else np.array(1, np.int8)
    w = b.const(_integers(c, [width, out], zero, 1, 0, np.int8), prefix="q")
    op = c.pick(["MatMulInteger", "QLinearMatMul", "dynamic", "QGemm"])
    if op == "dynamic":
        q, scale, point = b.raw("DynamicQuantizeLinear", [x.name], outputs=3)
        size = b.const(np.float32(0.125))
        if c.chance(50):
            tail = [bias(b, c, [out])] if c.chance(50) else []
            names = [q, w, scale, size, point, b.const(zero), *tail]
            b.push(b.op("MatMulIntegerToFloat", names, whole, amp=x.amp * 2, domain=MICROSOFT))
            return
        y = b.raw("Cast", b.raw("MatMulInteger", [q, w, point, b.const(zero)]), to=1)[0]
        b.push(b.op("Mul", [y, b.raw("Mul", [scale, size])[0]], whole, amp=x.amp * 2))
        return
    q, given = quantize(b, c, x, 0.5, kind=np.uint8)
    if op == "MatMulInteger":
        point = given[1] if c.chance(70) else b.const(np.array(9, np.uint8))
        y = b.raw("MatMulInteger", [q, w, point, b.const(zero)])[0]
        b.push(b.op("Cast", [y], whole, amp=256.0 * 6 * width, grain=0, to=1))
        return
    size = 2.0 ** int(np.ceil(np.log2(max(width, 1))))
    inner = np.full(out, 0.5, np.float32) if zero.ndim else np.float32(0.5)
    target = [b.const(np.float32(size)), b.const(np.array(100, np.uint8))]
    if op == "QGemm" and x.rank == 2:
        c_in = b.const((c.rng.integers(-50, 50, out) * (c.rng.random(out) < 0.6)).astype(np.int32))
        y = b.raw("QGemm", [q, *given, w, b.const(inner), b.const(zero), c_in, *target], domain=MICROSOFT)[0]
    else:
        y = b.raw("QLinearMatMul", [q, *given, w, b.const(inner), b.const(zero), *target])[0]
    b.push(dequantize(b, y, target, whole, size))


@step(lambda x: is_exact(x) and batch_first(x), weight=2, since=13)
def integer_elementwise(b: Builder, c: Choices, x: Value) -> None:
    q, given = quantize(b, c, x, 0.5, kind=np.uint8)
    target = [b.const(np.float32(1.0)), b.const(np.array(20, np.uint8))]
    ways = ["QLinearAdd", "QLinearMul", "QLinearConcat", "QLinearLeakyRelu"]
    op = c.pick(ways + (["pool", "global pool"] if is_image(x) else []))
    shape = x.shape
    if op == "pool":
        kernel = [min(2, d) for d in x.shape[2:] if isinstance(d, int)]
        y = b.raw("QLinearAveragePool", [q, *given, *target], domain=MICROSOFT, kernel_shape=kernel)[0]
        shape = (*x.shape[:2], *(d - k + 1 for d, k in zip(x.shape[2:], kernel, strict=True) if isinstance(d, int)))
    elif op == "global pool":
        y = b.raw("QLinearGlobalAveragePool", [q, *given, *target], domain=MICROSOFT)[0]
        shape = (*x.shape[:2], *[1] * (x.rank - 2))
    elif op == "QLinearLeakyRelu":
        y = b.raw(op, [q, *given, *target], domain=MICROSOFT, alpha=0.25)[0]
    else:
        others = [v for v in b.candidates(is_exact) if v.shape == x.shape and v.name != x.name] or [x]
        other = c.pick(others)
        p, point = quantize(b, c, other, c.pick([0.5, 1.0]), kind=np.uint8)
        if op == "QLinearConcat":
            axis = c.pick(static_axes(x))
            y = b.raw(op, [*target, q, *given, p, *point], domain=MICROSOFT, axis=axis)[0]
            shape = tuple(2 * d if i == axis and isinstance(d, int) else d for i, d in enumerate(x.shape))
        else:
            y = b.raw(op, [q, *given, p, *point, *target], domain=MICROSOFT)[0]
    b.push(dequantize(b, y, target, shape, 1.0))
