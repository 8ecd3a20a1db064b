"""A histogram of what a tensor holds: streams, merges, and is the same whatever the order and the batches.

Bin t holds the numbers with ``trunc(x / 2**exponent) == t``. Truncating twice is truncating once,
``trunc(trunc(x / 2**e) / 2) == trunc(x / 2**(e + 1))``, so a histogram whose range has become too small is made coarser
by merging bins in pairs and is exactly what it would have been had the range been known from the start. The exponent
is the smallest at which the range fits, which is a function of minimum and maximum alone, and all counts are integers:
sums of histograms do not depend on the order. Zero lies in the middle of bin 0, which is two widths wide.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

HALF = 1 << 15
"""Bins on each side of zero; between half and all of them are in use."""

DISTINCT = 257
"""A tensor with fewer different numbers than this is discrete: its numbers and their counts are kept as they are."""

TINIEST = -1074
"""The exponent of what holds nothing but zeros, or nothing."""


@dataclass(frozen=True)
class Moments:
    """Count, sum and sum of squares of the numbers in each of some coarse bins.

    Attributes:
        exponent: Coarse bins are ``2**exponent`` wide (the one around zero twice that).
        first: Number of the first of them: bin t holds the numbers with ``trunc(x / 2**exponent) == t``.
        count: ``[bins]`` int64.
        total: ``[bins]`` float64: sum of the numbers.
        squares: ``[bins]`` float64: sum of their squares.
    """

    exponent: int
    first: int
    count: np.ndarray
    total: np.ndarray
    squares: np.ndarray


@dataclass(frozen=True)
class Histogram:
    """An immutable histogram; ``a + b`` is the histogram of both.

    Attributes:
        exponent: Bins are ``2**exponent`` wide (bin 0, around zero, twice that).
        first: Number of the first bin in ``counts``.
        counts: ``[bins]`` int64, no zeros at either end.
        minimum: The smallest number; inf if there is none.
        maximum: The largest number; -inf if there is none.
        nans: How many NaN there were; in no bin.
        infinities: How many infinities there were; in no bin.
        distinct: ``[n]`` the different numbers, ascending, while there are fewer than ``DISTINCT``; else None.
        frequencies: ``[n]`` int64, how often each of them came; None where ``distinct`` is.
    """

    exponent: int = TINIEST
    first: int = 0
    counts: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    minimum: float = math.inf
    maximum: float = -math.inf
    nans: int = 0
    infinities: int = 0
    distinct: np.ndarray | None = field(default_factory=lambda: np.zeros(0))
    frequencies: np.ndarray | None = field(default_factory=lambda: np.zeros(0, np.int64))

    @property
    def count(self) -> int:
        """How many finite numbers it holds."""
        return int(self.counts.sum())

    @property
    def dead(self) -> bool:
        """Whether all numbers are the same; nothing at all is not dead."""
        return self.minimum == self.maximum

    @property
    def mean(self) -> float:
        """``sum of x / n``: exact up to rounding of discrete data, else within half a bin; NaN of nothing."""
        x, n = self.points()
        return float((x * n).sum()) / self.count if n.size else math.nan

    @property
    def variance(self) -> float:
        """``sum of (x - mean)**2 / n``, as exact as the mean; NaN of nothing."""
        x, n = self.points()
        return float(((x - self.mean) ** 2 * n).sum()) / self.count if n.size else math.nan

    def centres(self) -> np.ndarray:
        """Return ``[bins]`` float64: the middle of each bin."""
        t = np.arange(self.first, self.first + self.counts.size, dtype=np.float64)
        return np.ldexp(t + 0.5 * np.sign(t), self.exponent)

    def points(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the numbers that stand for all (``[n]`` float64, ascending) and how often each came (int64).

        Of discrete data these are the numbers themselves, else the middles of the bins, kept between minimum and
        maximum.
        """
        if self.distinct is not None and self.frequencies is not None:
            return self.distinct, self.frequencies
        return np.clip(self.centres(), self.minimum, self.maximum), self.counts

    def percentile(self, percent: float) -> float:
        """Return the least x with ``percent`` of the numbers at or below it; NaN of nothing.

        Exact of discrete data. Else linear inside the bin that it falls into: off by less than the width of one.

        Raises:
            ValueError: Not from 0 to 100.
        """
        if not 0 <= percent <= 100:
            raise ValueError(f"{percent} percent: from 0 to 100")
        x, n = self.points()
        if not n.size:
            return math.nan
        below = np.cumsum(n)
        wanted = percent / 100 * int(below[-1])
        at = min(int(np.searchsorted(below, wanted)), n.size - 1)
        if self.distinct is not None:
            return float(x[at])
        if percent in (0, 100):
            return self.maximum if percent else self.minimum
        t = self.first + at
        low, high = math.ldexp(t - (t <= 0), self.exponent), math.ldexp(t + (t >= 0), self.exponent)
        inside = (wanted - (int(below[at]) - int(n[at]))) / int(n[at])
        return min(max(low + inside * (high - low), self.minimum), self.maximum)

    def moments(self, bins: int) -> Moments:
        """Return count, sum and sum of squares in at most ``bins`` bins, as many as powers of two allow.

        The sums run over :meth:`points`: each is off by at most half a fine bin for each number.

        Raises:
            ValueError: Fewer than 3 bins.
        """
        if bins < 3:
            raise ValueError(f"{bins} bins: at least one on each side of the one around zero")
        ends = np.array([self.first, self.first + max(self.counts.size - 1, 0)])
        by = 0
        while np.ptp(_halved(ends, by)) >= bins:
            by += 1
        x, n = self.points()
        t = _halved(_bins(x, self.exponent), by)
        first, size = (int(t[0]), int(t[-1] - t[0]) + 1) if t.size else (0, 0)
        with np.errstate(over="ignore"):  # squares of the largest float64 numbers are infinite
            squares = np.bincount(t - first, n * x * x, size)
        return Moments(
            self.exponent + by,
            first,
            # Counts are below 2**53, so that the weighted counting of numpy, which is in float64, is exact for them.
            np.bincount(t - first, n, size).astype(np.int64),
            np.bincount(t - first, n * x, size),
            squares,
        )

    def __add__(self, other: Histogram) -> Histogram:
        low, high = min(self.minimum, other.minimum), max(self.maximum, other.maximum)
        exponent = max(self.exponent, other.exponent)
        pieces = [_coarser(h, exponent) for h in (self, other)]
        filled = [(first, counts) for first, counts in pieces if counts.size]
        first = min((f for f, _ in filled), default=0)
        counts = np.zeros(max((f + c.size for f, c in filled), default=first) - first, np.int64)
        for start, piece in filled:
            counts[start - first : start - first + piece.size] += piece
        distinct, frequencies = united((self.distinct, self.frequencies), (other.distinct, other.frequencies))
        return Histogram(
            exponent,
            first,
            counts,
            low,
            high,
            self.nans + other.nans,
            self.infinities + other.infinities,
            distinct,
            frequencies,
        )

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Histogram):
            return NotImplemented
        return (
            (self.exponent, self.first, self.minimum, self.maximum, self.nans, self.infinities)
            == (other.exponent, other.first, other.minimum, other.maximum, other.nans, other.infinities)
            and np.array_equal(self.counts, other.counts)
            and (self.distinct is None) == (other.distinct is None)
            and (self.distinct is None or other.distinct is None or np.array_equal(self.distinct, other.distinct))
            and (
                self.frequencies is None
                or other.frequencies is None
                or np.array_equal(self.frequencies, other.frequencies)
            )
        )

    __hash__ = None  # type: ignore[assignment]


