"""``Int8GemmAdd`` in numpy."""

from __future__ import annotations

import numpy as np

from graphopt.runtime_ops.int8_gemm.reference import join, product, requantize, scaled


def int8_gemm_add(
    x: np.ndarray,
    w: np.ndarray,
    scale: np.ndarray,
    bias: np.ndarray,
    residual: np.ndarray,
    *,
    x_zero_point: int = 0,
    y_zero_point: int = 0,
    low: int = -128,
    high: int = 127,
    residual_scale: float = 1.0,
    residual_zero_point: int = 0,
) -> tuple[np.ndarray]:
    """Return ``clip(round(gemm + (residual - residual_zero_point) residual_scale) + y_zero_point, low, high)``.

    Args:
        x: int8 ``[..., K]``.
        w: int8 ``[K, N]``.
        scale: float32 ``[N]`` or ``[1]``.
        bias: int32 ``[N]``.
        residual: int8, the shape of y.
        x_zero_point: The int8 number that stands for 0 in x.
        y_zero_point: The same in y.
        low: The smallest number of y.
        high: The largest.
        residual_scale: The scale of the residual by that of y.
        residual_zero_point: The int8 number that stands for 0 in the residual.
    """
    value = scaled(product(x, w, x_zero_point) + bias.astype(np.int64), scale)
    return (requantize(join(value, residual, residual_scale, residual_zero_point), y_zero_point, low, high),)
