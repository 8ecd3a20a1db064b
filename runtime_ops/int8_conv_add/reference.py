"""``Int8ConvAdd`` in numpy."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from graphopt.runtime_ops.int8_conv.reference import convolution
from graphopt.runtime_ops.int8_gemm.reference import join, requantize, scaled


def int8_conv_add(
    x: np.ndarray,
    w: np.ndarray,
    scale: np.ndarray,
    bias: np.ndarray,
    residual: np.ndarray,
    *,
    pads: Sequence[int] = (0, 0, 0, 0),
    strides: Sequence[int] = (1, 1),
    dilations: Sequence[int] = (1, 1),
    group: int = 1,
    input_perm: Sequence[int] = (0, 1, 2, 3),
    output_perm: Sequence[int] = (0, 1, 2, 3),
    x_zero_point: int = 0,
    y_zero_point: int = 0,
    low: int = -128,
    high: int = 127,
    residual_scale: float = 1.0,
    residual_zero_point: int = 0,
) -> tuple[np.ndarray]:
    """Return ``clip(round(conv + (residual - residual_zero_point) residual_scale) + y_zero_point, low, high)``.

    The arguments are those of ``int8_conv``; ``residual`` is int8 and lies as y does, ``residual_scale`` is its scale
    by that of y.
    """
    total = convolution(np.transpose(x, input_perm), w, bias, pads, strides, dilations, group, x_zero_point)
    value = np.transpose(scaled(total, scale.reshape(-1, *[1] * (w.ndim - 2))), output_perm)
    return (requantize(join(value, residual, residual_scale, residual_zero_point), y_zero_point, low, high),)
