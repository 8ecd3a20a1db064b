"""Tensors with few different numbers: image bytes, masks, one-hot, constants. Exact wherever some (S, O) is.

If every number is a multiple of S, so is the smallest gap g between two of them (zero included): ``S = g / m`` with an
integer m, at most ``levels`` of them. All are tried. Of those that give every number back as it was, the finest scale
is taken: numbers that calibration did not see then lose least.
"""

from __future__ import annotations

import numpy as np

from graphopt.calibrate.grid import Grid
from graphopt.calibrate.minmax import of_range
from graphopt.calibrate.parameters import Constraint, covering, usable
from graphopt.calibrate.rounding import restored, squared_error
from graphopt.calibrate.rows import best_rows

_WORK = 1 << 22


def best(
    numbers: np.ndarray, frequencies: np.ndarray, grid: Grid, constraint: Constraint
) -> tuple[np.ndarray, np.ndarray]:
    """Return float32 scale and int64 zero point for ``[n]`` different numbers, ascending, that came so often."""
    exact = None if grid.floating else _lattice(numbers, grid, constraint)
    if exact is not None:
        return exact
    low, high = float(numbers[0]), float(numbers[-1])
    zeros = _promising(numbers, frequencies, constraint.zeros(grid, low, high), grid)
    each = np.broadcast_to(numbers, (zeros.size, numbers.size))
    scale, zero, errors = best_rows(each, grid, constraint, frequencies, None if zeros.size == 1 else zeros)
    at = int(np.argmin(errors))
    return scale[at], zero[at]


def _lattice(numbers: np.ndarray, grid: Grid, constraint: Constraint) -> tuple[np.ndarray, np.ndarray] | None:
    """Return the finest exact solution, or None."""
    every = np.unique(np.append(numbers, 0.0))
    span = every[-1] - every[0]
    gap = float(np.diff(every).min(initial=np.inf))
    if not np.isfinite(gap) or span / gap > grid.levels - 0.5:
        return None
    parts = np.arange(int((grid.levels - 0.5) * gap / span), 0, -1)
    # The gap is a difference of two rounded numbers: what counts is that k is near an integer in every number.
    ends = every[[0, -1]] if every.size < 3 else every[[0, 1, every.size // 2, -2, -1]]
    parts = parts[_whole(ends, gap, parts)]
    best: tuple[tuple[float, float], np.ndarray, np.ndarray] | None = None
    for start in range(0, parts.size, max(1, _WORK // every.size)):
        some = parts[start : start + max(1, _WORK // every.size)]
        for part in some[_whole(every, gap, some)]:
            steps = np.rint(every * (part / gap))
            ideal = float(every @ steps / (steps @ steps))
            zero = _middle(steps, ideal, grid, constraint, numbers)
            if zero is None:
                continue
            limit = constraint.largest(grid, zero)
            middle = np.float32(usable(np.array(ideal), limit))
            for scale in (middle, np.nextafter(middle, np.float32(0)), np.nextafter(middle, np.float32(np.inf))):
                if not 0 < scale <= limit:
                    continue
                back = restored(numbers, np.asarray(scale), zero, grid).astype(np.float64)
                close = np.abs(back - numbers) <= 2 * np.spacing(np.abs(numbers).astype(np.float32))
                if close.all():
                    rank = (float(np.abs(back - numbers).max()), -float(part))
                    if best is None or rank < best[0]:
                        best = rank, np.asarray(scale), zero
            if best is not None and best[0][0] == 0:
                return best[1], best[2]
    return None if best is None else (best[1], best[2])


def _whole(numbers: np.ndarray, gap: float, parts: np.ndarray) -> np.ndarray:
    """Return for each m whether every number is a multiple of ``gap / m``, as far as float32 tells."""
    steps = numbers[None] * (parts / gap)[:, None]
    slack = 1e-6 + 2.0**-22 * np.abs(numbers).max() / gap * np.abs(steps)
    return (np.abs(steps - np.rint(steps)) <= np.minimum(slack, 0.05)).all(1)


def _middle(
    steps: np.ndarray, scale: float, grid: Grid, constraint: Constraint, numbers: np.ndarray
) -> np.ndarray | None:
    """Return the zero point nearest to min-max's with which all steps lie on the grid, or None."""
    least, most = grid.low - steps.min(), grid.high - steps.max()
    if constraint.upper is not None:
        least = max(least, np.ceil(grid.high - constraint.upper / scale * (1 + 1e-6)))
    if constraint.zero_point is not None:
        inside = least <= constraint.zero_point <= most
        return np.int64(constraint.zero_point) if inside else None  # type: ignore[return-value]
    if least > most:
        return None
    wanted = of_range(numbers[:1], numbers[-1:], grid, constraint)[1][0]
    return np.int64(np.clip(wanted, least, most))  # type: ignore[return-value]


def _promising(numbers: np.ndarray, frequencies: np.ndarray, zeros: np.ndarray, grid: Grid) -> np.ndarray:
    """Return the zero points worth a search: all where numbers are few, else the best at some scales."""
    most = max(8, 2048 // numbers.size)
    if zeros.size <= most:
        return zeros
    low, high = np.full(zeros.shape, min(numbers[0], 0.0)), np.full(zeros.shape, max(numbers[-1], 0.0))
    if zeros.size > 1024:  # 16 bits: all that pays is near min-max's
        near = of_range(numbers[:1], numbers[-1:], grid, Constraint())[1][0]
        zeros = zeros[np.abs(zeros - near) < 256]
        low, high = low[: zeros.size], high[: zeros.size]
    whole = covering(low, high, zeros, grid)
    costs = np.full(zeros.shape, np.inf)
    for ratio in (1.02, 1.0, 0.99, 0.97, 0.94, 0.9, 0.85, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1):
        every = np.broadcast_to(numbers, (zeros.size, numbers.size))
        costs = np.minimum(costs, squared_error(every, np.maximum(whole * ratio, 1e-37), zeros, grid, frequencies))
    return zeros[np.argsort(costs, kind="stable")[:most]]
