"""Conv, ConvTranspose, Gemm, MatMul, Einsum."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.strategies import masks
from tests.strategies.builder import BATCH, Builder, Dim, Value
from tests.strategies.recipe import Choices, InapplicableError
from tests.strategies.steps.guards import scaled, small
from tests.strategies.steps.registry import batch_first, is_image, is_rows, step
from tests.strategies.weights import bias, grown, transposed, weight

SIZES = [4, 3, 8, 5, 2, 7, 6, 1, 8]


def divisors(n: int) -> list[int]:
    """All of them, 1 first."""
    return [d for d in range(1, n + 1) if n % d == 0]


def window(c: Choices, sizes: list[int], *, dilation: bool = True) -> tuple[dict[str, Any], list[int]]:
    """Attributes of a sliding window over axes of those sizes, and the sizes of the output."""
    auto = c.pick(["NOTSET", "NOTSET", "NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID", "NOTSET", "NOTSET"])
    kernel, strides, dilations, begins, ends, out = [], [], [], [], [], []
    same = c.chance(40)
    for size in sizes:
        k = c.between(1, min(3, size + 1)) if not same else 3
        s = c.pick([1, 1, 2]) if not same else 1
        d = c.pick([1, 1, 1, 2]) if dilation and not auto.startswith("SAME") and not same else 1
        reach = d * (k - 1) + 1
        if auto == "NOTSET":
            begin, end = (c.below(k), c.below(k)) if c.chance(60) and not same else (k // 2, k // 2)
            while size + begin + end < reach:
                end += 1
        else:
            begin = end = 0
        o = -(-size // s) if auto.startswith("SAME") else (size + begin + end - reach) // s + 1
        if o < 1:
            raise InapplicableError("the window is larger than the value")
        row = (k, s, d, begin, end, o)
        for target, number in zip((kernel, strides, dilations, begins, ends, out), row, strict=True):
            target.append(number)
    attributes: dict[str, Any] = {"kernel_shape": kernel, "strides": strides}
    if auto != "NOTSET":
        attributes["auto_pad"] = auto
    elif any(begins + ends):
        attributes["pads"] = begins + ends
    if any(d != 1 for d in dilations):
        attributes["dilations"] = dilations
    return attributes, out


def _spatial(x: Value) -> list[int]:
    return [d for d in x.shape[2:] if isinstance(d, int)]


def convolve(
    b: Builder, c: Choices, x: Value, out: int, attributes: dict[str, Any], sizes: list[int], group: int
) -> Value:
    """A Conv with a weight of its own, sometimes with a bias."""
    channels = x.shape[1]
    assert isinstance(channels, int)
    kernel = attributes["kernel_shape"]
    assert isinstance(kernel, list)
    shape = [out, channels // group, *kernel]
    fan_in = int(np.prod(shape[1:]))
    exact = x.exact and c.chance(70)
    w = weight(b, c, shape, out_axis=0, in_axis=1, fan_in=fan_in, exact=exact)
    inputs: list[Value | str] = [x, w]
    if c.chance(65):
        inputs.append(bias(b, c, [out], exact=exact))
    amp, grain = grown(x, fan_in)
    if c.chance(20):
        attributes = {k: v for k, v in attributes.items() if k != "kernel_shape"}
    return b.op(
        "Conv",
        inputs,
        (x.shape[0], out, *sizes),
        amp=amp,
        grain=grain if exact else None,
        group=group if group > 1 else None,
        **attributes,
    )


def _after(b: Builder, c: Choices, y: Value) -> Value:
    """What usually follows: an activation, a mask, both, nothing."""
    for _ in range(c.below(3)):
        if c.chance(50):
            y = b.op("Relu", [y], y.shape, grain=y.grain)
        elif c.chance(80):
            y = masks.apply(b, c, y, 1)
        else:
            y = masks.apply_constant_function(b, c, y, 1)
    return y


@step(is_image, weight=9)
def conv(b: Builder, c: Choices, x: Value) -> None:
    channels = x.shape[1]
    assert isinstance(channels, int)
    attributes, sizes = window(c, _spatial(x))
    kind = c.pick(["dense", "dense", "depthwise", "grouped", "dense"])
    if kind == "depthwise":
        y = convolve(b, c, x, channels * c.pick([1, 1, 2]), attributes, sizes, channels)
    elif kind == "grouped":
        group = c.pick(divisors(channels))
        y = convolve(b, c, x, group * c.between(1, 3), attributes, sizes, group)
    else:
        y = convolve(b, c, x, c.pick(SIZES), attributes, sizes, 1)
    b.push(_after(b, c, y))


@step(is_image, weight=3)
def residual(b: Builder, c: Choices, x: Value) -> None:
    channels = x.shape[1]
    assert isinstance(channels, int)
    rank = x.rank - 2
    same: dict[str, Any] = {"kernel_shape": [3] * rank, "pads": [1] * (2 * rank)}
    point: dict[str, Any] = {"kernel_shape": [1] * rank}
    inner = c.pick(SIZES)
    y = _after(b, c, convolve(b, c, x, inner, same if c.chance(60) else point, _spatial(x), 1))
    b.push(y)
    y = _after(b, c, convolve(b, c, y, channels, same if c.chance(40) else point, _spatial(x), 1))
    y = b.op(
        "Add",
        [x, y] if c.chance(50) else [y, x],
        x.shape,
        amp=x.amp + y.amp,
        grain=max(x.grain, y.grain) if x.grain is not None and y.grain is not None else None,
    )
    b.push(y)


@step(is_image, weight=2)
def squeeze_excite(b: Builder, c: Choices, x: Value) -> None:
    channels = x.shape[1]
    assert isinstance(channels, int)
    rank = x.rank - 2
    y = b.op("GlobalAveragePool", [x], (x.shape[0], channels, *[1] * rank))
    point: dict[str, Any] = {"kernel_shape": [1] * rank}
    y = _after(b, c, convolve(b, c, y, c.pick(SIZES), dict(point), [1] * rank, 1))
    y = convolve(b, c, y, channels, dict(point), [1] * rank, 1)
    y = b.op(c.pick(["Sigmoid", "HardSigmoid"]), [y], y.shape, amp=1.0)
    b.push(b.op("Mul", [x, y] if c.chance(50) else [y, x], x.shape))


@step(is_image, weight=3)
def conv_transpose(b: Builder, c: Choices, x: Value) -> None:
    channels = x.shape[1]
    assert isinstance(channels, int)
    group = c.pick([1, 1, c.pick(divisors(channels))])
    out = group * c.between(1, 3) if group > 1 else c.pick(SIZES)
    kernel, strides, dilations, extra, begins, ends, sizes = [], [], [], [], [], [], []
    for size in _spatial(x):
        k, s = c.between(1, 3), c.pick([1, 2, 1])
        d = c.pick([1, 1, 2])
        o = c.below(s) if c.chance(30) else 0
        begin, end = c.below(k), c.below(k)
        total = (size - 1) * s + o + (k - 1) * d + 1 - begin - end
        if total < 1:
            begin = end = 0
            total = (size - 1) * s + o + (k - 1) * d + 1
        for target, number in zip(
            (kernel, strides, dilations, extra, begins, ends, sizes), (k, s, d, o, begin, end, total), strict=True
        ):
            target.append(number)
    exact = x.exact and c.chance(50)
    fan_in = channels // group * int(np.prod(kernel))
    w = weight(b, c, [channels, out // group, *kernel], out_axis=1, in_axis=0, fan_in=fan_in, exact=exact)
    inputs: list[Value | str] = [x, w]
    if c.chance(60):
        inputs.append(bias(b, c, [out], exact=exact))
    amp, grain = grown(x, fan_in)
    y = b.op(
        "ConvTranspose",
        inputs,
        (x.shape[0], out, *sizes),
        amp=amp,
        grain=grain if exact else None,
        kernel_shape=kernel,
        strides=strides,
        dilations=dilations,
        group=group if group > 1 else None,
        pads=begins + ends if any(begins + ends) else None,
        output_padding=extra if any(extra) else None,
    )
    b.push(_after(b, c, y))


def _flat(b: Builder, c: Choices, x: Value) -> Value:
    """`x` as a matrix with the batch in front."""
    if x.rank == 2:
        return x
    if not batch_first(x):
        raise InapplicableError("the batch is not in front")
    total = int(np.prod([d for d in x.shape[1:] if isinstance(d, int)]))
    if total > 128:
        raise InapplicableError("a wide matrix")
    return b.op("Flatten", [x], (x.shape[0], total), grain=x.grain, axis=c.pick([1, 1 - x.rank]))


@step(lambda x: is_rows(x) and batch_first(x), weight=4)
def gemm(b: Builder, c: Choices, x: Value) -> None:
    x = _flat(b, c, x)
    n, k = x.shape
    if not isinstance(k, int):
        raise InapplicableError("the batch is contracted")
    out = c.pick(SIZES)
    exact = x.exact and c.chance(60)
    alpha, beta = (c.pick([0.5, 2.0]), c.pick([0.5, 0.0, 2.0])) if c.chance(25) else (None, None)
    amp, grain = grown(x, k)
    size: dict[str, Any] = dict(amp=amp * 2, grain=grain + 1 if grain is not None and exact else None)
    if c.chance(15):  # the constant on the left, the batch as columns
        w = weight(b, c, [out, k], out_axis=0, in_axis=1, fan_in=k, exact=exact)
        inputs = [w, x]
        if c.chance(60):
            inputs.append(bias(b, c, c.pick([[out, 1], [1], [1, 1]]), exact=exact))
        b.push(b.op("Gemm", inputs, (out, n), alpha=alpha, beta=beta, transB=1, **size))
        return
    trans_b = c.chance(50)
    shape = [out, k] if trans_b else [k, out]
    w = weight(b, c, shape, out_axis=0 if trans_b else 1, in_axis=1 if trans_b else 0, fan_in=k, exact=exact)
    trans_a = c.chance(15)
    left = b.op("Transpose", [x], (k, n), grain=x.grain, perm=[1, 0]) if trans_a else x
    inputs: list[Value | str] = [left, w]
    if c.chance(70):
        form = c.pick([[out], [out], [1, out], [1], [1, 1]])
        inputs.append(bias(b, c, form, axis=len(form) - 1, exact=exact))
    y = b.op(
        "Gemm",
        inputs,
        (n, out),
        alpha=alpha,
        beta=beta,
        transA=1 if trans_a else None,
        transB=1 if trans_b else None,
        **size,
    )
    if c.chance(50):
        y = _after(b, c, y)
    b.push(y)


@step(is_rows, weight=4)
def matmul_right(b: Builder, c: Choices, x: Value) -> None:
    k, out = x.shape[-1], c.pick(SIZES)
    assert isinstance(k, int)
    exact = x.exact and c.chance(60)
    amp, grain = grown(x, k)
    if c.chance(8) and x.rank >= 2 and not b.zero:  # a vector: the axis goes
        w = weight(b, c, [k], out_axis=0, in_axis=0, fan_in=k, exact=exact)
        b.push(b.op("MatMul", [x, w], x.shape[:-1], amp=amp, grain=grain if exact else None))
        return
    lead = []
    if c.chance(25) and not b.zero and x.rank >= 3 and isinstance(x.shape[-3], int):
        lead = [c.pick([x.shape[-3], 1])]
    if c.chance(25) and not lead:
        w0 = weight(b, c, [out, k], out_axis=0, in_axis=1, fan_in=k, exact=exact)
        w: Value | str = transposed(b, c, w0)
    else:
        w = weight(b, c, [*lead, k, out], out_axis=-1, in_axis=-2, fan_in=k, exact=exact)
    y = b.op("MatMul", [x, w], (*x.shape[:-1], out), amp=amp, grain=grain if exact else None)
    if c.chance(50):
        y = b.op("Add", [y, bias(b, c, [out])] if c.chance(50) else [bias(b, c, [out]), y], y.shape, amp=y.amp + 1)
    if c.chance(30):
        y = masks.apply(b, c, y, -1)
    b.push(y)


@step(lambda x: x.dtype == "f" and x.rank >= 2 and x.shape[-2] != BATCH, weight=2)
def matmul_left(b: Builder, c: Choices, x: Value) -> None:
    if x.rank > 2:
        b.not_at_zero("a broadcast against nothing")
    k, out = x.shape[-2], c.pick(SIZES)
    assert isinstance(k, int)
    lead = []
    if c.chance(25) and x.rank >= 3 and isinstance(x.shape[-3], int):
        lead = [c.pick([x.shape[-3], 1])]
    w = weight(b, c, [*lead, out, k], out_axis=-2, in_axis=-1, fan_in=k)
    y = b.op("MatMul", [w, x], (*x.shape[:-2], out, x.shape[-1]), amp=x.amp + 0.5)
    if c.chance(40):
        y = masks.apply(b, c, y, -2)
    b.push(y)


@step(lambda x: x.dtype == "f" and x.rank >= 3 and x.shape[-1] != BATCH and x.shape[-2] != BATCH, weight=2)
def matmul_dynamic(b: Builder, c: Choices, x: Value) -> None:
    perm = list(range(x.rank))
    perm[-1], perm[-2] = perm[-2], perm[-1]
    x = small(b, x)
    others = b.candidates(lambda v: v.dtype == "f" and v.shape == x.shape)
    other = small(b, c.pick(others)) if others else x
    y = b.op("Transpose", [other], (*x.shape[:-2], x.shape[-1], x.shape[-2]), perm=perm)
    swap = c.chance(50)
    left, right = (y, x) if swap else (x, y)
    k = left.shape[-1]
    assert isinstance(k, int)
    z = b.op("MatMul", [left, right], (*x.shape[:-2], left.shape[-2], right.shape[-1]), amp=left.amp * right.amp)
    b.push(scaled(b, z, 1.0 / k))


@step(is_rows, weight=1)
def einsum(b: Builder, c: Choices, x: Value) -> None:
    k, out = x.shape[-1], c.pick(SIZES)
    assert isinstance(k, int)
    letters = "abcde"[: x.rank - 1]
    w = weight(b, c, [k, out], out_axis=1, in_axis=0, fan_in=k)
    b.push(b.op("Einsum", [x, w], (*x.shape[:-1], out), amp=x.amp + 0.5, equation=f"{letters}k,ko->{letters}o"))


@step(lambda x: x.dtype == "f" and x.rank in (3, 4) and batch_first(x), weight=3)
def attention(b: Builder, c: Choices, x: Value) -> None:
    if x.rank == 4:
        n, ch, h, w_ = x.shape
        if static_area(h, w_) > 16:
            raise InapplicableError("long")
        x = b.op(
            "Reshape",
            [x, b.ints([0, 0, static_area(h, w_) if b.zero else -1])],
            (n, ch, static_area(h, w_)),
            grain=x.grain,
        )
        x = b.op("Transpose", [x], (n, x.shape[2], ch), grain=x.grain, perm=[0, 2, 1])
    n, t, ch = x.shape
    assert isinstance(t, int) and isinstance(ch, int)
    heads, depth = c.pick([2, 1, 3, 4]), c.pick([2, 1, 3])
    width = heads * depth
    x = small(b, x)

    def project(columns: int) -> Value:
        w = weight(b, c, [ch, columns], out_axis=1, in_axis=0, fan_in=ch)
        y = b.op("MatMul", [x, w], (n, t, columns), amp=x.amp)
        return b.op("Add", [y, bias(b, c, [columns])], (n, t, columns), amp=y.amp + 1) if c.chance(60) else y

    def split(y: Value, perm: list[int]) -> Value:
        y = b.op(
            "Reshape",
            [y, b.ints([0, 0, heads, depth] if b.zero or c.chance(60) else [0, t, heads, -1])],
            (n, t, heads, depth),
        )
        return b.op("Transpose", [y], tuple(y.shape[i] for i in perm), perm=perm)

    if c.chance(30):
        joint = project(3 * width)
        parts = b.multi("Split", [joint, b.ints([width] * 3)], [(n, t, width)] * 3, axis=2)
    else:
        parts = [project(width) for _ in range(3)]
    q, k, v = split(parts[0], [0, 2, 1, 3]), split(parts[1], [0, 2, 3, 1]), split(parts[2], [0, 2, 1, 3])
    scores: Value = b.op("MatMul", [q, k], (n, heads, t, t), amp=q.amp * k.amp)
    scores = scaled(b, scores, 0.5 / max(q.amp * k.amp, 1))
    if c.chance(30):
        hidden = np.where(np.tril(np.ones((t, t))), 0.0, -1e4).astype(np.float32)
        scores = b.op("Add", [scores, b.const(hidden)], scores.shape, amp=1.0)
    p = b.op("Softmax", [scores], scores.shape, amp=1.0, axis=-1)
    if c.chance(20):
        p = masks.apply(b, c, p, 1)
    y = b.op("MatMul", [p, v], (n, heads, t, depth), amp=v.amp)
    if c.chance(70):
        y = masks.apply(b, c, y, c.pick([1, 1, 3]))
    y = b.op("Transpose", [y], (n, t, heads, depth), perm=[0, 2, 1, 3])
    y = b.op("Reshape", [y, b.ints([0, 0, width] if b.zero or c.chance(60) else [0, 0, -1])], (n, t, width))
    w = weight(b, c, [width, ch], out_axis=1, in_axis=0, fan_in=width)
    y = b.op("MatMul", [y, w], (n, t, ch), amp=y.amp)
    b.push(b.op("Add", [x, y], x.shape, amp=x.amp + y.amp))


def static_area(*dims: Dim) -> int:
    """Product of static sizes."""
    return int(np.prod([d for d in dims if isinstance(d, int)]))
