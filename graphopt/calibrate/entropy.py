"""The range of least relative entropy between a clipped histogram and what its quantized form says about it.

For a range, the reference p has the numbers inside it, and what is clipped on either side in the outermost bin inside
that is not empty. The quantized form q is made of the numbers inside only: each level's part of them, spread evenly
over the bins of its cell that are not empty (Migacz 2017):

    KL(p || q) = sum over bins p_i log(p_i / q_i),  p_i = h_i + clipped there,  q_i = m_c / (n_c m)

with h_i the parts of the whole, m_c and m those inside the cell and the range, n_c how many bins of the cell are not
empty. Clipping costs because p has it and q has not; rounding costs because h is not even inside a cell. Usual programs
go wrong in two places: they put what was clipped into the last bin even if that one was empty, where q is then zero and
the true value infinite, and hide that by a small number there; and they count bins for n_c after that. Here both sums
are one, q is zero nowhere where p is not, and the result is finite and never negative without smoothing.

Exact zeros are no loss whatever the range and do not count. Of a tensor of few different numbers, each with a level of
its own, relative entropy knows nothing: nothing is clipped there.
"""

from __future__ import annotations

import numpy as np

from graphopt.calibrate.grid import Grid
from graphopt.calibrate.histogram import Histogram
from graphopt.calibrate.minmax import of_range
from graphopt.calibrate.parameters import Constraint

_BINS = 2048  # at least so many on the longer side; finer ones count the noise of the sample
_PER_LEVEL = 32  # bins in a level's cell if nothing is clipped; with fewer than ``_FEWEST`` any range looks perfect
_FEWEST = 4
_SHARES = 0.95 ** np.arange(60)
_SHARES_BOTH = 0.83 ** np.arange(18)


def of_histogram(h: Histogram, grid: Grid, constraint: Constraint) -> tuple[np.ndarray, np.ndarray]:
    """Return float32 scale and int64 zero point for a histogram that holds numbers other than zero."""
    low, high = min(h.minimum, 0.0), max(h.maximum, 0.0)
    if h.distinct is not None:
        scale, zero = of_range(np.array([low]), np.array([high]), grid, constraint)
        return scale[0], zero[0]
    if grid.floating or constraint.zero_point is not None or low == 0 or high == 0:
        a = b = _SHARES
    else:
        a, b = (s.ravel() for s in np.meshgrid(_SHARES_BOTH, _SHARES_BOTH))
    scale, zero = of_range(a * low, b * high, grid, constraint)
    numbers, counts, width = bins(h, _PER_LEVEL * grid.levels)
    wide = (scale >= _FEWEST * width) | (scale == scale.max())
    scale, zero = scale[wide], zero[wide]
    found = divergences(numbers, counts, scale, zero, grid)
    at = int(np.flatnonzero(found <= found.min() + 1e-12)[0])  # of equal ones the widest range
    return scale[at], zero[at]


def bins(h: Histogram, least: int) -> tuple[np.ndarray, np.ndarray, float]:
    """Return the middles of the bins that are not empty, their counts, and the width of a bin.

    There are at least ``least`` bins between zero and the larger end, if the histogram has as many.
    """
    t = np.arange(h.first, h.first + h.counts.size)
    by = max(0, int(np.abs(t[[0, -1]]).max() // max(least, _BINS)).bit_length() - 1)
    t = np.sign(t) * (np.abs(t) >> by)
    counts = np.bincount(t - t[0], h.counts).astype(np.int64)
    if t[0] < 0 < t[-1] or 0 in (t[0], t[-1]):
        zero = -int(t[0])
        counts[zero] = min(counts[zero], counts[max(zero - 1, 0) : zero].sum() + counts[zero + 1 : zero + 2].sum())
    at = np.flatnonzero(counts)
    place = (at + t[0]).astype(np.float64)
    return np.ldexp(place + 0.5 * np.sign(place), h.exponent + by), counts[at], float(np.ldexp(1.0, h.exponent + by))


def divergences(numbers: np.ndarray, counts: np.ndarray, scale: np.ndarray, zero: np.ndarray, grid: Grid) -> np.ndarray:
    """Return ``[C]``: KL(p || q) in nats for each scale and zero point; a bin belongs to the cell of its middle."""
    levels = grid.numbers()
    borders = (levels[1:] + levels[:-1]) / 2
    borders = np.concatenate([[2 * levels[0] - borders[0]], borders, [2 * levels[-1] - borders[-1]]])
    part = counts / counts.sum()
    mass = np.concatenate([[0.0], np.cumsum(part)])
    entropy = np.concatenate([[0.0], np.cumsum(part * np.log(part))])
    found = np.empty(len(scale))
    for i, (s, o) in enumerate(zip(scale.astype(np.float64), zero, strict=True)):
        at = np.searchsorted(numbers, s * (borders - o))
        m, n = np.diff(mass[at]), np.diff(at)
        some = np.flatnonzero(n)
        if not some.size:
            found[i] = np.inf
            continue
        p, inside = m.copy(), float(m[some].sum())
        own = float(entropy[at[-1]] - entropy[at[0]])
        for cell, last, clipped in ((some[0], at[0], mass[at[0]]), (some[-1], at[-1] - 1, 1 - mass[at[-1]])):
            p[cell] += clipped
            own += _xlogx(part[last] + clipped) - _xlogx(part[last])
        found[i] = own - float((p[some] * np.log(m[some] / (n[some] * inside))).sum())
    return found


def _xlogx(x: float) -> float:
    return x * float(np.log(x)) if x > 0 else 0.0
