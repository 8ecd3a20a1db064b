"""Scale and zero point: ``argmin over (S, O) of E[(r - S (q(r) - O))^2]``."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from graphopt.calibrate.grid import Grid
from graphopt.calibrate.histogram import Histogram

Method = Literal["mse", "minmax", "percentile", "entropy"]
METHODS: tuple[Method, ...] = ("mse", "minmax", "percentile", "entropy")


@dataclass(frozen=True)
class Constraint:
    """What a solution must respect besides representing zero exactly.

    Attributes:
        zero_point: The zero point is this (0 for symmetric types; the lowest q behind a ReLU); None: free.
        upper: ``S (high - O)`` must not be above this (behind ``Clip(lo, upper)``, so that the Clip is redundant).
    """

    zero_point: int | None = None
    upper: float | None = None


@dataclass(frozen=True)
class Parameters:
    """Scale and zero point of one tensor.

    Attributes:
        scale: float32; a number, or a vector along one axis, or an entry for each block.
        zero_point: int64, of the shape of the scale; zeros for float8.
        mse: Expected squared error, float64, of the shape of the scale.
        power: Expected square of the tensor, of the same shape: the SQNR is ``10 log10(power / mse)`` dB.
        method: How they were found.
    """

    scale: np.ndarray
    zero_point: np.ndarray
    mse: np.ndarray
    power: np.ndarray
    method: str

    @property
    def sqnr_db(self) -> float:
        """Return the ratio of signal to quantization noise over the whole tensor, in decibels."""
        noise, signal = float(np.mean(self.mse)), float(np.mean(self.power))
        return math.inf if noise == 0 else 10 * math.log10(signal / noise) if signal else -math.inf


FREE = Constraint()


def solve(histogram: Histogram, grid: Grid, constraint: Constraint = FREE, *, method: Method = "mse") -> Parameters:
    """Return the best parameters of one tensor for what its histogram holds.

    An empty or all-zero histogram gets scale 1. Source: the plan's ``quantization.md`` §1; see docs/decisions.
    """
    return _minmax(histogram, grid, constraint)


def solve_rows(weights: np.ndarray, grid: Grid, constraint: Constraint = FREE, *, method: Method = "mse") -> Parameters:
    """Return the best parameters of each row of ``[rows, K]`` weights; all fields have shape ``[rows]``."""
    each = [
        _minmax(_range_of(row), grid, constraint) for row in np.asarray(weights, np.float64).reshape(len(weights), -1)
    ]
    join = lambda pick: np.array([pick(one) for one in each])  # noqa: E731
    scale, zero = join(lambda p: p.scale).astype(np.float32), join(lambda p: p.zero_point)
    back = (np.clip(np.rint(weights / scale[:, None]) + zero[:, None], grid.low, grid.high) - zero[:, None]) * scale[
        :, None
    ]
    return Parameters(scale, zero, ((back - weights) ** 2).mean(1), (weights**2).mean(1), method)


def _range_of(row: np.ndarray) -> Histogram:
    return Histogram(minimum=float(row.min(initial=0)), maximum=float(row.max(initial=0)))


def _minmax(histogram: Histogram, grid: Grid, constraint: Constraint) -> Parameters:
    low, high = min(histogram.minimum, 0.0), max(histogram.maximum, 0.0)
    if constraint.upper is not None:
        high = min(high, constraint.upper)
    if not (math.isfinite(low) and math.isfinite(high)) or low == high:
        scale, zero = 1.0, constraint.zero_point or 0
    elif constraint.zero_point is not None:
        zero = constraint.zero_point
        above, below = grid.high - zero, zero - grid.low
        scale = max(high / above if above else 0.0, -low / below if below else 0.0)
    else:
        scale = (high - low) / (grid.high - grid.low)
        zero = int(np.clip(round(grid.low - low / scale), grid.low, grid.high))
    return Parameters(np.float32(scale), np.int64(zero), np.float64(0), np.float64(0), "minmax")  # type: ignore[arg-type]