def histogram(array: np.ndarray) -> Histogram:
    """Return the histogram of an array of any shape and real type; NaN and infinities are counted apart.

    float32 and narrower numbers, booleans and integers below 2**53 are taken exactly; larger integers are rounded to
    float64.

    Raises:
        TypeError: The array holds no real numbers.
    """
    from graphopt.calibrate.accumulator import Accumulator

    accumulator = Accumulator()
    accumulator.add(array)
    return accumulator.result()


def exponent_of(low: float, high: float) -> int:
    """Return the smallest exponent at which ``[low, high]`` fits into the bins."""
    largest = max(abs(low), abs(high))
    return TINIEST if largest == 0 else max(math.frexp(largest)[1] - 15, TINIEST)


def united(
    a: tuple[np.ndarray | None, np.ndarray | None], b: tuple[np.ndarray | None, np.ndarray | None]
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Return different numbers and frequencies of two discrete tensors together; None when there are too many."""
    if a[0] is None or b[0] is None or a[1] is None or b[1] is None:
        return None, None
    distinct, place = np.unique(np.concatenate([a[0], b[0]]), return_inverse=True)
    if distinct.size >= DISTINCT:
        return None, None
    frequencies = np.zeros(distinct.size, np.int64)
    np.add.at(frequencies, place, np.concatenate([a[1], b[1]]))
    return distinct, frequencies


def _bins(x: np.ndarray, exponent: int) -> np.ndarray:
    """Return int64 bin numbers of float64 numbers, exactly."""
    return np.ldexp(x, -exponent).astype(np.int64)


def _halved(t: np.ndarray, times: int) -> np.ndarray:
    """Return ``trunc(t / 2**times)``."""
    return np.sign(t) * (np.abs(t) >> min(times, 62))


def _coarser(h: Histogram, exponent: int) -> tuple[int, np.ndarray]:
    """Return first bin and counts of a histogram at a larger exponent."""
    by = exponent - h.exponent
    if not by or not h.counts.size:
        return h.first, h.counts
    t = _halved(np.arange(h.first, h.first + h.counts.size), by)
    counts = np.zeros(int(t[-1] - t[0]) + 1, np.int64)
    np.add.at(counts, t - t[0], h.counts)
    return int(t[0]), counts
