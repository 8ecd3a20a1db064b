"""The scale and zero point of a range: ``S = (high - low) / (qmax - qmin)``, ``O = round(qmin - low / S)``."""

from __future__ import annotations

import numpy as np

from graphopt.calibrate.grid import Grid
from graphopt.calibrate.parameters import Constraint, covering, usable


def of_range(low: np.ndarray, high: np.ndarray, grid: Grid, constraint: Constraint) -> tuple[np.ndarray, np.ndarray]:
    """Return float32 scales and int64 zero points with which the ranges ``low .. high`` fill the grid.

    Both ends are moved to zero first where they do not include it. An empty range gets scale 1 (or the largest that is
    allowed), and the zero point that is nearest to 0. Of the shape of ``low``.
    """
    low, high = np.minimum(low, 0.0), np.maximum(high, 0.0)
    empty = ~(low < high)
    if grid.floating or constraint.zero_point is not None:
        zero = np.full(np.shape(low), 0 if grid.floating else constraint.zero_point, np.int64)
        scale = covering(low, high, zero, grid)
    else:
        if constraint.upper is not None:
            high = np.minimum(high, max(constraint.upper, 0.0))
            empty = ~(low < high)
        span = np.where(empty, 1.0, (high - low) / (grid.high - grid.low))
        zero = np.clip(np.rint(grid.low - low / span), grid.low, grid.high).astype(np.int64)
        scale = span
    rest = np.clip(0 if constraint.zero_point is None else constraint.zero_point, grid.low, grid.high)
    zero = np.where(empty & (not grid.floating), np.int64(rest), zero)
    scale = np.where(empty, 1.0, scale)
    return usable(scale, constraint.largest(grid, zero)), zero
