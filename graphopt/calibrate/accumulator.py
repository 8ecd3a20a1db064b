"""Counts numbers into bins, in place: two nanoseconds a number, in pieces that stay in the cache."""

from __future__ import annotations

import math

import numpy as np

from graphopt.calibrate.histogram import DISTINCT, HALF, TINIEST, Histogram, exponent_of, united

_PIECE = 1 << 16
"""Numbers that are worked on at once: their bins and the counts lie in the second-level cache together."""

_GLANCE = 1 << 10
"""A tensor that is not discrete is nearly always known by so many of its first numbers."""


class Accumulator:
    """A histogram that grows: ``add`` arrays, then take the ``result``, which is that of all of them in any order.

    Bins are counted at ``counts[t mod 2**16]``: a bin number fits into 16 bits, so the negative ones come for free.
    """

    def __init__(self) -> None:
        self._exponent = TINIEST
        self._counts = np.zeros(2 * HALF, np.int64)
        self._low, self._high = math.inf, -math.inf
        self._nans = self._infinities = 0
        self._distinct: np.ndarray | None = np.zeros(0)
        self._frequencies: np.ndarray | None = np.zeros(0, np.int64)

    def add(self, array: np.ndarray) -> tuple[int, int]:
        """Count an array of any shape and real type in; return how many of its numbers are NaN, and how many infinite.

        Raises:
            TypeError: The array holds no real numbers.
        """
        x = _real(np.asarray(array))
        if not x.size:
            return 0, 0
        low, high = float(x.min()), float(x.max())
        nans = infinities = 0
        if not (math.isfinite(low) and math.isfinite(high)):
            nans = int(np.isnan(x).sum())
            finite = np.isfinite(x)
            infinities = x.size - int(finite.sum()) - nans
            self._nans += nans
            self._infinities += infinities
            x = x[finite]
            if not x.size:
                return nans, infinities
            low, high = float(x.min()), float(x.max())
        # Adding zero makes -0.0 the same number as 0.0, whichever of them came first.
        self._low, self._high = min(self._low, low) + 0.0, max(self._high, high) + 0.0
        self._fit(exponent_of(self._low, self._high))
        self._count(x)
        return nans, infinities

    def merge(self, histogram: Histogram) -> None:
        """Count in what a histogram holds."""
        self._take(self.result() + histogram)

    def result(self) -> Histogram:
        """Return the histogram of all that was added so far."""
        first = last = 0
        counts = np.zeros(0, np.int64)
        if self._low <= self._high:
            first, last = (math.trunc(math.ldexp(x, -self._exponent)) for x in (self._low, self._high))
            counts = np.concatenate([self._counts[first:] if first < 0 else counts, self._counts[max(first, 0) :]])
            counts = counts[: last - first + 1].copy()
        return Histogram(
            self._exponent,
            first,
            counts,
            self._low,
            self._high,
            self._nans,
            self._infinities,
            None if self._distinct is None else self._distinct.copy(),
            None if self._frequencies is None else self._frequencies.copy(),
        )

    def _take(self, histogram: Histogram) -> None:
        self._exponent = histogram.exponent
        self._counts[:] = 0
        self._counts[np.arange(histogram.first, histogram.first + histogram.counts.size)] = histogram.counts
        self._low, self._high = histogram.minimum, histogram.maximum
        self._nans, self._infinities = histogram.nans, histogram.infinities
        self._distinct, self._frequencies = histogram.distinct, histogram.frequencies

    def _fit(self, exponent: int) -> None:
        """Make bins wider, up to ``2**exponent``."""
        by = exponent - self._exponent
        if not by:
            return
        self._exponent = exponent
        filled = np.flatnonzero(self._counts)
        held = self._counts[filled]
        self._counts[:] = 0
        t = filled - 2 * HALF * (filled >= HALF)
        np.add.at(self._counts, np.sign(t) * (np.abs(t) >> min(by, 62)), held)

    def _count(self, x: np.ndarray) -> None:
        """Count finite numbers, all within the bins."""
        if self._distinct is not None and not self._may_be_discrete(x[:_GLANCE]):
            self._distinct = self._frequencies = None
        scale = -self._exponent
        wide = x.dtype != np.float32 or not -126 <= scale <= 127
        scaled = np.empty(min(x.size, _PIECE), np.float64 if wide else np.float32)
        short = np.empty(scaled.size, np.int16)
        place = np.empty(scaled.size, np.intp)
        for start in range(0, x.size, _PIECE):
            piece = x[start : start + _PIECE]
            s, h, t = scaled[: piece.size], short[: piece.size], place[: piece.size]
            # A product with a power of two is exact; or it is below the smallest number, and bin 0 either way.
            if not wide:
                np.multiply(piece, np.float32(2.0**scale), out=s)
            elif scale <= 1023:
                np.multiply(piece, 2.0**scale, out=s, dtype=np.float64)
            else:
                np.ldexp(piece, scale, out=s, dtype=np.float64)
            np.copyto(h, s, casting="unsafe")  # truncates; what fits into the bins fits into 16 bits
            np.copyto(t, h.view(np.uint16))
            if self._distinct is not None:
                self._note(piece, t)
            np.add.at(self._counts, t, 1)

    def _may_be_discrete(self, x: np.ndarray) -> bool:
        assert self._distinct is not None
        return np.union1d(self._distinct, x).size < DISTINCT

    def _note(self, x: np.ndarray, t: np.ndarray) -> None:
        """Keep the different numbers of a discrete tensor and how often they came."""
        # Where every bin holds one number, which is usual, no sorting is needed to find them.
        seen = np.zeros(2 * HALF, x.dtype)
        seen[t] = x
        if np.array_equal(seen[t], x):
            counts = np.bincount(t)
            filled = np.flatnonzero(counts)
            found, times = seen[filled], counts[filled]
        else:
            found, times = np.unique(x, return_counts=True)
        if found.size >= DISTINCT:
            self._distinct = self._frequencies = None
            return
        # Adding zero makes -0.0 the same number as 0.0.
        new = (found.astype(np.float64) + 0.0, times.astype(np.int64))
        self._distinct, self._frequencies = united((self._distinct, self._frequencies), new)


def _real(array: np.ndarray) -> np.ndarray:
    """Return ``[n]`` float32 or float64."""
    flat = array.reshape(-1)
    if flat.dtype in (np.float32, np.float64):
        return flat.astype(flat.dtype.newbyteorder("="), copy=False)
    # bfloat16 and its like are foreign to numpy (kind V), but know how to become float32.
    foreign = flat.dtype.kind == "V" and flat.dtype.names is None and flat.dtype.itemsize <= 2
    if not foreign and flat.dtype.kind not in "fiub":
        raise TypeError(f"no histogram of {flat.dtype}")
    return flat.astype(np.float32 if flat.dtype.itemsize <= 2 else np.float64)
