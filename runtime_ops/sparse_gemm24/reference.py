"""``SparseGemm24`` in numpy."""

from __future__ import annotations

import numpy as np

from graphopt.runtime_ops.sparse_gemm24.semi_structured import dense24


def sparse_gemm24(x: np.ndarray, values: np.ndarray, indices: np.ndarray) -> tuple[np.ndarray]:
    """Return ``out[..., n] = sum over k of x[..., k] weight[k, n]``, summed in float32.

    Args:
        x: ``[..., K]``, two axes or more; float16 or bfloat16.
        values: ``[N, K / 2]``, as x.
        indices: ``[N, ceil(K / 8)]`` uint8; see ``semi_structured``.
    """
    return (np.matmul(x.astype(np.float32), dense24(values, indices).astype(np.float32)).astype(x.dtype),)
