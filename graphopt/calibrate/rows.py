"""``argmin over S`` of ``sum over k of (w_k - S q_k)^2`` for each row of a matrix: exact at the end, dense before.

The sum is a chain of parabolas in S, one for each set of integers q that rounding can give, and for few numbers it is
jagged. So it is sampled: densely where the row is short and the integers are large (the sum changes its shape when
numbers move by a part of a step: ``d(w/S) = q dlnS``), between the least scale that can pay (the clipped largest number
alone must not cost more than the best so far) and what a lucky wider one could save. From the best valleys
``S <- sum(w q) / sum(q^2)`` and rounding anew alternate (Lloyd): each step lowers the sum, and where q stays the same,
S is the bottom of the parabola.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from graphopt.calibrate.grid import Grid
from graphopt.calibrate.minmax import of_range
from graphopt.calibrate.parameters import Constraint, covering, usable
from graphopt.calibrate.rounding import parts, restored, squared_error, to_grid

_BLOCK = 1 << 17  # numbers of float32 that stay in the cache, and next to which a call of numpy costs nothing
_PART = 1 << 18  # the same where each of them is read once or twice, in float64
_COARSE = np.array([4, 2, 1.4, 1.2, 1.1, 1.05, 1, 0.97, 0.92, 0.86, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.05, 0.02])
_COARSE_FLOAT = 2.0 ** np.arange(10, -7, -1.0)
_ROUNDS = 4
_SHORT = 8  # numbers in a row whose error may be nearly nothing at any scale


def best_rows(
    x: np.ndarray,
    grid: Grid,
    constraint: Constraint,
    weights: np.ndarray | None = None,
    zeros: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return float32 scales, int64 zero points and float64 squared errors, all ``[rows]``, for ``[rows, K]`` numbers.

    ``weights`` ``[K]``: how often each column counts. ``zeros`` ``[rows]``: the zero point of each row, where it is
    given. Never worse than min-max.
    """
    rows, width = x.shape
    low, high = x.min(1, initial=0.0).astype(np.float64), x.max(1, initial=0.0).astype(np.float64)
    start = of_range(low, high, grid, constraint)
    if not width or not rows:
        return *start, np.zeros(rows)
    exponent = np.frexp(np.maximum(-low, high))[1]
    # Largest number between 1/2 and 1: nothing under- or overflows.
    small = np.ldexp(x, -exponent[:, None]).astype(np.float32, order="C", copy=False)
    low, high = np.ldexp(low, -exponent), np.ldexp(high, -exponent)
    share = None if weights is None else (weights / weights.mean()).astype(np.float32)
    found = [start]
    if grid.floating or constraint.zero_point is not None:
        tried = [np.full(rows, 0 if grid.floating else constraint.zero_point, np.int64)]
    else:
        tried = [zeros] if zeros is not None else _zero_points(small, low, high, grid, share)
    for zero in tried:
        limit = constraint.largest(grid, zero)
        scale = _fixed(small, low, high, zero, grid, np.ldexp(limit, -exponent), share)
        found.append((usable(np.ldexp(scale, exponent), limit), zero))
    found.append(_exact(x, *found[1], grid, constraint, weights))
    errors = np.stack([squared_error(x, s, o, grid, weights) for s, o in found])
    # A gain that is all rounding is no reason to leave min-max.
    at = np.argmin(np.concatenate([errors[:1], errors[1:] * (1 + 1e-9)]), axis=0)
    pick = np.arange(rows)
    scale, zero = np.stack([s for s, _ in found])[at, pick], np.stack([o for _, o in found])[at, pick]
    return scale, zero, errors[at, pick]


