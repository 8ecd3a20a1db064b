"""``Gather`` in numpy."""

from __future__ import annotations

import numpy as np


def gather(data: np.ndarray, indices: np.ndarray, fill: np.ndarray, *, axis: int = 0) -> tuple[np.ndarray]:
    """Return ``out[..., j, ...] = data[..., indices[j], ...]``, and ``fill`` where an index is negative.

    Args:
        data: ``[..., n, ...]``, ``n`` positions along ``axis``.
        indices: ``[k]``, below ``n``.
        fill: One number, or ``[k]``: one for every position of the result.
        axis: Counts from the end if negative.
    """
    return (place(data, indices, fill, axis),)


def place(source: np.ndarray, places: np.ndarray, fill: np.ndarray, axis: int) -> np.ndarray:
    """Return positions ``places`` (``[k]``) of an axis, and ``fill`` (one number or ``[k]``) where one is negative."""
    moved = np.moveaxis(source, axis, 0)
    out = np.empty((places.size, *moved.shape[1:]), source.dtype)
    out[...] = np.broadcast_to(fill.reshape(-1), places.shape).reshape([-1] + [1] * (moved.ndim - 1))
    found = np.flatnonzero(places >= 0)
    out[found] = moved[places[found]]
    return np.moveaxis(out, 0, axis)
