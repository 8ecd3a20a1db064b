"""The range of least relative entropy between a histogram and what its quantized form says about it.

A level tells that a number lay in its cell, and within the cell every value that occurs is equally likely:
``q_i = m_c / n_c`` for each nonempty bin i of cell c, where m_c is the part of all numbers in the cell and n_c how many
of its bins are not empty. The first and the last cell reach to infinity: what is clipped belongs to them, on both sides
of the comparison. So

    KL(p || q) = sum over bins p_i log(p_i / q_i) = sum over cells [sum p_i log p_i - m_c log m_c + m_c log n_c]

which is finite and never negative, without smoothing. The textbook form (Migacz 2017) differs: it cuts the range first,
so that the reference has the clipped numbers in its last bin and the quantized form does not, and where that bin was
empty it divides by zero and puts a small number there; a range of as many bins as levels always looks perfect.
"""

from __future__ import annotations

import numpy as np

from graphopt.calibrate.grid import Grid
from graphopt.calibrate.histogram import Histogram
from graphopt.calibrate.minmax import of_range
from graphopt.calibrate.parameters import Constraint

_BINS = 2048  # on the longer side; finer ones count the noise of the sample
_SHARES = 0.93 ** np.arange(48)
_SHARES_BOTH = 0.83 ** np.arange(18)


def of_histogram(h: Histogram, grid: Grid, constraint: Constraint) -> tuple[np.ndarray, np.ndarray]:
    """Return float32 scale and int64 zero point."""
    numbers, counts = bins(h)
    fixed = grid.floating or constraint.zero_point is not None or h.minimum >= 0 or h.maximum <= 0
    low, high = min(h.minimum, 0.0), max(h.maximum, 0.0)
    if fixed:
        a = b = _SHARES
    else:
        a, b = (s.ravel() for s in np.meshgrid(_SHARES_BOTH, _SHARES_BOTH))
    scale, zero = of_range(a * low, b * high, grid, constraint)
    found = divergences(numbers, counts, scale, zero, grid)
    at = int(np.flatnonzero(found <= found.min() + 1e-12)[0])  # of equal ones the widest range
    return scale[at], zero[at]


def bins(h: Histogram) -> tuple[np.ndarray, np.ndarray]:
    """Return where the nonempty bins lie, ascending, and their counts, with about ``_BINS`` on the longer side."""
    if h.distinct is not None and h.frequencies is not None:
        return h.distinct, h.frequencies
    t = np.arange(h.first, h.first + h.counts.size)
    by = max(0, int(np.abs(t[[0, -1]]).max() // _BINS).bit_length())
    t = np.sign(t) * (np.abs(t) >> by)
    counts = np.bincount(t - t[0], h.counts).astype(np.int64)
    at = np.flatnonzero(counts)
    place = (at + t[0]).astype(np.float64)
    return np.ldexp(place + 0.5 * np.sign(place), h.exponent + by), counts[at]


def divergences(numbers: np.ndarray, counts: np.ndarray, scale: np.ndarray, zero: np.ndarray, grid: Grid) -> np.ndarray:
    """Return ``[C]``: KL(p || q) in nats for each scale and zero point; a bin belongs to the cell of its middle."""
    levels = grid.numbers()
    borders = (levels[1:] + levels[:-1]) / 2
    part = counts / counts.sum()
    start = lambda x: np.concatenate([[0.0], np.cumsum(x)])  # noqa: E731
    mass, filled = start(part), np.arange(numbers.size + 1, dtype=np.float64)
    found = np.empty(len(scale))
    own = float((part * np.log(part)).sum())
    for i, (s, o) in enumerate(zip(scale.astype(np.float64), zero, strict=True)):
        at = np.concatenate([[0], np.searchsorted(numbers, s * (borders - o)), [numbers.size]])
        m, n = np.diff(mass[at]), np.diff(filled[at])
        some = n > 0
        found[i] = own + float((m[some] * np.log(n[some] / m[some])).sum())
    return found
