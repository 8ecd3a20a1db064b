"""``BinaryGemm`` in numpy."""

from __future__ import annotations

import numpy as np

from graphopt.runtime_ops.binary_gemm.bits import signs, unpack


def product(x: np.ndarray, weights: np.ndarray, k: int) -> np.ndarray:
    """Return the sums of products of signs, int32 ``[..., N]``."""
    return signs(x) @ unpack(weights, k).astype(np.int32).T


def binary_gemm(
    x: np.ndarray, weights: np.ndarray, scale: np.ndarray, bias: np.ndarray, *, k: int
) -> tuple[np.ndarray]:
    """Return ``scale * (sign(x) @ weights.T) + bias``, both steps rounded to float32."""
    return (product(x, weights, k).astype(np.float32) * scale + bias,)
