"""Rotary embeddings, grouped queries with and without a cache, attention that multiplies by weights of its own."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.strategies.builder import Builder, Value
from tests.strategies.recipe import Choices
from tests.strategies.steps.guards import small
from tests.strategies.steps.registry import batch_first, step
from tests.strategies.weights import bias, weight

MICROSOFT = "com.microsoft"


def _tokens(x: Value) -> bool:
    """(N, T, E) with static T and E."""
    return x.dtype == "f" and x.rank == 3 and batch_first(x)


def _projected(b: Builder, c: Choices, x: Value, width: int) -> Value:
    n, t, ch = x.shape
    assert isinstance(ch, int)
    w = weight(b, c, [ch, width], out_axis=1, in_axis=0, fan_in=ch)
    return b.op("MatMul", [x, w], (n, t, width), amp=x.amp)


def _split(b: Builder, y: Value, count: int) -> Value:
    n, t, width = y.shape
    assert isinstance(width, int)
    y = b.op("Reshape", [y, b.ints([0, 0, count, width // count])], (n, t, count, width // count))
    return b.op("Transpose", [y], (n, count, t, width // count), perm=[0, 2, 1, 3])


def _finished(b: Builder, c: Choices, x: Value, y: Value) -> None:
    """Heads joined if they have an axis of their own, and a product back to the stream."""
    if y.rank == 4:
        n, heads, t, depth = y.shape
        assert isinstance(heads, int) and isinstance(depth, int)
        y = b.op("Transpose", [y], (n, t, heads, depth), perm=[0, 2, 1, 3])
        y = b.op("Reshape", [y, b.ints([0, 0, heads * depth])], (n, t, heads * depth))
    width, ch = y.shape[2], x.shape[2]
    assert isinstance(width, int) and isinstance(ch, int)
    w = weight(b, c, [width, ch], out_axis=1, in_axis=0, fan_in=width)
    b.push(b.op("Add", [x, b.op("MatMul", [y, w], x.shape, amp=y.amp)], x.shape, amp=x.amp + y.amp))


def _numbers(b: Builder, x: Value, kind: int, axes: list[int]) -> str:
    """Zeros that are as many as samples, or as tokens."""
    (zeros,) = b.raw("Mul", [x.name, b.const(np.float32(0))])
    (summed,) = b.raw("ReduceSum", [zeros, b.ints(axes)], keepdims=0)
    return b.raw("Cast", [summed], to=kind)[0]


def _turned(b: Builder, c: Choices, y: Value, heads: int, tokens: Value) -> Value:
    """A rotary embedding of either domain."""
    t, own = tokens.shape[1], c.chance(50)
    size = y.shape[-1] if y.rank == 4 else y.shape[2] // heads  # type: ignore[operator]
    assert isinstance(t, int) and isinstance(size, int)
    angles = c.rng.standard_normal((t, size // 2))
    caches = [b.const(np.cos(angles)), b.const(np.sin(angles))]
    (places,) = b.raw("Add", [_numbers(b, tokens, 7, [2]), b.ints(list(range(t)))])
    attributes: dict[str, Any] = {"interleaved": c.pick([0, 1])}
    if y.rank == 3 and (not own or c.chance(50)):
        attributes["num_heads"] = heads
    inputs = [y, places, *caches] if own else [y, *caches, places]
    return b.op("RotaryEmbedding", inputs, y.shape, amp=2 * y.amp, domain=MICROSOFT if own else "", **attributes)


@step(_tokens, weight=2, since=23)
def rotary(b: Builder, c: Choices, x: Value) -> None:
    heads, size = c.pick([2, 3, 1]), c.pick([2, 4])
    y = _projected(b, c, x, heads * size)
    if c.chance(50):
        y = _split(b, y, heads)
    _finished(b, c, x, _turned(b, c, y, heads, x))


@step(_tokens, weight=2, since=23)
def served_attention(b: Builder, c: Choices, x: Value) -> None:
    """The standard operator, keys and values from and to a cache, each of their heads serving several."""
    b.not_at_zero("onnxruntime divides by an empty batch")
    n, t, _ = x.shape
    assert isinstance(t, int)
    shared, together, size = c.pick([2, 1, 3]), c.pick([2, 1, 3]), c.pick([2, 4])
    heads = shared * together
    x = small(b, x)
    parts = [_projected(b, c, x, count * size) for count in (heads, shared, shared)]
    four, cache = c.chance(50), c.pick(["past", "present", ""])
    attributes: dict[str, Any] = {"is_causal": c.pick([0, 1])}
    if four:
        parts = [_split(b, part, count) for part, count in zip(parts, (heads, shared, shared), strict=True)]
    else:
        attributes |= {"q_num_heads": heads, "kv_num_heads": shared}
    if c.chance(50):
        parts = [_turned(b, c, parts[0], heads, x), _turned(b, c, parts[1], shared, x), parts[2]]
    operands: list[Value | str] = list(parts)
    before = 3 if cache == "past" else 0
    if cache == "past":
        past = [b.input(b.fresh("past"), (n, shared, before, size)) for _ in range(2)]
        operands += ["", *past]
    amp = parts[2].amp + 3
    names = [each.name if isinstance(each, Value) else each for each in operands]
    results = b.raw("Attention", names, outputs=3 if cache else 1, **attributes)
    y = Value(results[0], (n, heads, t, size) if four else (n, t, heads * size), "f", amp)
    for name in results[1:]:
        b.push(Value(name, (n, shared, t + before, size), "f", amp))
    _finished(b, c, x, y)


@step(_tokens, weight=2, since=13)
def grouped_queries(b: Builder, c: Choices, x: Value) -> None:
    """onnxruntime's own."""
    b.not_at_zero("onnxruntime divides by an empty batch")
    n, t, _ = x.shape
    assert isinstance(t, int)
    shared, together, size = c.pick([2, 1, 3]), c.pick([2, 1, 3]), 8
    heads = shared * together
    x = small(b, x)
    packed, cache = c.chance(40), c.chance(30)
    (lengths,) = b.raw("Add", [_numbers(b, x, 6, [1, 2]), b.const(np.int32(t - 1))])
    if packed:
        names = [_projected(b, c, x, (heads + 2 * shared) * size).name, "", ""]
    else:
        names = [_projected(b, c, x, count * size).name for count in (heads, shared, shared)]
    names += ["", "", lengths, b.const(np.int32(t))]
    if c.chance(30):
        added = c.rng.standard_normal((1, c.pick([heads, 1]), t, t))
        names += ["", "", "", b.const(added)]
    outputs = b.raw(
        "GroupQueryAttention", names, outputs=3 if cache else 1, domain=MICROSOFT, num_heads=heads, kv_num_heads=shared
    )
    for name in outputs[1:]:
        b.push(Value(name, (n, shared, t, size), "f", x.amp))
    _finished(b, c, x, Value(outputs[0], (n, t, heads * size), "f", x.amp))


@step(_tokens, weight=2)
def projecting_attention(b: Builder, c: Choices, x: Value) -> None:
    """One operator for the projections and the attention."""
    b.not_at_zero("an operator of this name divides by an empty batch")
    n, t, ch = x.shape
    assert isinstance(ch, int) and isinstance(t, int)
    heads, size, own = c.pick([2, 3, 1]), c.pick([2, 3]), c.pick([2, 3, 1])
    x = small(b, x)
    widths = [heads * size, heads * size, heads * own]
    w = weight(b, c, [ch, sum(widths)], out_axis=1, in_axis=0, fan_in=ch)
    names = [x.name, w.name, bias(b, c, [sum(widths)])]
    if c.chance(40):
        names += ["", "", b.const(c.rng.standard_normal((1, c.pick([heads, 1]), t, t)))]
    attributes: dict[str, Any] = {"num_heads": heads, "unidirectional": c.pick([0, 1])}
    if own != size or c.chance(30):
        attributes["qkv_hidden_sizes"] = widths
    (name,) = b.raw("Attention", names, domain=MICROSOFT, **attributes)
    _finished(b, c, x, Value(name, (n, t, heads * own), "f", x.amp + 1))
