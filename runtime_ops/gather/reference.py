"""``Gather`` in numpy."""

from __future__ import annotations

import numpy as np


def gather(data: np.ndarray, indices: np.ndarray, fill: np.ndarray, *, axis: int = 0) -> tuple[np.ndarray]:
    """Return ``out[..., i, ...] = data[..., indices[i], ...]``, ``fill`` where an index is negative."""
    shape = list(data.shape)
    shape[axis] = indices.size
    out = np.full(shape, fill, data.dtype)
    found = np.flatnonzero(indices >= 0)
    moved = np.moveaxis(out, axis, 0)
    moved[found] = np.moveaxis(data, axis, 0)[indices[found]]
    return (out,)
