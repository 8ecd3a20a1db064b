"""The squared error where levels lie about as close as bins: what is clipped, plus ``S^2 / 12`` for the rest.

    E[(x - x')^2] = E[max(x - v_last, 0)^2] + E[max(v_first - x, 0)^2] + S^2 / 12 P(v_first < x < v_last, x != 0)

The sum of ``density.py`` becomes an integral (Euler and Maclaurin), and a candidate costs four look-ups whatever the
number of levels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from graphopt.calibrate.density import Density
from graphopt.calibrate.grid import Grid


@dataclass(frozen=True)
class Clipping:
    """Tails of a distribution; lengths are in bins.

    Attributes:
        density: The distribution.
        below: ``[cells]`` half of E[max(e - x, 0)^2] at the left border e of each cell.
        above: ``[cells]`` half of E[max(x - e, 0)^2] there: summed from the right, or small tails would drown.
    """

    density: Density
    below: np.ndarray
    above: np.ndarray

    def error(self, scale: np.ndarray, zero: np.ndarray, grid: Grid) -> np.ndarray:
        """Return E[(x - x')^2] for each pair of ``[C]`` scales and zero points (in bins), for an integer grid."""
        last, first = scale * (grid.high - zero), scale * (grid.low - zero)
        inside = self._mass(last) - self._mass(first) - self.density.spike * (first < 0)
        clipped = np.maximum(self._above(last), 0.0) + np.maximum(self._below(first), 0.0)
        return 2 * clipped + scale * scale / 12 * np.maximum(inside, 0.0)

    def _place(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        x = x - self.density.first
        cell = np.clip(x, 0.0, self.below.size - 1.0).astype(np.int64)
        return cell, x - cell

    def _mass(self, x: np.ndarray) -> np.ndarray:
        cell, t = self._place(x)
        return self.density.mass.take(cell) + t * 2 * self.density.bend.take(cell)

    def _below(self, x: np.ndarray) -> np.ndarray:
        cell, t = self._place(x)
        d = self.density
        return self.below.take(cell) + t * (d.area.take(cell) + t * (d.mass.take(cell) / 2 + t * d.bend.take(cell) / 3))

    def _above(self, x: np.ndarray) -> np.ndarray:
        cell, t = self._place(x)
        d = self.density
        area = d.mean - (d.first + cell) + d.area.take(cell)
        curve = (1 - d.mass.take(cell)) / 2 - t * d.bend.take(cell) / 3
        return np.where(x >= d.high, 0.0, self.above.take(cell) + t * (t * curve - area))


def clipping(d: Density) -> Clipping:
    """Return the tails of a distribution."""
    left = d.first + np.arange(d.mass.size)
    below = d.area + d.mass / 2 + d.bend / 3  # what each cell adds
    # E[max(x - e, 0)] at the left border of each cell; what is left of it at the last one is rounding.
    beyond = np.maximum(d.mean - left + d.area, 0.0)
    above = beyond - (1 - d.mass) / 2 + d.bend / 3
    above[-1] = 0.0
    if d.ends is not None:
        below[1], above[-2] = d.ends
    return Clipping(d, np.concatenate([[0.0], np.cumsum(below)[:-1]]), np.cumsum(above[::-1])[::-1])
