"""``Scatter`` in numpy."""

from __future__ import annotations

import numpy as np

from graphopt.runtime_ops.gather.reference import place


def scatter(updates: np.ndarray, indices: np.ndarray, fill: np.ndarray, *, axis: int = 0) -> tuple[np.ndarray]:
    """Return ``out[..., indices[i], ...] = updates[..., i, ...]``, and ``fill[j]`` at the other positions ``j``.

    Args:
        updates: ``[..., k, ...]``, ``k`` positions along ``axis``.
        indices: ``[k]``, distinct, in ``[0, n)``.
        fill: ``[n]``: the size of the result, and what it holds where nothing is written.
        axis: Counts from the end if negative.
    """
    return (place(updates, inverse(indices, fill.size), fill, axis),)


def inverse(indices: np.ndarray, size: int) -> np.ndarray:
    """Return ``[size]``: which of the indices is each position, -1 where none is."""
    places = np.full(size, -1, np.int64)
    places[indices] = np.arange(indices.size)
    return places
