"""Scale and zero point: ``argmin over (S, O) of E[(r - S (q(r) - O))^2]``, and other ways to choose them."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np

from graphopt.calibrate import discrete, entropy, percentile
from graphopt.calibrate.clipping import clipping
from graphopt.calibrate.density import Density, density
from graphopt.calibrate.grid import Grid
from graphopt.calibrate.histogram import Histogram, histogram
from graphopt.calibrate.minmax import of_range
from graphopt.calibrate.parameters import FREE, Constraint, Parameters, covering, usable
from graphopt.calibrate.rounding import squared_error
from graphopt.calibrate.rows import best_rows
from graphopt.calibrate.search import FINE, best

__all__ = ["FREE", "METHODS", "Constraint", "Method", "Parameters", "solve", "solve_rows"]

Method = Literal["mse", "minmax", "percentile", "entropy"]
METHODS: tuple[Method, ...] = get_args(Method)

_LIKE = 1e-4
_LIKE_COARSE = 0.1  # where levels lie closer than bins

_CHUNK = 1 << 22  # numbers of a weight that are solved at a time: memory is a multiple of so many


def solve(
    histogram: Histogram,
    grid: Grid,
    constraint: Constraint = FREE,
    *,
    method: Method = "mse",
    percent: float = percentile.USUAL,
) -> Parameters:
    """Return the parameters of one tensor for what its histogram holds, with the squared error they make of it.

    Args:
        histogram: What the tensor held; NaN and infinities in it are ignored. An empty or all-zero one gets scale 1.
        grid: The type.
        constraint: What the solution must respect.
        method: ``mse`` (least squared error; never above that of ``minmax``), ``minmax`` (nothing is clipped),
            ``percentile`` or ``entropy`` (least relative entropy).
        percent: For ``percentile``: this part of the numbers is not clipped.

    Raises:
        ValueError: ``constraint.upper`` is negative.
    """
    h = histogram
    if h.distinct is not None and h.frequencies is not None:
        return _discrete(h.distinct, h.frequencies, h, grid, constraint, method, percent)
    d = density(h)
    low, high = np.array([h.minimum]), np.array([h.maximum])
    plain = of_range(low, high, grid, constraint)
    if method == "mse":
        scale, zero = best(d, grid, constraint, h.count)
        limit = constraint.largest(grid, np.array([zero]))
        scales = [plain[0][0], usable(np.ldexp([scale], d.exponent), limit)[0]]
        zeros = [plain[1][0], np.int64(zero)]
        if not grid.floating:
            # The range of min-max with the zero point that was found, and the other way round.
            whole = covering(np.minimum(low, 0.0), np.maximum(high, 0.0), np.array([zero]), grid)
            scales.append(usable(whole, limit)[0])
            zeros.append(np.int64(zero))
    else:
        (scale,), (zero,) = _other(h, grid, constraint, method, percent)
        scales, zeros = [scale], [zero]
    s, o = np.array(scales, np.float32), np.array(zeros, np.int64)
    errors = _errors(d, grid, s, o)
    at = int(np.argmin(errors))
    # A gain over min-max is no reason to clip while what bins do not tell, where in them numbers lie, may be as large.
    doubt = (_LIKE_COARSE if _coarse(grid) else _LIKE) + 1 / (np.ldexp(float(s[0]), -d.exponent) * h.count**0.5)
    if method == "mse" and errors[0] <= errors[at] * (1 + doubt):
        at = 0
    square = lambda x: np.asarray(np.ldexp(x, 2 * d.exponent))  # noqa: E731
    return Parameters(np.asarray(s[at]), np.asarray(o[at]), square(errors[at]), square(d.square), method)


def error_of(histogram: Histogram, grid: Grid, scale: np.ndarray, zero: np.ndarray) -> np.ndarray:
    """Return ``[n]`` float64: the expected squared error of a tensor with each of ``n`` scales and zero points."""
    if histogram.distinct is not None and histogram.frequencies is not None:
        numbers = np.repeat(histogram.distinct[None], len(scale), 0)
        return squared_error(numbers, scale, zero, grid, histogram.frequencies)
    d = density(histogram)
    return np.ldexp(_errors(d, grid, scale, zero), 2 * d.exponent)


def _coarse(grid: Grid) -> bool:
    """Tell whether bins are too coarse to see the levels of a type."""
    return grid.levels > FINE and not grid.floating


def _errors(d: Density, grid: Grid, scale: np.ndarray, zero: np.ndarray) -> np.ndarray:
    """Return ``[n]`` squared errors in the unit of the density, for scales in that of the tensor."""
    return (clipping(d) if _coarse(grid) else d).error(np.ldexp(scale.astype(np.float64), -d.exponent), zero, grid)


def solve_rows(
    weights: np.ndarray,
    grid: Grid,
    constraint: Constraint = FREE,
    *,
    method: Method = "mse",
    percent: float = percentile.USUAL,
) -> Parameters:
    """Return the parameters of each row of ``[rows, K]`` weights; all fields have shape ``[rows]``.

    Arguments are those of ``solve``. Per block: give the blocks as rows. Errors are those of the numbers themselves.
    """
    x = np.asarray(weights)
    x = x.reshape(len(x), -1) if x.ndim != 2 else x
    scale, zero = np.empty(len(x), np.float32), np.empty(len(x), np.int64)
    mse, power = np.empty(len(x)), np.empty(len(x))
    step = max(1, _CHUNK // max(x.shape[1], 1))
    for start in range(0, len(x), step):
        part = slice(start, start + step)
        # A copy in one piece, where channels lie along another axis: a row that is spread over all of the weight's
        # memory takes ten times as long to read, and it is read again and again.
        rows = np.ascontiguousarray(x[part], x.dtype if x.dtype in (np.float32, np.float64) else np.float32)
        scale[part], zero[part], mse[part] = _rows(rows, grid, constraint, method, percent)
        power[part] = np.einsum("rk,rk->r", rows, rows, dtype=np.float64) / max(x.shape[1], 1)
    return Parameters(scale, zero, mse, power, method)


def _rows(
    x: np.ndarray, grid: Grid, constraint: Constraint, method: Method, percent: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return scales, zero points and squared errors of ``[rows, K]`` numbers, ``[rows]`` each."""
    if method == "mse":
        return best_rows(x, grid, constraint)
    if method == "entropy":
        pairs = [_other(histogram(row), grid, constraint, method, percent) for row in x]
        scale = np.array([s[0] for s, _ in pairs], np.float32)
        zero = np.array([o[0] for _, o in pairs], np.int64)
    else:
        if method == "percentile":
            low, high = percentile.of_rows(x, percent, symmetric=_symmetric(grid, constraint))
        else:
            low, high = x.min(1, initial=0.0).astype(np.float64), x.max(1, initial=0.0).astype(np.float64)
        scale, zero = of_range(low, high, grid, constraint)
    return scale, zero, squared_error(x, scale, zero, grid)


