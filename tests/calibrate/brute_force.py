"""Quantization as its definition reads, in the plainest form, and the best of a dense grid."""

from __future__ import annotations

from collections.abc import Iterable

import ml_dtypes
import numpy as np

from graphopt.calibrate.grid import Grid


def there_and_back(x: np.ndarray, scale: float, zero: int, kind: Grid) -> np.ndarray:
    """``S (saturate(round_half_even(x / S) + O) - O)`` in float32."""
    steps = x.astype(np.float32) / np.float32(scale)
    if kind.floating:
        dtype = {"float8e4m3fn": ml_dtypes.float8_e4m3fn, "float8e5m2": ml_dtypes.float8_e5m2}[kind.storage]
        return np.clip(steps, kind.low, kind.high).astype(dtype).astype(np.float32) * np.float32(scale)
    codes = np.clip(np.rint(steps).astype(np.float64) + zero, kind.low, kind.high)
    return (codes - zero).astype(np.float32) * np.float32(scale)


def error(x: np.ndarray, scale: float, zero: int, kind: Grid) -> float:
    """The mean squared error."""
    return float(np.mean(np.square(there_and_back(x, scale, zero, kind).astype(np.float64) - x)))


def dense(x: np.ndarray, kind: Grid, *, zeros: Iterable[int] | None = None, scales: int = 2000) -> float:
    """The least mean squared error over ``scales`` scales for each zero point (where none are given: of all)."""
    if zeros is None:
        zeros = [0] if kind.floating else range(int(kind.low), int(kind.high) + 1)
    best = float(np.mean(np.square(x, dtype=np.float64)))
    for zero in zeros:
        if not kind.low <= zero <= kind.high:
            continue
        ends = [(x.max(initial=0), kind.high - zero), (-x.min(initial=0), zero - kind.low)]
        whole = max((float(end) / levels for end, levels in ends if levels > 0), default=0.0)
        for share in np.linspace(1.3, 0.02, scales):
            if whole * share > np.finfo(np.float32).tiny:
                best = min(best, error(x, whole * share, zero, kind))
    return best
