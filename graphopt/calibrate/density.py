"""The squared error that a grid makes of a histogram, for many scales and zero points at once.

With F the distribution function of the tensor and ``G(e) = integral of F up to e = E[max(e - x, 0)]``, summing by parts
turns ``sum over levels of E[(x - v)^2]`` into one look-up for each border e between neighbouring levels v:

    E[(x - x')^2] = E[(x - v_last)^2] - 2 sum over borders (v_right - v_left) G(e)

In a bin, numbers are taken to be spread evenly, so that G is a parabola there and the formula is exact for it: a bin
that straddles a border is split where the border is. Three places are known better than that: zero (what bin 0 holds
beyond what its neighbours let expect is zero itself), and the first and last bin, which end at the smallest and the
largest number (and hold only these where they stand out).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from graphopt.calibrate.grid import Grid
from graphopt.calibrate.histogram import Histogram

_BLOCK = 1 << 15  # look-ups at a time: what they need stays in the second-level cache
_ALONE = 8  # a bin at the end that holds so many times what its neighbour does holds one number


@dataclass(frozen=True)
class Density:
    """A tensor's distribution; lengths are in bins, counts in parts of the whole.

    Attributes:
        exponent: A bin is ``2**exponent`` wide.
        first: Where the first cell begins; it and the last one are empty, for look-ups beyond.
        mass: ``[cells]`` F at the left border of each cell.
        area: ``[cells]`` G there.
        bend: ``[cells]`` half of the density inside the cell.
        curve: Three times ``[cells]``: in a cell, ``G(x) = a + x (m + x b)``.
        ends: Half of the squared distance of the first bin's numbers from its inner border, on average, times their
            part of the whole; the same for the last bin.
        spike: The part that is exactly zero.
        mean: E[x].
        square: E[x^2].
        low: The smallest number.
        high: The largest number.
    """

    exponent: int
    first: float
    mass: np.ndarray
    area: np.ndarray
    bend: np.ndarray
    curve: tuple[np.ndarray, np.ndarray, np.ndarray]
    ends: tuple[float, float] | None
    spike: float
    mean: float
    square: float
    low: float
    high: float

    def error(self, scale: np.ndarray, zero: np.ndarray, grid: Grid) -> np.ndarray:
        """Return E[(x - x')^2] for each pair of ``[C]`` scales and zero points (in bins): look-ups = C x levels."""
        numbers = grid.numbers()
        steps, borders = np.diff(numbers), (numbers[1:] + numbers[:-1]) / 2
        found = np.empty(scale.shape)
        some = max(1, _BLOCK // borders.size)
        for start in range(0, scale.size, some):
            s, o = scale[start : start + some, None], zero[start : start + some, None]
            area = self._area(s * (borders - o)) @ steps
            last = (s * (numbers[-1] - o))[:, 0]
            around = self.square - 2 * last * self.mean + last * last
            found[start : start + some] = around - 2 * s[:, 0] * area
        return np.maximum(found, 0.0)

    def _area(self, x: np.ndarray) -> np.ndarray:
        a, m, b = self.curve
        cell = (x - self.first).astype(np.int64)
        found = b.take(cell, mode="clip")
        found *= x
        found += m.take(cell, mode="clip")
        found *= x
        found += a.take(cell, mode="clip")
        return found


def density(h: Histogram) -> Density:
    """Return the distribution that a histogram stands for; it holds at least one number other than zero."""
    counts, first, spike = _cells(h)
    low, high = float(np.ldexp(h.minimum, -h.exponent)), float(np.ldexp(h.maximum, -h.exponent))
    counts = np.concatenate([[0], counts, [0]])
    first -= 1
    left = np.arange(first, first + counts.size, dtype=np.float64)
    whole = h.count
    # Integers, so that sums over many bins are exact: 16 bits need ten digits of them.
    mass = np.concatenate([[0], np.cumsum(counts)[:-1]]) + np.where(left >= 0, spike, 0)
    area = np.concatenate([[0], np.cumsum(2 * mass + counts)[:-1]]) / 2.0
    mean, square = float(counts @ (left + 0.5)), float(counts @ (left * left + left + 1 / 3))
    bend = counts / 2.0
    ends: list[float] = []
    if counts.size > 3:
        for cell, inner, end in ((1, 2, low), (counts.size - 2, counts.size - 3, high)):
            n, middle = float(counts[cell]), left[cell] + 0.5
            border = middle + (0.5 if cell == 1 else -0.5)
            width = 0.0 if n == 1 or n > _ALONE * counts[inner] else abs(border - end)
            at = end if not width else (end + border) / 2
            mean += n * (at - middle)
            square += n * (at * at + width * width / 12 - (left[cell] ** 2 + left[cell] + 1 / 3))
            area[cell + 1 :] += n * (middle - at)
            bend[cell] += n * (middle - at)
            ends.append(n / 2 * ((border - at) ** 2 + width * width / 12))
    mass, area, bend = mass / whole, area / whole, bend / whole
    curve = (area + left * (left * bend - mass), mass - 2 * left * bend, bend)
    return Density(
        h.exponent,
        float(first),
        mass,
        area,
        bend,
        curve,
        (ends[0] / whole, ends[1] / whole) if ends else None,
        spike / whole,
        mean / whole,
        square / whole,
        low,
        high,
    )


def _cells(h: Histogram) -> tuple[np.ndarray, int, int]:
    """Return counts of cells ``[j, j + 1)``, the first j, and how many numbers are exactly zero.

    Bin 0 reaches to both sides of zero and becomes two cells, filled as their neighbours are; what it holds beyond that
    is zero itself.
    """
    n, first = h.counts, h.first
    if first > 0 or first + n.size <= 0:
        return n, (first if first > 0 else first - 1), 0
    below, middle, above = n[: max(-first, 0)], int(n[-first]), n[1 - first :]
    a, b = int(below[-1]) if below.size else 0, int(above[0]) if above.size else 0
    if a + b > middle:
        a = middle * a // (a + b)
        b = middle - a
    return np.concatenate([below, [a, b], above]), first - 1, middle - a - b
