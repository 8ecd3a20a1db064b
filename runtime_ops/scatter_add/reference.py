"""``ScatterAdd`` in numpy."""

from __future__ import annotations

import numpy as np

from graphopt.runtime_ops.gather.reference import place
from graphopt.runtime_ops.scatter.reference import inverse


def scatter_add(
    data: np.ndarray,
    indices: np.ndarray,
    updates: np.ndarray,
    fill: np.ndarray,
    floor: np.ndarray | None = None,
    *,
    axis: int = 0,
) -> tuple[np.ndarray]:
    """Return ``data`` with ``updates[..., i, ...]`` added at ``indices[i]``, and ``fill[j]`` at the other positions.

    Args:
        data: ``[..., n, ...]``, ``n`` positions along ``axis``.
        indices: ``[k]``, distinct, in ``[0, n)``.
        updates: ``[..., k, ...]``, otherwise as large as ``data``.
        fill: One number, or ``[n]``. Negative zero is nothing at all, also to a zero that is negative: those positions
            are not touched.
        floor: One number: what is lower becomes it. 0 is ReLU.
        axis: Counts from the end if negative.
    """
    spread = place(updates, inverse(indices, data.shape[axis]), fill, axis)
    total = (data + spread).astype(data.dtype)  # sums of 16-bit floats are rounded once, sums of integers wrap around
    return (total if floor is None else np.maximum(total, floor.reshape(())),)