def _discrete(
    numbers: np.ndarray,
    frequencies: np.ndarray,
    h: Histogram,
    grid: Grid,
    constraint: Constraint,
    method: Method,
    percent: float,
) -> Parameters:
    """Return the parameters of a tensor whose numbers are all known."""
    if not numbers.any():  # empty, or all zero
        scale, zero = of_range(np.zeros(1), np.zeros(1), grid, constraint)
        return Parameters(scale[0].reshape(()), zero[0].reshape(()), np.asarray(0.0), np.asarray(0.0), method)
    if method == "mse":
        scale, zero = discrete.best(numbers, frequencies, grid, constraint)
    else:
        (scale,), (zero,) = _other(h, grid, constraint, method, percent)
    mse = squared_error(numbers[None], np.reshape(scale, 1), np.reshape(zero, 1), grid, frequencies)[0]
    power = (numbers * numbers) @ frequencies / frequencies.sum()
    return Parameters(np.asarray(scale, np.float32), np.asarray(zero), np.asarray(mse), np.asarray(power), method)


def _other(
    h: Histogram, grid: Grid, constraint: Constraint, method: Method, percent: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return ``[1]`` scales and zero points by one of the methods that do not look at the squared error."""
    if method == "entropy" and h.count and (h.minimum or h.maximum):
        scale, zero = entropy.of_histogram(h, grid, constraint)
        return np.reshape(scale, 1), np.reshape(zero, 1)
    low, high = h.minimum, h.maximum
    if method == "percentile" and h.count:
        low, high = percentile.of_histogram(h, percent, symmetric=_symmetric(grid, constraint))
    return of_range(np.array([low]), np.array([high]), grid, constraint)


def _symmetric(grid: Grid, constraint: Constraint) -> bool:
    """Whether a range has one free end only, the same on both sides."""
    return grid.floating or (constraint.zero_point is not None and grid.low < constraint.zero_point < grid.high)
