"""``GatherGemmScatter`` in numpy."""

from __future__ import annotations

import numpy as np


def gather_gemm_scatter(
    y: np.ndarray,
    x: np.ndarray,
    columns: np.ndarray,
    rows: np.ndarray,
    weights: np.ndarray,
    floor: np.ndarray | None = None,
) -> tuple[np.ndarray]:
    """Return ``y`` with ``x[..., columns[b]] weights[b]`` added at ``[..., rows[b]]``, for each block ``b``.

    Args:
        y: ``[..., n]``, or ``[n]`` (a bias), what the products are added to.
        x: ``[..., k]``, of two axes or more.
        columns: ``[blocks, c]``, what each block reads, in ``[0, k)``, distinct in a block; negative: absent, so that
            blocks of different sizes fit into one tensor.
        rows: ``[blocks, r]``, what each block adds to, in ``[0, n)``, likewise. Blocks may share columns, or rows, but
            not both.
        weights: ``[blocks, c, r]``.
        floor: One number: what is lower becomes it. 0 is ReLU.
    """
    exact = np.float32 if x.dtype.itemsize == 2 else x.dtype
    out = np.broadcast_to(y, (*x.shape[:-1], y.shape[-1])).astype(exact)
    for block, (reads, adds) in enumerate(zip(columns, rows, strict=True)):
        weight = weights[block][np.ix_(reads >= 0, adds >= 0)].astype(exact)
        out[..., adds[adds >= 0]] += x[..., reads[reads >= 0]].astype(exact) @ weight
    total = out.astype(x.dtype)
    return (total if floor is None else np.maximum(total, floor.reshape(())),)
