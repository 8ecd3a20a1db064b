"""Attention as exporters and onnxruntime write it, and chains of reshapes and transposes."""

from __future__ import annotations

import math

import numpy as np

from tests.strategies import masks
from tests.strategies.builder import BATCH, Builder, Dim, Value
from tests.strategies.recipe import Choices, InapplicableError
from tests.strategies.steps.guards import small
from tests.strategies.steps.registry import batch_first, step
from tests.strategies.weights import weight

MICROSOFT = "com.microsoft"


def _moved(b: Builder, op: str, x: Value | str, shape: tuple[Dim, ...], like: Value, operand: str = "", **attributes):
    """A node that only moves what a value holds."""
    inputs: list[Value | str] = [x, operand] if operand else [x]
    return b.op(op, inputs, shape, dtype=like.dtype, amp=like.amp, grain=like.grain, **attributes)


@step(lambda x: x.dtype == "f" and x.rank == 3 and batch_first(x), weight=3)
def shared_attention(b: Builder, c: Choices, x: Value) -> None:
    n, t, ch = x.shape
    assert isinstance(t, int) and isinstance(ch, int)
    shared, together, depth = c.pick([2, 1, 3]), c.pick([2, 1, 3]), c.pick([2, 1, 3])
    heads, width = shared * together, shared * together * depth
    x = small(b, x)

    def project(count: int) -> Value:
        w = weight(b, c, [ch, count * depth], out_axis=1, in_axis=0, fan_in=ch)
        return b.op("MatMul", [x, w], (n, t, count * depth), amp=x.amp)

    def split(y: Value, count: int) -> Value:
        y = _moved(b, "Reshape", y, (n, t, count, depth), y, b.ints([0, 0, count, depth]))
        return _moved(b, "Transpose", y, (n, count, t, depth), y, perm=[0, 2, 1, 3])

    q, k, v = (project(heads), project(shared), project(shared))
    way = c.pick(["primitive", "primitive", "operator", "contributed"])
    if way == "operator" and b.opset >= 23:
        b.not_at_zero("onnxruntime divides by an empty batch")
        if c.chance(50):
            y = b.op("Attention", [q, k, v], (n, t, width), amp=v.amp, q_num_heads=heads, kv_num_heads=shared)
        else:
            parts = [split(q, heads), split(k, shared), split(v, shared)]
            y = b.op("Attention", parts, (n, heads, t, depth), amp=v.amp, is_causal=c.pick([0, 1]))
            y = _joined(b, c, y, (n, t, width))
    elif way == "contributed" and together == 1:
        b.not_at_zero("onnxruntime divides by an empty batch")
        y = b.op("MultiHeadAttention", [q, k, v], (n, t, width), amp=v.amp, domain=MICROSOFT, num_heads=heads)
    else:
        parts = [split(q, heads), _repeated(b, c, split(k, shared), together), v]
        y = _primitive(b, c, parts[0], parts[1], _repeated(b, c, split(v, shared), together))
        if c.chance(50):
            y = masks.apply(b, c, y, 1)
        y = _joined(b, c, y, (n, t, width))
    w = weight(b, c, [width, ch], out_axis=1, in_axis=0, fan_in=width)
    y = b.op("MatMul", [y, w], (n, t, ch), amp=y.amp)
    b.push(b.op("Add", [x, y], x.shape, amp=x.amp + y.amp))


def _joined(b: Builder, c: Choices, y: Value, shape: tuple[Dim, ...]) -> Value:
    n, heads, t, depth = y.shape
    y = _moved(b, "Transpose", y, (n, t, heads, depth), y, perm=[0, 2, 1, 3])
    return _moved(b, "Reshape", y, shape, y, b.ints([0, 0, -1 if c.chance(40) and not b.zero else shape[2]]))  # type: ignore[list-item]


