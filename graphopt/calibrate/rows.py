"""``argmin over S`` of ``sum over k of (w_k - S q_k)^2`` for each row of a matrix: exact at the end, dense before.

The sum is a chain of parabolas in S, one for each set of integers q that rounding can give, and for few numbers it is
jagged. So it is sampled: densely where the row is short and the integers are large (the sum changes its shape when
numbers move by a part of a step: ``d(w/S) = q dlnS``), between the least scale that can pay (the clipped largest number
alone must not cost more than the best so far) and what a lucky wider one could save. From the best valleys
``S <- sum(w q) / sum(q^2)`` and rounding anew alternate (Lloyd): each step lowers the sum, and where q stays the same,
S is the bottom of the parabola.
"""

from __future__ import annotations

import numpy as np

from graphopt.calibrate.grid import Grid
from graphopt.calibrate.minmax import of_range
from graphopt.calibrate.parameters import Constraint, covering, usable
from graphopt.calibrate.rounding import restored, squared_error, to_grid

_BLOCK = 1 << 15
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
) -> tuple[np.ndarray, np.ndarray]:
    """Return float32 scales and int64 zero points, both ``[rows]``, for ``[rows, K]`` numbers.

    ``weights`` ``[K]``: how often each column counts. ``zeros`` ``[rows]``: the zero point of each row, where it is
    given. Never worse than min-max.
    """
    rows, width = x.shape
    low, high = x.min(1, initial=0.0).astype(np.float64), x.max(1, initial=0.0).astype(np.float64)
    start = of_range(low, high, grid, constraint)
    if not width or not rows:
        return start
    exponent = np.frexp(np.maximum(-low, high))[1]
    small = np.ldexp(x, -exponent[:, None]).astype(
        np.float32
    )  # largest number between 1/2 and 1: nothing under- or overflows
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
    errors[1:] *= 1 + 1e-9  # a gain that is all rounding is no reason to leave min-max
    at = np.argmin(errors, axis=0)
    pick = np.arange(rows)
    return np.stack([s for s, _ in found])[at, pick], np.stack([o for _, o in found])[at, pick]


def _exact(
    x: np.ndarray,
    scale: np.ndarray,
    zero: np.ndarray,
    grid: Grid,
    constraint: Constraint,
    weights: np.ndarray | None,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the bottom of the parabola in float64: what was a multiple of some S is one again."""
    q = (restored(x, scale[:, None], zero[:, None], grid) / scale[:, None]).astype(np.float64)
    q = to_grid(q, grid) if grid.floating else np.rint(q)
    counted = q if weights is None else q * weights
    square, product = np.vecdot(q, counted), np.vecdot(x.astype(np.float64), counted)
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
    power = np.sqrt((x * x if share is None else x * x * share).mean(1, dtype=np.float64))
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
    rows, width = x.shape
    found = np.empty(scales.shape)
    across = max(1, min(scales.shape[1], _BLOCK // width))
    down = max(1, _BLOCK // (width * across))
    zero = zero.astype(np.float32)
    for top in range(0, rows, down):
        part = slice(top, top + down)
        shift = None if not zero[part].any() else zero[part, None, None]
        for left in range(0, scales.shape[1], across):
            s = scales[part, left : left + across]
            t = x[part, None, :] * (1 / s).astype(np.float32)[:, :, None]
            if shift is not None:
                t += shift
            t -= to_grid(t, grid)
            if share is not None:
                t *= t
                sums = t @ share
            else:
                sums = np.vecdot(t, t)
            found[part, left : left + across] = sums * s * s
    return found / width


def _lloyd(
    x: np.ndarray, scales: np.ndarray, zero: np.ndarray, grid: Grid, limit: np.ndarray, share: np.ndarray | None
) -> np.ndarray:
    """Return ``[rows]``: the best of ``[rows, C]`` scales once each has been refined."""
    rows, width = x.shape
    found = np.empty(rows)
    down = max(1, _BLOCK // (width * scales.shape[1]))
    for top in range(0, rows, down):
        part = slice(top, top + down)
        s, o = scales[part], zero[part, None, None].astype(np.float32)
        numbers = x[part, None, :]
        for _ in range(_ROUNDS):
            t = numbers * (1 / s).astype(np.float32)[:, :, None]
            q = to_grid(t + o, grid) - o
            counted = q if share is None else q * share
            square, product = (
                np.vecdot(q, counted).astype(np.float64),
                np.vecdot(np.broadcast_to(numbers, q.shape), counted),
            )
            better = np.where((square > 0) & (product > 0), product / np.where(square > 0, square, 1), s)
            s = np.minimum(better, limit[part, None])
        t = numbers * (1 / s).astype(np.float32)[:, :, None]
        t += o
        t -= to_grid(t, grid)
        costs = (np.vecdot(t, t) if share is None else (t * t) @ share) * s * s
        found[part] = np.take_along_axis(s, np.argmin(costs, axis=1)[:, None], 1)[:, 0]
    return found
