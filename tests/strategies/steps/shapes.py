"""Data movement: Concat, Split, Slice, Gather, Transpose, Reshape and its kin, Pad, Resize, DepthToSpace."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tests.strategies.builder import BATCH, Builder, Dim, Shape, Value, static_size
from tests.strategies.recipe import Choices, InapplicableError
from tests.strategies.steps.registry import batch_first, is_float, is_image, static_axes, step


def _like(b: Builder, op: str, inputs: list[Value | str], shape: Shape, **attributes: Any) -> Value:
    """A node that only moves what its first value holds."""
    x = inputs[0]
    assert isinstance(x, Value)
    return b.op(op, inputs, shape, dtype=x.dtype, amp=x.amp, grain=x.grain, **attributes)


def _sized(x: Value, axis: int, size: Dim) -> Shape:
    return tuple(size if i == axis else d for i, d in enumerate(x.shape))


def _static(x: Value, c: Choices, *, prefer: int | None = None, least: int = 1) -> tuple[int, int]:
    """A static axis of at least that size, often the preferred one; with its size."""
    found = [a for a in static_axes(x) if isinstance(d := x.shape[a], int) and d >= least]
    if not found:
        raise InapplicableError("no static axis")
    axis = prefer if prefer in found and c.chance(60) else c.pick(found)
    assert axis is not None
    size = x.shape[axis]
    assert isinstance(size, int)
    return axis, size


def _sign(c: Choices, axis: int, rank: int) -> int:
    return axis - rank if c.chance(35) else axis


@step(lambda x: bool(static_axes(x)), weight=7)
def concat(b: Builder, c: Choices, x: Value) -> None:
    axis, size = _static(x, c, prefer=1)
    rest = _sized(x, axis, 0)
    parts = [x]
    total = size
    for _ in range(c.between(1, 2)):
        others = b.candidates(
            lambda v: v.dtype == x.dtype and v.rank == x.rank and v.shape[axis] != BATCH and _sized(v, axis, 0) == rest
        )
        other = c.pick(others)
        width = other.shape[axis]
        assert isinstance(width, int)
        if total + width > 24:
            break
        parts.append(other)
        total += width
    inputs: list[Value | str] = list(parts)
    sizes = [d for d in x.shape if isinstance(d, int)]
    if c.chance(20) and len(sizes) == x.rank and x.dtype == "f":
        k = c.between(1, 3)
        sizes[axis] = k
        inputs.append(b.const(np.full(sizes, c.pick([0.0, 1.0]), np.float32)))
        total += k
    amp = max(max(p.amp for p in parts), 1.0)
    grains = [p.grain for p in parts if p.grain is not None]
    y = b.op(
        "Concat",
        inputs,
        _sized(x, axis, total),
        dtype=x.dtype,
        amp=amp,
        grain=max(grains) if len(grains) == len(parts) else None,
        axis=_sign(c, axis, x.rank),
    )
    b.push(y)


@step(lambda x: bool(static_axes(x)), weight=4)
def split(b: Builder, c: Choices, x: Value) -> None:
    axis, size = _static(x, c, prefer=1, least=2)
    at = _sign(c, axis, x.rank)
    if c.chance(50):
        count = c.pick([d for d in range(2, size + 1) if size % d == 0])
        sizes = [size // count] * count
        if b.opset >= 18 and c.chance(60):
            parts = b.multi("Split", [x], [_sized(x, axis, s) for s in sizes], axis=at, num_outputs=count)
        elif b.opset < 18:
            parts = b.multi("Split", [x], [_sized(x, axis, s) for s in sizes], axis=at)
        else:
            parts = b.multi("Split", [x, b.ints(sizes)], [_sized(x, axis, s) for s in sizes], axis=at)
    else:
        cut = c.between(1, size - 1)
        sizes = [cut, size - cut]
        parts = b.multi("Split", [x, b.ints(sizes)], [_sized(x, axis, s) for s in sizes], axis=at)
    if c.chance(30):
        parts.reverse()
    b.push(*parts[: c.between(1, len(parts))])


@step(lambda x: bool(static_axes(x)), weight=4)
def slice_(b: Builder, c: Choices, x: Value) -> None:
    axis, size = _static(x, c, prefer=1)
    big = 2**63 - 1
    start = c.below(size)
    pace = c.pick([1, 1, 2, -1, -2, 3])
    if pace > 0:
        end = c.pick([big, size, c.between(start + 1, size)])
        kept = len(range(size)[start:end:pace])
        end = end if end in (big, size) or c.chance(60) else end - size
        if end == 0:
            end = big
    else:
        start = size - 1 - start
        end = c.pick([-big, -size - 1])
        kept = len(range(start, -1, pace))
    start = start if c.chance(60) else start - size
    inputs: list[Value | str] = [x, b.ints([start]), b.ints([end]), b.ints([_sign(c, axis, x.rank)])]
    if pace != 1 or c.chance(50):
        inputs.append(b.ints([pace]))
    b.push(_like(b, "Slice", inputs, _sized(x, axis, kept)))


@step(lambda x: bool(static_axes(x)), weight=4)
def gather(b: Builder, c: Choices, x: Value) -> None:
    axis, size = _static(x, c, prefer=1)
    at = _sign(c, axis, x.rank)
    form = c.pick(["vector", "vector", "permutation", "scalar", "matrix"])
    if form == "scalar":
        if x.rank < 2:
            raise InapplicableError("a vector")
        index = np.array(c.between(-size, size - 1), np.int64)
        shape = (*x.shape[:axis], *x.shape[axis + 1 :])
    elif form == "permutation":
        index = c.rng.permutation(size).astype(np.int64)
        shape = x.shape
    else:
        extent = (c.between(1, 4),) if form == "vector" else (2, c.between(1, 3))
        index = c.rng.integers(-size if c.chance(40) else 0, size, extent)
        shape = (*x.shape[:axis], *extent, *x.shape[axis + 1 :])
    b.push(_like(b, "Gather", [x, b.const(index.astype(c.pick([np.int64, np.int64, np.int32])))], shape, axis=at))


@step(lambda x: x.dtype == "f" and all(isinstance(d, int) for d in x.shape[1:]) and x.rank >= 2, weight=1)
def gather_elements(b: Builder, c: Choices, x: Value) -> None:
    if x.shape[0] == BATCH:
        raise InapplicableError("the index would need the batch")
    axis, size = _static(x, c)
    shape = [d for d in x.shape if isinstance(d, int)]
    index = c.rng.integers(0, size, shape).astype(np.int64)
    if c.chance(50):
        b.push(_like(b, "GatherElements", [x, b.const(index)], x.shape, axis=axis))
    else:
        index = np.argsort(c.rng.random(shape), axis=axis).astype(np.int64)
        update = b.const(np.zeros(shape, np.float32))
        b.push(_like(b, "ScatterElements", [x, b.const(index), update], x.shape, axis=axis))


@step(lambda x: x.rank >= 2, weight=4)
def transpose(b: Builder, c: Choices, x: Value) -> None:
    rest = list(range(1, x.rank))
    perm = [0, *c.rng.permutation(rest).tolist()] if c.chance(75) else c.rng.permutation(x.rank).tolist()
    b.push(_like(b, "Transpose", [x], tuple(x.shape[i] for i in perm), perm=[int(p) for p in perm]))


@step(lambda x: x.rank >= 2 and batch_first(x), weight=5)
def reshape(b: Builder, c: Choices, x: Value) -> None:
    rest = [d for d in x.shape[1:] if isinstance(d, int)]
    way = c.pick(["merge", "split", "split", "all", "any"])
    at = c.below(len(rest))
    if way == "merge" and len(rest) >= 2:
        at = min(at, len(rest) - 2)
        sizes = [*rest[:at], rest[at] * rest[at + 1], *rest[at + 2 :]]
    elif way == "split" and len(rest) <= 3:
        factor = c.pick([d for d in range(1, rest[at] + 1) if rest[at] % d == 0])
        pair = [factor, rest[at] // factor]
        sizes = [*rest[:at], *pair, *rest[at + 1 :]]
    elif way == "all":
        sizes = [math.prod(rest)]
    else:
        total = math.prod(rest)
        factor = c.pick([d for d in range(1, total + 1) if total % d == 0])
        sizes = [factor, total // factor]
    result: Shape = (x.shape[0], *sizes)
    form = c.pick(["zero", "minus one", "zeros", "from shape", "batch minus one"])
    if b.zero and form == "minus one":
        form = "zero"
    target = [0, *sizes]
    if form == "minus one":
        target[c.between(1, len(sizes))] = -1
    elif form == "zeros":
        target = [
            0 if i < x.rank and result[i] == x.shape[i] else d if isinstance(d, int) else 0
            for i, d in enumerate(result)
        ]
    elif form == "batch minus one":
        target[0] = -1
    elif form == "from shape":
        b.push(_like(b, "Reshape", [x, _shape_of(b, c, x, sizes)], result))
        return
    b.push(_like(b, "Reshape", [x, b.ints(target)], result))


def _shape_of(b: Builder, c: Choices, x: Value, sizes: list[int]) -> str:
    """`[batch, *sizes]` computed from the shape of `x`, in one of the ways of the exporters."""
    way = c.pick(["gather", "slice", "scalar", "attribute"])
    if way == "attribute" and b.opset >= 15:
        front = b.raw("Shape", [x.name], start=0, end=1)[0]
    else:
        whole = b.raw("Shape", [x.name])[0]
        if way == "slice":
            front = b.raw("Slice", [whole, b.ints([0]), b.ints([1]), b.ints([0])])[0]
        elif way == "scalar":
            scalar = b.raw("Gather", [whole, b.const(np.array(0, np.int64))], axis=0)[0]
            front = b.raw("Unsqueeze", [scalar, b.ints([0])])[0]
        else:
            front = b.raw("Gather", [whole, b.ints([0])], axis=0)[0]
    rest = list(sizes)
    if c.chance(40) and not b.zero:
        rest[-1] = -1
    return b.raw("Concat", [front, b.ints(rest)], axis=0)[0]


@step(lambda x: is_image(x) and batch_first(x), weight=2)
def channel_shuffle(b: Builder, c: Choices, x: Value) -> None:
    channels = x.shape[1]
    assert isinstance(channels, int)
    if x.rank > 4:
        raise InapplicableError("rank 6")
    groups = c.pick([d for d in range(1, channels + 1) if channels % d == 0])
    rest = [d for d in x.shape[2:] if isinstance(d, int)]
    y = _like(
        b,
        "Reshape",
        [x, b.ints([0, groups, channels // groups, *rest])],
        (x.shape[0], groups, channels // groups, *rest),
    )
    perm = [0, 2, 1, *range(3, y.rank)]
    y = _like(b, "Transpose", [y], tuple(y.shape[i] for i in perm), perm=perm)
    b.push(_like(b, "Reshape", [y, b.ints([0, channels if b.zero else -1, *rest])], x.shape))


@step(lambda x: x.rank >= 2 and batch_first(x), weight=1)
def flatten(b: Builder, c: Choices, x: Value) -> None:
    y = _like(b, "Flatten", [x], (x.shape[0], static_size(x.shape[1:])), axis=c.pick([1, 1 - x.rank]))
    b.push(y)


@step(lambda x: x.rank >= 2 and 1 in x.shape, weight=2)
def squeeze(b: Builder, c: Choices, x: Value) -> None:
    ones = [i for i, d in enumerate(x.shape) if d == 1]
    axes = [c.pick(ones)]
    shape = tuple(d for i, d in enumerate(x.shape) if i not in axes)
    if len(ones) == 1 and BATCH not in x.shape and c.chance(50):
        b.push(_like(b, "Squeeze", [x], shape))
    else:
        b.push(_like(b, "Squeeze", [x, b.ints([_sign(c, axes[0], x.rank)])], shape))


@step(lambda x: x.rank <= 4, weight=2)
def unsqueeze(b: Builder, c: Choices, x: Value) -> None:
    axis = c.between(0, x.rank) if c.chance(30) else c.between(1, x.rank)
    shape = (*x.shape[:axis], 1, *x.shape[axis:])
    b.push(_like(b, "Unsqueeze", [x, b.ints([_sign(c, axis, x.rank + 1)])], shape))


@step(lambda x: x.dtype != "b", weight=2)
def expand(b: Builder, c: Choices, x: Value) -> None:
    lead = [c.pick([2, 1, 3])] if c.chance(25) and x.rank <= 4 else []
    target: list[int] = list(lead)
    shape: list[Dim] = list(lead)
    for d in x.shape:
        wide = c.pick([1, 2, 3]) if d == 1 else 1
        target.append(wide)
        shape.append(wide if d == 1 else d)
    b.push(_like(b, "Expand", [x, b.ints(target)], tuple(shape)))


@step(is_float, weight=2)
def tile(b: Builder, c: Choices, x: Value) -> None:
    axis, size = _static(x, c, prefer=1)
    times = c.pick([2, 1, 3])
    repeats = [times if i == axis else 1 for i in range(x.rank)]
    b.push(_like(b, "Tile", [x, b.ints(repeats)], _sized(x, axis, size * times)))


@step(is_float, weight=4)
def pad(b: Builder, c: Choices, x: Value) -> None:
    axis, size = _static(x, c, prefer=x.rank - 1)
    modes = ["constant", "constant", "reflect", "edge", "constant"] + (["wrap"] if b.opset >= 19 and not b.zero else [])
    mode = c.pick(modes)
    begins, ends = [0] * x.rank, [0] * x.rank
    grown = size
    axes = [axis]
    if c.chance(30) and mode == "constant":
        axes.append(_static(x, c)[0])
    shape = list(x.shape)
    for a in set(axes):
        grown = x.shape[a]
        assert isinstance(grown, int)
        most = 2 if mode == "constant" else min(2, grown - 1)
        begins[a], ends[a] = c.between(0, most), c.between(0, most)
        if mode == "constant" and c.chance(25) and grown > 2:
            begins[a] = -1
        if mode == "constant" and c.chance(15) and grown > 2:
            ends[a] = -1
        shape[a] = grown + begins[a] + ends[a]
    if mode == "reflect" and x.rank < 2:
        raise InapplicableError("a vector")
    amount = c.pick([0.0, None, 0.5, -1.0])
    inputs: list[Value | str] = [x]
    short = b.opset >= 18 and c.chance(30)
    used = sorted(set(axes))
    pads = [begins[a] for a in used] + [ends[a] for a in used] if short else begins + ends
    inputs.append(b.ints(pads))
    if mode == "constant" and amount is not None:
        inputs.append(b.const(np.float32(amount)))
    if short:
        while len(inputs) < 3:
            inputs.append("")
        inputs.append(b.ints(used))
    y = b.op(
        "Pad",
        inputs,
        tuple(shape),
        amp=max(x.amp, 1.0),
        grain=max(x.grain, 1) if x.grain is not None else None,
        mode=mode if mode != "constant" or c.chance(50) else None,
    )
    b.push(y)


@step(lambda x: is_image(x) and batch_first(x), weight=3)
def resize(b: Builder, c: Choices, x: Value) -> None:
    mode = c.pick(["nearest", "linear", "nearest"])
    if mode == "linear" and x.rank == 5 and b.opset < 13:
        raise InapplicableError("no trilinear")
    spatial = [d for d in x.shape[2:] if isinstance(d, int)]
    by_sizes = c.chance(40) and isinstance(x.shape[0], int)
    factors = [c.pick([2, 1]) for _ in spatial]
    sizes = [s * f for s, f in zip(spatial, factors, strict=True)]
    if by_sizes:
        sizes = [c.between(1, 6) for _ in spatial]
        inputs: list[Value | str] = [x, "", "", b.ints([*x.shape[:2], *sizes])]  # type: ignore[list-item]
    else:
        inputs = [x, "", b.const(np.array([1, 1, *factors], np.float32), prefix="scales")]
    how = c.pick(["half_pixel", "asymmetric"]) if mode == "linear" else c.pick(["asymmetric", "half_pixel"])
    attributes: dict[str, Any] = {"mode": mode, "coordinate_transformation_mode": how}
    if mode == "nearest":
        attributes["nearest_mode"] = "floor" if how == "asymmetric" else c.pick(["round_prefer_floor", "floor"])
    grain = x.grain if mode == "nearest" else None
    b.push(b.op("Resize", inputs, (*x.shape[:2], *sizes), grain=grain, **attributes))


@step(lambda x: is_image(x) and x.rank == 4 and batch_first(x), weight=2)
def depth_and_space(b: Builder, c: Choices, x: Value) -> None:
    n, channels, h, w = x.shape
    assert isinstance(channels, int) and isinstance(h, int) and isinstance(w, int)
    if channels % 4 == 0:
        y = b.op(
            "DepthToSpace",
            [x],
            (n, channels // 4, h * 2, w * 2),
            grain=x.grain,
            blocksize=2,
            mode=c.pick(["DCR", "CRD"]),
        )
    elif h % 2 == 0 and w % 2 == 0:
        y = b.op("SpaceToDepth", [x], (n, channels * 4, h // 2, w // 2), grain=x.grain, blocksize=2)
    else:
        raise InapplicableError("no block")
    b.push(y)


@step(lambda x: x.dtype == "f" and x.rank == 3 and batch_first(x) and x.shape[0] == BATCH, weight=2)
def tokens_as_rows(b: Builder, c: Choices, x: Value) -> None:
    """(N, T, C) through one Gemm over all N*T rows, as fully connected layers are often exported."""
    from tests.strategies.weights import bias, grown, weight

    n, t, k = x.shape
    assert isinstance(t, int) and isinstance(k, int)
    out = c.pick([4, 3, 8, 5, 1])
    rows = b.raw("Reshape", [x.name, b.ints([-1, k])])[0]
    w = weight(b, c, [out, k], out_axis=0, in_axis=1, fan_in=k)
    y = b.raw("Gemm", [rows, w.name, bias(b, c, [out])], transB=1)[0]
    if c.chance(50):
        y = b.raw("Relu", [y])[0]
    b.push(b.op("Reshape", [y, b.ints([-1, t, out])], (n, t, out), amp=grown(x, k)[0]))
