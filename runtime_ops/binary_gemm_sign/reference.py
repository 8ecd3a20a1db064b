"""``BinaryGemmSign`` in numpy."""

from __future__ import annotations

import numpy as np

from graphopt.runtime_ops.binary_gemm.reference import product


def binary_gemm_sign(x: np.ndarray, weights: np.ndarray, threshold: np.ndarray, *, k: int) -> tuple[np.ndarray]:
    """Return ``+1 where sign(x) @ weights.T > threshold, -1 elsewhere``, int8."""
    return (np.where(product(x, weights, k) > threshold, 1, -1).astype(np.int8),)
