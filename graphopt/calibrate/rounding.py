"""What a runtime makes of numbers: ``q = saturate(round_half_even(r / S) + O)``, ``r' = S (q - O)``, in float32."""

from __future__ import annotations

import ml_dtypes
import numpy as np
from numpy.typing import ArrayLike

from graphopt.calibrate.grid import Grid


def to_grid(t: np.ndarray, grid: Grid) -> np.ndarray:
    """Return the nearest number of the grid, of two equally near ones the even one; ``[...]``, of the type of ``t``."""
    if not grid.floating:
        q = np.rint(t)
        return np.clip(q, grid.low, grid.high, out=q)
    dtype = getattr(ml_dtypes, grid.storage.replace("float8", "float8_"))
    return np.clip(t, grid.low, grid.high).astype(np.float32).astype(dtype).astype(t.dtype)


def restored(x: ArrayLike, scale: ArrayLike, zero: ArrayLike, grid: Grid) -> np.ndarray:
    """Return float32 ``[...]``: x after Q and DQ with float32 scales and integer zero points that broadcast to it."""
    zero = np.asarray(zero).astype(np.float32)
    scale = np.asarray(scale, np.float32)
    with np.errstate(over="ignore"):
        steps = np.asarray(x, np.float32) / scale
        # Rounding comes before the zero point is added: in float32, 0.5 + 2^23 is no longer a half.
        q = to_grid(steps, grid) if grid.floating else np.clip(np.rint(steps), grid.low - zero, grid.high - zero)
        return q * scale


def squared_error(
    x: np.ndarray, scale: np.ndarray, zero: np.ndarray, grid: Grid, weights: np.ndarray | None = None
) -> np.ndarray:
    """Return float64 ``[rows]``: the mean over ``[rows, K]`` of ``(x - x')^2``, weighted by ``[K]`` where given."""
    error = restored(x, np.asarray(scale)[:, None], np.asarray(zero)[:, None], grid).astype(np.float64) - x
    if weights is not None:
        return (error * error) @ (weights / weights.sum())
    return np.einsum("rk,rk->r", error, error) / max(x.shape[1], 1)
