"""``SparseGemm`` in numpy."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from graphopt.runtime_ops.compact import dense


def sparse_gemm(
    x: np.ndarray, values: np.ndarray, gaps: np.ndarray, bias: np.ndarray, *, shape: Sequence[int], relu: int = 0
) -> tuple[np.ndarray]:
    """Return ``act(x @ weight + bias)``, computed in float64 and rounded once."""
    weight = dense(values, gaps, list(shape))
    out = x.astype(np.float64) @ weight.astype(np.float64) + bias
    return ((np.maximum(out, 0) if relu else out).astype(x.dtype),)
