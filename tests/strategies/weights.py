"""Weights: plain, with dead or constant slices, masked in the graph, shared, behind a Transpose."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from tests.strategies import masks
from tests.strategies.builder import Builder, Value, exact_grain
from tests.strategies.recipe import Choices

EXACT = np.array([-1.0, -0.5, 0.5, 1.0, 2.0], np.float32)


def _numbers(c: Choices, shape: Sequence[int], fan_in: int, exact: bool) -> np.ndarray:
    if exact:
        return c.rng.choice(EXACT, shape).astype(np.float32)
    return (c.rng.standard_normal(shape) / math.sqrt(max(fan_in, 1))).astype(np.float32)


def _slices(c: Choices, array: np.ndarray, axis: int) -> None:
    """Kills or flattens some positions of an axis in place."""
    kind = c.pick(["zero", "zero", "constant"])
    moved = np.moveaxis(array, axis, 0)
    moved[~masks.pattern(c, moved.shape[0])] = 0.0 if kind == "zero" else 0.25


def weight(
    b: Builder, c: Choices, shape: Sequence[int], *, out_axis: int, in_axis: int, fan_in: int, exact: bool = False
) -> Value:
    """A weight of that shape as a value of the graph, dead in some rows or columns in one of many ways."""
    key = ("weight", tuple(shape), exact)
    if b.shared.get(key) and c.chance(25):
        return Value(c.pick(b.shared[key]), tuple(shape), amp=2.0, grain=1 if exact else None)
    array = _numbers(c, shape, fan_in, exact)
    way = c.pick(["plain", "rows", "mask rows", "mask columns", "columns", "mask rows", "both", "mask twice", "where"])
    if way in ("rows", "both"):
        _slices(c, array, out_axis)
    if way in ("columns", "both"):
        _slices(c, array, in_axis)
    value = Value(
        b.const(array, prefix="w", node=None if c.chance(85) else True),
        tuple(shape),
        amp=2.0,
        grain=1 if exact else None,
    )
    if way in ("mask rows", "mask twice", "where"):
        value = masks.apply(b, c, value, out_axis)
    if way in ("mask columns", "mask twice"):
        value = masks.apply(b, c, value, in_axis)
    if not value.exact:
        exact = False
    b.shared.setdefault(key, []).append(value.name)
    return value


def transposed(b: Builder, c: Choices, value: Value) -> str:
    """The matrix through a Transpose node, as `x @ w.T` is exported."""
    perm = list(range(value.rank))
    perm[-1], perm[-2] = perm[-2], perm[-1]
    return b.raw("Transpose", [value.name], perm=perm)[0]


def bias(b: Builder, c: Choices, shape: Sequence[int], *, axis: int = 0, exact: bool = False) -> str:
    """A bias; sometimes zero in places, sometimes masked."""
    array = _numbers(c, shape, 4, exact)
    way = c.pick(["alive", "alive", "slices", "mask", "zero"])
    if way == "slices":
        _slices(c, array, axis)
    elif way == "zero":
        array[:] = 0
    value = Value(b.const(array, prefix="b"), tuple(shape), amp=2.0, grain=1 if exact else None)
    if way == "mask":
        value = masks.apply(b, c, value, axis)
    return value.name


def grown(x: Value, fan_in: int) -> tuple[float, int | None]:
    """Size and grain of a product of `x` with weights of `weight`, plus a bias."""
    if x.grain is None:
        return x.amp + 0.5, None
    amp = x.amp * 2 * 2.0 * fan_in + 4  # exact weights are at most 2, masks may scale them
    grain = exact_grain(amp, x.grain + 6)
    return (amp, grain) if grain is not None else (x.amp * 1.5 * math.sqrt(fan_in) + 0.5, None)
