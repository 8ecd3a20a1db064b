"""``Histogram`` in numpy: what it hands on, without what it keeps."""

from __future__ import annotations

import numpy as np


def histogram(x: np.ndarray, *, handle: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return ``x`` and ``[rows, 2]`` int64: how many NaN and how many infinities there are in each row.

    Args:
        x: ``[rows, ...]``, of any real type; a scalar is one row.
        handle: Of no consequence: what the library keeps under it is ``graphopt.calibrate.histogram`` of all ``x``.
    """
    wide = np.asarray(x, np.float64)
    rows = wide.reshape(wide.shape[0] if wide.ndim else 1, int(np.prod(wide.shape[1:])))
    return x, np.stack([np.isnan(rows).sum(1), np.isinf(rows).sum(1)], 1).astype(np.int64)
