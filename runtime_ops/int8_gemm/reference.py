"""``Int8Gemm`` in numpy, and the requantization that every int8 operator ends with."""

from __future__ import annotations

import numpy as np


def int8_gemm(
    x: np.ndarray,
    w: np.ndarray,
    scale: np.ndarray,
    bias: np.ndarray,
    *,
    x_zero_point: int = 0,
    y_zero_point: int = 0,
    low: int = -128,
    high: int = 127,
) -> tuple[np.ndarray]:
    """Return ``clip(round((sum_k (x[..., k] - x_zero_point) w[k, n] + bias[n]) scale[n]) + y_zero_point, low, high)``.

    Args:
        x: int8 ``[..., K]``.
        w: int8 ``[K, N]``.
        scale: float32 ``[N]`` or ``[1]``: of x times of w by that of y.
        bias: int32 ``[N]``, in units of the scales of x and w.
        x_zero_point: The int8 number that stands for 0 in x.
        y_zero_point: The same in y.
        low: The smallest number of y: ``y_zero_point`` is a ReLU.
        high: The largest.
    """
    total = product(x, w, x_zero_point) + bias.astype(np.int64)
    return (requantize(scaled(total, scale), y_zero_point, low, high),)


def product(x: np.ndarray, w: np.ndarray, x_zero_point: int) -> np.ndarray:
    """Return the sums of products as int64; exact in float64, which numpy multiplies fast."""
    return ((x.astype(np.float64) - x_zero_point) @ w.astype(np.float64)).astype(np.int64)


def scaled(total: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Return ``float32(int32(total)) * scale``: sums wrap as int32 does, and are rounded to float32 once."""
    return total.astype(np.int32).astype(np.float32) * scale.astype(np.float32)


def join(value: np.ndarray, residual: np.ndarray, residual_scale: float, residual_zero_point: int) -> np.ndarray:
    """Return ``value + (residual - residual_zero_point) residual_scale``, every step rounded to float32."""
    centred = (residual.astype(np.int32) - np.int32(residual_zero_point)).astype(np.float32)
    return value + centred * np.float32(residual_scale)


def requantize(value: np.ndarray, y_zero_point: int, low: int, high: int) -> np.ndarray:
    """Return ``clip(round(value) + y_zero_point, low, high)`` as int8; halves go to the even number."""
    return np.clip(np.rint(value) + np.float32(y_zero_point), np.float32(low), np.float32(high)).astype(np.int8)