def _repeated(b: Builder, c: Choices, y: Value, together: int) -> Value:
    """Every head several times, one after the other."""
    n, shared, t, depth = y.shape
    assert isinstance(shared, int)
    if together == 1:
        return y
    shape = (n, shared * together, t, depth)
    if c.chance(30):
        index = b.ints(np.repeat(np.arange(shared), together).tolist())
        return _moved(b, "Gather", y, shape, y, index, axis=1)
    wide = (n, shared, together, t, depth)
    y = _moved(b, "Reshape", y, (n, shared, 1, t, depth), y, b.ints([0, shared, 1, t, depth]))  # type: ignore[list-item]
    op = "Tile" if c.chance(50) or b.opset < 8 else "Expand"
    y = _moved(b, op, y, wide, y, b.ints([1, 1, together, 1, 1]))
    return _moved(b, "Reshape", y, shape, y, b.ints([0, shared * together, t, depth]))  # type: ignore[list-item]


def _primitive(b: Builder, c: Choices, q: Value, k: Value, v: Value) -> Value:
    n, heads, t, depth = q.shape
    assert isinstance(heads, int) and isinstance(t, int) and isinstance(depth, int)
    factor = b.const(np.float32(0.5 / max(q.amp * k.amp, 1)))
    if c.chance(30):  # batch and heads as one axis
        many: Dim = n * heads if isinstance(n, int) else BATCH
        if many == BATCH and heads > 1:
            many = f"{heads}*{BATCH}"
        q, k, v = (_moved(b, "Reshape", y, (many, t, depth), y, b.ints([-1, t, depth])) for y in (q, k, v))
        k = _moved(b, "Transpose", k, (many, depth, t), k, perm=[0, 2, 1])
        scores = b.op("Mul", [b.op("MatMul", [q, k], (many, t, t)), factor], (many, t, t), amp=1.0)
        y = b.op("MatMul", [b.op("Softmax", [scores], scores.shape, amp=1.0, axis=-1), v], (many, t, depth), amp=v.amp)
        return _moved(b, "Reshape", y, (n, heads, t, depth), y, b.ints([-1, heads, t, depth]))
    if c.chance(40):  # keys turned as three axes, as torch does
        k = b.op("Reshape", [k, b.ints([-1, t, depth])], (BATCH, t, depth))
        k = b.op("Transpose", [k], (BATCH, depth, t), perm=[0, 2, 1])
        k = b.op("Reshape", [k, b.ints([-1, heads, depth, t])], (n, heads, depth, t))
    else:
        k = _moved(b, "Transpose", k, (n, heads, depth, t), k, perm=[0, 1, 3, 2])
    scores = b.op("Mul", [b.op("MatMul", [q, k], (n, heads, t, t)), factor], (n, heads, t, t), amp=1.0)
    p = b.op("Softmax", [scores], scores.shape, amp=1.0, axis=-1)
    return b.op("MatMul", [p, v], (n, heads, t, depth), amp=v.amp)


@step(lambda x: 3 <= x.rank <= 4 and batch_first(x), weight=3)
def rearranged(b: Builder, c: Choices, x: Value) -> None:
    """A chain that cuts, turns and joins axes; what comes out may be the same again."""
    for _ in range(c.between(2, 4)):
        rest = [d for d in x.shape[1:] if isinstance(d, int)]
        if c.chance(50) and len(rest) > 1:
            order = [1 + i for i in range(len(rest))]
            turned = order[1:] + order[:1] if c.chance(50) else [*order[:-2], order[-1], order[-2]]
            x = _moved(b, "Transpose", x, (x.shape[0], *(x.shape[i] for i in turned)), x, perm=[0, *turned])
            continue
        total = math.prod(rest)
        sizes: list[int] = []
        for _ in range(c.between(1, 3)):
            left = total // math.prod(sizes)
            sizes.append(c.pick([d for d in range(1, left + 1) if left % d == 0]))
        sizes.append(total // math.prod(sizes))
        if len(sizes) > 4:
            raise InapplicableError("many axes")
        x = _moved(b, "Reshape", x, (x.shape[0], *sizes), x, b.ints([0, *sizes]))
    b.push(x)
