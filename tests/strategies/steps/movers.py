"""Indices over several axes, samplers, columns that become images, a table that is read and multiplied with."""

from __future__ import annotations

import numpy as np

from tests.strategies.builder import BATCH, Builder, Value
from tests.strategies.recipe import Choices, InapplicableError
from tests.strategies.steps.contractions import SIZES
from tests.strategies.steps.registry import batch_first, is_image, static_axes, step
from tests.strategies.weights import grown, weight

WORDS = 11


@step(lambda x: (x.rank >= 2 and x.shape[0] != BATCH) or x.rank >= 3, weight=2)
def gather_nd(b: Builder, c: Choices, x: Value) -> None:
    front = [i for i in static_axes(x) if i]
    if not front:
        raise InapplicableError("no static axis")
    named = [c.pick(front)]
    if c.chance(40) and len(front) > 1:
        named.append(c.pick([axis for axis in front if axis not in named]))
    rest = [axis for axis in range(x.rank) if axis not in named]
    turned = b.op(
        "Transpose", [x], tuple(x.shape[i] for i in named + rest), dtype=x.dtype, grain=x.grain, perm=named + rest
    )
    sizes = [s for i in named if isinstance(s := x.shape[i], int)]
    places = c.between(1, 3)
    index = np.stack([c.rng.integers(0, size, places) for size in sizes], axis=1).astype(np.int64)
    shape = (places, *(x.shape[i] for i in rest))
    y = b.op("GatherND", [turned, b.const(index)], shape, dtype=x.dtype, grain=x.grain)
    perm = [rest.index(0) + 1, 0, *(i + 1 for i in range(len(rest)) if rest[i] != 0)]
    b.push(b.op("Transpose", [y], tuple(shape[i] for i in perm), dtype=x.dtype, grain=x.grain, perm=perm))


@step(lambda x: x.dtype == "f" and x.rank >= 3 and batch_first(x), weight=2)
def scatter_nd(b: Builder, c: Choices, x: Value) -> None:
    """Some rows, or pixels, of the value are written over by constants or by another value's."""
    axis = c.between(1, x.rank - 1)
    perm = [axis, *(i for i in range(x.rank) if i != axis)]
    size = x.shape[axis]
    assert isinstance(size, int)
    count = c.between(1, size)
    places = c.rng.permutation(size)[:count].astype(np.int64)[:, None]
    turned = b.op("Transpose", [x], tuple(x.shape[i] for i in perm), grain=x.grain, perm=perm)
    rows = b.op(
        "Gather", [turned, b.const(c.rng.integers(0, size, count))], (count, *turned.shape[1:]), grain=x.grain, axis=0
    )
    if c.chance(50):
        rows = b.op("Neg", [rows], rows.shape, grain=x.grain)
    y = b.op("ScatterND", [turned, b.const(places), rows], turned.shape, grain=x.grain)
    b.push(b.op("Transpose", [y], x.shape, grain=x.grain, perm=[perm.index(i) for i in range(x.rank)]))


@step(lambda x: is_image(x) and x.rank == 4 and batch_first(x), weight=1, since=16)
def grid_sample(b: Builder, c: Choices, x: Value) -> None:
    b.not_at_zero("GridSample is refused")
    if x.shape[0] != BATCH and x.shape[0] != 2:
        raise InapplicableError("another batch")
    out = (c.between(1, 3), c.between(1, 3))
    rows = b.raw("Slice", [b.raw("Shape", [x.name])[0], b.ints([0]), b.ints([1])])[0]
    target = b.raw("Concat", [rows, b.ints([*out, 2])], axis=0)[0]
    places = b.const(c.rng.uniform(-1.2, 1.2, (*out, 2)).astype(np.float32))
    grid = b.raw("Expand", [places, target])[0]
    mode = c.pick(["zeros", "border", "reflection"])
    b.push(b.op("GridSample", [x, grid], (*x.shape[:2], *out), padding_mode=mode))


@step(lambda x: x.dtype == "f" and x.rank == 3 and batch_first(x) and x.shape[1] != 1, weight=1, since=18)
def col2im(b: Builder, c: Choices, x: Value) -> None:
    b.not_at_zero("Col2Im is refused")
    n, channels, length = x.shape
    assert isinstance(channels, int) and isinstance(length, int)
    patch = c.pick([d for d in (2, 4, 3, 1) if channels % d == 0])
    block = [2, patch // 2] if patch % 2 == 0 else [patch, 1]
    image = [block[0], length + block[1] - 1]
    shape = (n, channels // patch, *image)
    b.push(b.op("Col2Im", [x, b.ints(image), b.ints(block)], shape, amp=x.amp * patch))


@step(lambda x: x.dtype == "f" and x.rank >= 2 and bool(static_axes(x)), weight=1)
def compress(b: Builder, c: Choices, x: Value) -> None:
    axis = c.pick(static_axes(x))
    size = x.shape[axis]
    assert isinstance(size, int)
    chosen = c.rng.random(size) < 0.6
    chosen[c.below(size)] = True
    shape = tuple(int(chosen.sum()) if i == axis else d for i, d in enumerate(x.shape))
    b.push(b.op("Compress", [x, b.const(chosen)], shape, grain=x.grain, axis=axis))


@step(lambda x: True, weight=2)
def tied_embedding(b: Builder, c: Choices, x: Value) -> None:
    """One table for the words that come in and for those that go out."""
    width = c.pick(SIZES)
    table = weight(b, c, [WORDS, width], out_axis=1, in_axis=0, fan_in=width)
    ids = b.input_once("ids", (BATCH if b.dynamic else 2, 3), "i")
    n = BATCH if b.dynamic else 2
    y = b.op("Gather", [table.name, ids], (n, 3, width), amp=2.0)
    if c.chance(60):
        inner = weight(b, c, [width, width], out_axis=1, in_axis=0, fan_in=width)
        y = b.op("Add", [y, b.op("Tanh", [b.op("MatMul", [y, inner], y.shape)], y.shape)], y.shape, amp=3.0)
    amp, _ = grown(y, width)
    if c.chance(50):
        turned = b.raw("Transpose", [table.name], perm=[1, 0])[0]
        b.push(b.op("MatMul", [y, turned], (n, 3, WORDS), amp=amp))
        return
    rows = b.raw("Reshape", [y.name, b.ints([-1, width])])[0]
    y = b.raw("Gemm", [rows, table.name], transB=1)[0]
    b.push(b.op("Reshape", [y, b.ints([-1, 3, WORDS])], (n, 3, WORDS), amp=amp))
