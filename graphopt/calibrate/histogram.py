"""A histogram of what a tensor holds: streams, merges, and is the same whatever the order and the batches.

Bin t holds the numbers with ``trunc(x / 2**exponent) == t``. Truncating twice is truncating once,
``trunc(trunc(x / 2**e) / 2) == trunc(x / 2**(e + 1))``, so a histogram whose range has become too small is made coarser
by merging bins in pairs and is exactly what it would have been had the range been known from the start. All counts are
integers: sums of histograms do not depend on the order. Zero lies in the middle of bin 0.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

HALF = 1 << 15
"""Bins on each side of zero; between half and all of them are in use."""

DISTINCT = 257
"""A tensor with fewer different numbers than this is discrete: its numbers and their counts are kept as they are."""

_TINIEST = -1074


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

    exponent: int = _TINIEST
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

    def centres(self) -> np.ndarray:
        """Return ``[bins]`` float64: the middle of each bin."""
        t = np.arange(self.first, self.first + self.counts.size, dtype=np.float64)
        return np.ldexp(t + 0.5 * np.sign(t), self.exponent)

    def __add__(self, other: Histogram) -> Histogram:
        low, high = min(self.minimum, other.minimum), max(self.maximum, other.maximum)
        exponent = max(self.exponent, other.exponent)
        pieces = [_coarser(h, exponent) for h in (self, other)]
        filled = [(first, counts) for first, counts in pieces if counts.size]
        first = min((f for f, _ in filled), default=0)
        counts = np.zeros(max((f + c.size for f, c in filled), default=first) - first, np.int64)
        for start, piece in filled:
            counts[start - first : start - first + piece.size] += piece
        distinct, frequencies = _united(self, other)
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
    """Return the histogram of an array of any shape and real type; NaN and infinities are counted apart."""
    x = np.asarray(array).reshape(-1)
    if x.dtype.kind not in "f" or x.dtype.itemsize < 4:
        x = x.astype(np.float32 if x.dtype.itemsize < 4 else np.float64)
    nans = infinities = 0
    low, high = (float(x.min()), float(x.max())) if x.size else (math.inf, -math.inf)
    if not (math.isfinite(low) and math.isfinite(high)) and x.size:
        nans = int(np.isnan(x).sum())
        infinities = int(np.isinf(x).sum())
        x = x[np.isfinite(x)]
        low, high = (float(x.min()), float(x.max())) if x.size else (math.inf, -math.inf)
    if not x.size:
        return Histogram(nans=nans, infinities=infinities)
    exponent = exponent_of(low, high)
    t = _bins(x, exponent)
    first, last = int(np.trunc(_scaled(low, exponent))), int(np.trunc(_scaled(high, exponent)))
    counts = np.bincount(t - first, minlength=last - first + 1)
    distinct = frequencies = None
    if np.count_nonzero(counts) < DISTINCT:
        distinct, frequencies = np.unique(x, return_counts=True)
        if distinct.size >= DISTINCT:
            distinct = frequencies = None
        else:
            distinct = distinct.astype(np.float64) + 0.0  # one zero: -0.0 is not another number
    return Histogram(exponent, first, counts, low, high, nans, infinities, distinct, frequencies)


def exponent_of(low: float, high: float) -> int:
    """Return the smallest exponent at which ``[low, high]`` fits into the bins."""
    largest = max(abs(low), abs(high))
    return _TINIEST if largest == 0 else max(math.frexp(largest)[1] - 15, _TINIEST)


def _scaled(x: float, exponent: int) -> float:
    return math.ldexp(x, -exponent)


def _bins(x: np.ndarray, exponent: int) -> np.ndarray:
    """Return int64 bin numbers: truncation of ``x / 2**exponent``, exact in the type of x."""
    if x.dtype == np.float32 and -126 <= -exponent <= 127:
        return (x * np.float32(2.0**-exponent)).astype(np.int64)
    return np.ldexp(x.astype(np.float64), -exponent).astype(np.int64)


def _coarser(h: Histogram, exponent: int) -> tuple[int, np.ndarray]:
    """Return first bin and counts of a histogram at a larger exponent."""
    by = exponent - h.exponent
    if not by or not h.counts.size:
        return h.first, h.counts
    t = np.arange(h.first, h.first + h.counts.size)
    t = np.sign(t) * (np.abs(t) >> min(by, 62))
    counts = np.zeros(int(t[-1] - t[0]) + 1, np.int64)
    np.add.at(counts, t - t[0], h.counts)
    return int(t[0]), counts


def _united(a: Histogram, b: Histogram) -> tuple[np.ndarray | None, np.ndarray | None]:
    if a.distinct is None or b.distinct is None or a.frequencies is None or b.frequencies is None:
        return None, None
    distinct, place = np.unique(np.concatenate([a.distinct, b.distinct]), return_inverse=True)
    if distinct.size >= DISTINCT:
        return None, None
    frequencies = np.zeros(distinct.size, np.int64)
    np.add.at(frequencies, place, np.concatenate([a.frequencies, b.frequencies]))
    return distinct, frequencies
