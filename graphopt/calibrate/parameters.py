"""What a solution is, and what it must respect."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from graphopt.calibrate.grid import Grid

TINY = float(np.finfo(np.float32).tiny)
"""The smallest scale: runtimes may flush what is smaller (denormal) to zero."""
HUGE = float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class Constraint:
    """What a solution must respect besides representing zero exactly.

    Attributes:
        zero_point: The zero point is this (0 for symmetric types; the lowest q behind a ReLU); None: free.
        upper: ``S (high - O)`` must not be above this (behind ``Clip(lo, upper)``, so that the Clip is redundant).
    """

    zero_point: int | None = None
    upper: float | None = None

    def zeros(self, grid: Grid, low: float, high: float) -> np.ndarray:
        """Return int64 ``[Z]``: the zero points worth trying for numbers between ``low`` and ``high``.

        Numbers of one sign want all of the grid on their side: with the same scale any other zero point clips more.
        """
        if grid.floating:
            return np.zeros(1, np.int64)
        if self.zero_point is not None:
            return np.array([self.zero_point], np.int64)
        if low >= 0 or high <= 0:
            return np.array([grid.low if low >= 0 else grid.high], np.int64)
        return np.arange(int(grid.low), int(grid.high) + 1, dtype=np.int64)

    def largest(self, grid: Grid, zero: np.ndarray) -> np.ndarray:
        """Return float64: the largest scale that is allowed with each zero point, itself a float32; no level overflows.

        Raises:
            ValueError: ``upper`` is negative, so that zero could not be represented.
        """
        zero = np.asarray(zero, np.float64)
        above = grid.high - zero
        finite = HUGE * (1 - 2.0**-22) / np.maximum(above, zero - grid.low)
        if self.upper is None:
            return finite.astype(np.float32).astype(np.float64)
        if self.upper < 0:
            raise ValueError(f"an upper limit of {self.upper} leaves out zero")
        limit = np.float32(self.upper)
        if float(limit) > self.upper:
            limit = np.nextafter(limit, np.float32(-np.inf))
        with np.errstate(divide="ignore", over="ignore"):
            scale = np.minimum(np.where(above > 0, limit / above, HUGE), finite).astype(np.float32)
        # As the runtime computes it: a float32 product, rounded to nearest.
        while (over := (above > 0) & (scale * above.astype(np.float32) > limit)).any():
            scale = np.where(over, np.nextafter(scale, np.float32(0)), scale)
        return scale.astype(np.float64)


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


def usable(scale: np.ndarray, largest: np.ndarray) -> np.ndarray:
    """Return float32 scales: rounded, neither denormal nor above the largest that is allowed."""
    return np.minimum(np.maximum(scale, TINY), largest).astype(np.float32)


def covering(low: np.ndarray, high: np.ndarray, zero: np.ndarray, grid: Grid) -> np.ndarray:
    """Return the least S with which nothing between ``low <= 0`` and ``high >= 0`` is clipped, for each zero point.

    ``S = max(high / (qmax - O), low / (qmin - O))``. A side on which the zero point leaves no level does not count: all
    of it becomes zero whatever the scale. 1 where there is nothing to cover.
    """
    above, below = grid.high - zero, zero - grid.low
    with np.errstate(divide="ignore", invalid="ignore"):
        scale = np.maximum(np.where(above > 0, high / above, 0.0), np.where(below > 0, -low / below, 0.0))
    return np.where(scale > 0, scale, 1.0)
