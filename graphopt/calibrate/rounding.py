"""What a runtime makes of numbers: ``q = saturate(round_half_even(r / S) + O)``, ``r' = S (q - O)``, in float32."""

from __future__ import annotations

from collections.abc import Iterator

import ml_dtypes
import numpy as np
from numpy.typing import ArrayLike

from graphopt.calibrate.grid import Grid

_CHUNK = 1 << 18  # numbers whose errors are computed at a time: what that takes in float64 stays in a cache


def to_grid(t: np.ndarray, grid: Grid, out: np.ndarray | None = None) -> np.ndarray:
    """Return the nearest number of the grid, of two equally near ones the even one; ``[...]``, of the type of ``t``.

    ``out``: where to write it, of the shape and type of ``t``.
    """
    if not grid.floating:
        q = np.rint(t, out=out)
        return np.clip(q, grid.low, grid.high, out=q)
    dtype = getattr(ml_dtypes, grid.storage.replace("float8", "float8_"))
    q = np.clip(t, grid.low, grid.high).astype(np.float32).astype(dtype)
    if out is None:
        return q.astype(t.dtype)
    out[...] = q
    return out


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
    scale, zero = np.asarray(scale), np.asarray(zero)
    share = None if weights is None else weights / weights.sum()
    found = np.zeros(len(x))
    for rows, columns in parts(x, _CHUNK):
        numbers = np.ascontiguousarray(x[rows, columns])
        error = restored(numbers, scale[rows, None], zero[rows, None], grid).astype(np.float64)
        error -= numbers
        if share is None:
            found[rows] += np.einsum("rk,rk->r", error, error)
        else:
            found[rows] += np.square(error, out=error) @ share[columns]
    return found / max(x.shape[1], 1) if share is None else found


def parts(x: np.ndarray, size: int) -> Iterator[tuple[slice, slice]]:
    """Yield slices of rows and columns that cut a matrix into parts of at most ``size`` numbers."""
    across = max(1, min(x.shape[1], size))
    down = max(1, size // across)
    for top in range(0, x.shape[0], down):
        for left in range(0, x.shape[1], across):
            yield slice(top, top + down), slice(left, left + across)
