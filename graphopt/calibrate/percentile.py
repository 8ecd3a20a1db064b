"""The range that holds a given part of the numbers; what lies outside is clipped, half of it on either side."""

from __future__ import annotations

import numpy as np

from graphopt.calibrate.histogram import Histogram

USUAL = 99.99
"""Percent; 99.9 and 99.999 are usual, too."""


def of_histogram(h: Histogram, percent: float, *, symmetric: bool) -> tuple[float, float]:
    """Return low and high such that ``percent`` of the numbers lie between; symmetric: of their absolute values."""
    numbers, counts = _points(h)
    if symmetric:
        order = np.argsort(np.abs(numbers), kind="stable")
        reach = _quantile(np.abs(numbers)[order], counts[order], percent / 100)
        reach = min(reach, max(abs(h.minimum), abs(h.maximum)))
        return -reach, reach
    outside = (100 - percent) / 200
    low, high = (_quantile(numbers, counts, part) for part in (outside, 1 - outside))
    return max(low, h.minimum), min(high, h.maximum)


def of_rows(x: np.ndarray, percent: float, *, symmetric: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return the same for each row of ``[rows, K]``, interpolated between neighbouring numbers."""
    if not x.shape[1]:
        return np.zeros(len(x)), np.zeros(len(x))
    if symmetric:
        reach = np.quantile(np.abs(x), percent / 100, axis=1).astype(np.float64)
        return -reach, reach
    low, high = np.quantile(x, [(100 - percent) / 200, (100 + percent) / 200], axis=1)
    return low.astype(np.float64), high.astype(np.float64)


def _points(h: Histogram) -> tuple[np.ndarray, np.ndarray]:
    if h.distinct is not None and h.frequencies is not None:
        return h.distinct, h.frequencies
    return h.centres(), h.counts


def _quantile(numbers: np.ndarray, counts: np.ndarray, part: float) -> float:
    """Return the least number such that at least ``part`` of all are not larger."""
    below = np.cumsum(counts)
    at = int(np.searchsorted(below, part * below[-1], side="left"))
    return float(numbers[min(at, numbers.size - 1)])
