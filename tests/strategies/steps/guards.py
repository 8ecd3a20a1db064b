"""Keeps values where operators are well behaved: small, away from poles, smooth."""

from __future__ import annotations

import numpy as np

from tests.strategies.builder import Builder, Value
from tests.strategies.recipe import Choices


def scaled(b: Builder, x: Value, factor: float, *, exact: bool = False) -> Value:
    """`x * factor`; `exact` promises a power of two."""
    grain = x.grain + max(0, int(-np.log2(factor))) if exact and x.grain is not None else None
    return b.op("Mul", [x, b.const(np.float32(factor))], x.shape, amp=x.amp * factor, grain=grain)


def small(b: Builder, x: Value, limit: float = 3.0) -> Value:
    """`x` within [-limit, limit]."""
    if x.amp <= 1:
        return x
    clip = [b.const(np.float32(-limit), prefix="lo"), b.const(np.float32(limit), prefix="hi")]
    return b.op("Clip", [x, *clip], x.shape, amp=min(x.amp, limit), grain=x.grain)


def positive(b: Builder, x: Value, above: float = 0.5) -> Value:
    """`|x| + above`."""
    y = b.op("Abs", [x], x.shape)
    return b.op("Add", [y, b.const(np.float32(above))], x.shape, amp=x.amp + above)


def within(b: Builder, x: Value, bound: float = 0.9) -> Value:
    """`x` squeezed into (-bound, bound)."""
    y = b.op("Tanh", [x], x.shape, amp=1.0)
    return b.op("Mul", [y, b.const(np.float32(bound))], x.shape, amp=bound)


def calm(b: Builder, c: Choices, x: Value) -> Value:
    """Brings a value that has grown back to about 1."""
    if x.dtype != "f" or x.amp <= (64.0 if x.exact else 6.0):
        return x
    way = c.pick(["scale", "tanh", "clip"])
    if x.exact:
        return scaled(b, x, 2.0 ** -int(np.log2(x.amp)), exact=True)
    if way == "tanh":
        return b.op("Tanh", [scaled(b, x, 2.0 / x.amp)], x.shape, amp=1.0)
    if way == "clip":
        return small(b, x)
    return scaled(b, x, 1.0 / x.amp)
