"""Whether what a device computed is what the CPU computed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def apart(found: Sequence[np.ndarray], truth: Sequence[np.ndarray]) -> float:
    """Return how far apart outputs are, of the largest number; 0 if they are the same bit by bit, but for NaN's.

    What is no number on one side alone is infinitely far off.

    Raises:
        ValueError: Their shapes or types differ.
    """
    worst = 0.0
    for one, other in zip(found, truth, strict=True):
        if one.shape != other.shape or one.dtype != other.dtype:
            raise ValueError(f"{one.dtype}{list(one.shape)} is not {other.dtype}{list(other.shape)}")
        if np.array_equal(one, other, equal_nan=one.dtype.kind == "f"):
            continue
        wide, right = one.astype(np.float64), other.astype(np.float64)
        same = (wide == right) | (np.isnan(wide) & np.isnan(right))
        if not (np.isfinite(wide) & np.isfinite(right))[~same].all():
            return float("inf")
        largest = float(np.abs(right[np.isfinite(right)]).max(initial=0))
        worst = max(worst, float(np.abs(wide[~same] - right[~same]).max()) / max(largest, 1e-30))
    return worst


def said(worst: float, rtol: float) -> tuple[str, bool]:
    """A verdict in words, and whether it is within the tolerance."""
    if worst == 0:
        return "equal", True
    text = f"{worst:.2g} of the largest"
    return (text, True) if worst <= rtol else (f"DIFFERS: {text}, {rtol:.2g} allowed", False)