def _exact(
    x: np.ndarray,
    scale: np.ndarray,
    zero: np.ndarray,
    grid: Grid,
    constraint: Constraint,
    weights: np.ndarray | None,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the bottom of the parabola in float64: what was a multiple of some S is one again."""
    square, product = np.zeros(len(x)), np.zeros(len(x))
    for rows, columns in parts(x, _PART):
        numbers, s = np.ascontiguousarray(x[rows, columns]), scale[rows, None]
        q = (restored(numbers, s, zero[rows, None], grid) / s).astype(np.float64)
        q = to_grid(q, grid) if grid.floating else np.rint(q, out=q)
        counted = q if weights is None else q * weights[columns]
        square[rows] += np.vecdot(q, counted)
        product[rows] += np.vecdot(numbers.astype(np.float64), counted)
    better = np.where((square > 0) & (product > 0), product / np.where(square > 0, square, 1), scale)
    return usable(better, constraint.largest(grid, zero)), zero


def _zero_points(
    x: np.ndarray, low: np.ndarray, high: np.ndarray, grid: Grid, share: np.ndarray | None
) -> list[np.ndarray]:
    """Return the zero points worth a search, best first: ``[rows]`` each."""
    whole = (high - low) / (grid.high - grid.low)
    middle = np.clip(np.rint(grid.low - low / np.where(whole > 0, whole, 1)), grid.low, grid.high).astype(np.int64)
    one_sided = bool(((low >= 0) | (high <= 0)).all())
    if one_sided:
        return [middle]
    reach = 2 if x.shape[1] > 128 else 3 if x.shape[1] > 16 or grid.levels < 32 else 8
    tried = np.clip(middle + np.arange(-reach, reach + 1)[:, None], grid.low, grid.high).astype(np.int64)
    tried = np.unique(tried, axis=0)
    ratios = np.array([1.03, 0.97, 0.9, 0.83, 0.75, 0.65] if grid.levels < 64 else [1.01, 0.995, 0.98, 0.96])
    costs = np.stack(
        [_sampled(x, covering(low, high, zero, grid)[:, None] * ratios, zero, grid, share).min(1) for zero in tried]
    )
    order = np.argsort(costs, axis=0)
    return list(np.take_along_axis(tried, order, 0)[:3])


def _fixed(
    x: np.ndarray,
    low: np.ndarray,
    high: np.ndarray,
    zero: np.ndarray,
    grid: Grid,
    limit: np.ndarray,
    share: np.ndarray | None,
) -> np.ndarray:
    """Return float64 ``[rows]``: the best scales with these zero points."""
    whole = covering(low, high, zero, grid)
    smallest, largest = _window(x, low, high, zero, whole, grid, share)
    power = np.zeros(len(x))
    for rows, columns in parts(x, _PART):
        squares = np.square(x[rows, columns])
        power[rows] += (squares if share is None else squares * share[columns]).sum(1, dtype=np.float64)
    power = np.sqrt(power / x.shape[1])
    steps = np.log(largest / smallest) * np.minimum(power / np.sqrt(smallest * largest), 1e4)
    fine, fewest, valleys = _effort(x.shape[1])
    number = int(np.clip(np.quantile(steps, 0.9) / fine, fewest, 4096))
    valleys = min(valleys, number // 4)
    ratio = np.linspace(0.0, 1.0, number)
    scales = np.minimum(smallest[:, None] * (largest / smallest)[:, None] ** ratio, limit[:, None])
    costs = _sampled(x, scales, zero, grid, share)
    valley = costs.copy()
    valley[:, 1:][costs[:, 1:] > costs[:, :-1]] = np.inf
    valley[:, :-1][costs[:, :-1] > costs[:, 1:]] = np.inf
    at = np.argpartition(valley, valleys, axis=1)[:, :valleys]
    return _lloyd(x, np.take_along_axis(scales, at, 1), zero, grid, limit, share)


def _effort(width: int) -> tuple[float, int, int]:
    """Return how far numbers may move between samples (in steps), the fewest samples, and the valleys to follow."""
    if width <= _SHORT:
        return 0.01 if width <= 4 else 0.03, 1024, 48
    if width <= 64:
        return 0.04, 128, 12
    return 0.06, 32, 4


def _window(
    x: np.ndarray,
    low: np.ndarray,
    high: np.ndarray,
    zero: np.ndarray,
    whole: np.ndarray,
    grid: Grid,
    share: np.ndarray | None,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the least and the largest scale, ``[rows]`` each, between which the best one lies."""
    ratios = _COARSE_FLOAT if grid.floating else _COARSE
    costs = _sampled(x, whole[:, None] * ratios, zero, grid, share)
    least = costs.min(1)
    # How far a row's error is scattered about the smooth error of infinitely many numbers: 0.9 / sqrt(K), four times.
    luck = min(3.6 / np.sqrt(x.shape[1]), 0.97)
    close = (costs * (1 - luck) <= 1.1 * least[:, None]) | (x.shape[1] <= _SHORT)
    first, last = np.argmax(close, axis=1), ratios.size - 1 - np.argmax(close[:, ::-1], axis=1)
    largest = whole * ratios[np.maximum(first - 1, 0)]
    smallest = whole * ratios[np.minimum(last + 1, ratios.size - 1)]
    # The largest number alone, clipped, may not cost more than the best of these.
    weight = share.min() if share is not None else 1.0
    allowed = np.sqrt(least * x.shape[1] / weight)
    for end, levels in ((high, grid.high - zero), (-low, zero - grid.low)):
        with np.errstate(divide="ignore", invalid="ignore"):
            smallest = np.maximum(smallest, np.where(levels > 0, (end - allowed) / levels, 0.0))
    return np.minimum(smallest, largest * 0.999), largest


def _sampled(x: np.ndarray, scales: np.ndarray, zero: np.ndarray, grid: Grid, share: np.ndarray | None) -> np.ndarray:
    """Return ``[rows, C]``: the mean squared error of ``[rows, K]`` with ``[rows, C]`` scales, in float32."""
    found = np.zeros(scales.shape)
    turned = (1 / scales).astype(np.float32)
    room = _Room(x.shape[1], scales.shape[1], grid)
    for part, some, columns in room.pieces(x, scales.shape[1]):
        t = room.steps(x[part, columns], turned[part, some], zero[part])
        found[part, some] += _left(t, room.rounded(t), share, columns)
    found *= scales
    found *= scales
    return found / x.shape[1]


def _lloyd(
    x: np.ndarray, scales: np.ndarray, zero: np.ndarray, grid: Grid, limit: np.ndarray, share: np.ndarray | None
) -> np.ndarray:
    """Return ``[rows]``: the best of ``[rows, C]`` scales once each has been refined."""
    room = _Room(x.shape[1], scales.shape[1], grid)
    for _ in range(_ROUNDS):
        turned = (1 / scales).astype(np.float32)
        square, product = np.zeros(scales.shape), np.zeros(scales.shape)
        for part, some, columns in room.pieces(x, scales.shape[1]):
            numbers = x[part, columns]
            t = room.steps(numbers, turned[part, some], zero[part])
            q = room.rounded(t)
            if (shift := _shift(zero[part])) is not None:
                q -= shift
            counted = q if share is None else np.multiply(q, share[columns], out=t)
            square[part, some] += np.vecdot(q, counted)
            product[part, some] += np.vecdot(np.broadcast_to(numbers[:, None], q.shape), counted)
        better = np.where((square > 0) & (product > 0), product / np.where(square > 0, square, 1), scales)
        scales = np.minimum(better, limit[:, None])
    best = np.argmin(_sampled(x, scales, zero, grid, share), axis=1)
    return np.take_along_axis(scales, best[:, None], 1)[:, 0]


class _Room:
    """Memory for pieces of rows x scales x numbers that stay in the cache, used again for each piece."""

    def __init__(self, width: int, scales: int, grid: Grid) -> None:
        self.grid = grid
        self.columns = min(width, _BLOCK)
        self.across = max(1, min(scales, _BLOCK // self.columns))
        self.down = max(1, _BLOCK // (self.columns * self.across))
        size = self.columns * self.across * self.down
        self._t, self._q = np.empty(size, np.float32), np.empty(size, np.float32)

    def pieces(self, x: np.ndarray, scales: int) -> Iterator[tuple[slice, slice, slice]]:
        """Yield slices of rows, scales and numbers; long rows are read once for all scales."""
        for top in range(0, x.shape[0], self.down):
            for start in range(0, x.shape[1], self.columns):
                for left in range(0, scales, self.across):
                    yield (
                        slice(top, top + self.down),
                        slice(left, left + self.across),
                        slice(start, start + self.columns),
                    )

    def steps(self, numbers: np.ndarray, turned: np.ndarray, zero: np.ndarray) -> np.ndarray:
        """Return ``[rows, C, K]``: ``x / S + O``."""
        shape = (*turned.shape, numbers.shape[1])
        t = self._t[: math.prod(shape)].reshape(shape)
        np.multiply(numbers[:, None, :], turned[:, :, None], out=t)
        if (shift := _shift(zero)) is not None:
            t += shift
        return t

    def rounded(self, t: np.ndarray) -> np.ndarray:
        """Return the numbers of the grid nearest to ``t``, of the same shape."""
        return to_grid(t, self.grid, out=self._q[: t.size].reshape(t.shape))


def _shift(zero: np.ndarray) -> np.ndarray | None:
    """Return zero points that can be added to ``[rows, C, K]``, None where all are 0."""
    return zero[:, None, None].astype(np.float32) if zero.any() else None


def _left(t: np.ndarray, q: np.ndarray, share: np.ndarray | None, columns: slice) -> np.ndarray:
    """Return ``[rows, C]``: the sum over K of ``(t - q)^2``; writes into ``t``."""
    t -= q
    if share is None:
        return np.vecdot(t, t)
    t *= t
    return t @ share[columns]
