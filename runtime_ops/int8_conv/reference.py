"""``Int8Conv`` in numpy."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from graphopt.runtime_ops.int8_gemm.reference import requantize, scaled


def int8_conv(
    x: np.ndarray,
    w: np.ndarray,
    scale: np.ndarray,
    bias: np.ndarray,
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
) -> tuple[np.ndarray]:
    """Return ``clip(round((sum over channels and taps of (x - x_zero_point) w + bias) scale) + y_zero_point)``.

    Args:
        x: int8 ``[B, C, H, W]``, or ``[B, C, W]``, once its axes are in the order ``input_perm``.
        w: int8 ``[N, C / group, taps…]``.
        scale: float32 ``[N]`` or ``[1]``: of x times of w by that of y.
        bias: int32 ``[N]``, in units of the scales of x and w.
        pads: What is added in front of every spatial axis, then behind each; it holds ``x_zero_point``.
        strides: Steps of the window.
        dilations: Steps of the taps.
        group: Number of groups of channels.
        input_perm: Brings x into the order ``[B, C, …]``: ``[0, 3, 1, 2]`` where it lies as NHWC.
        output_perm: Brings y from the order ``[B, N, …]`` into its own: ``[0, 2, 3, 1]`` for NHWC.
        x_zero_point: The int8 number that stands for 0 in x.
        y_zero_point: The same in y.
        low: The smallest number of y: ``y_zero_point`` is a ReLU.
        high: The largest.
    """
    total = convolution(np.transpose(x, input_perm), w, bias, pads, strides, dilations, group, x_zero_point)
    value = scaled(total, scale.reshape(-1, *[1] * (w.ndim - 2)))
    return (requantize(np.transpose(value, output_perm), y_zero_point, low, high),)


def convolution(
    x: np.ndarray,
    w: np.ndarray,
    bias: np.ndarray,
    pads: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
    group: int,
    x_zero_point: int,
) -> np.ndarray:
    """Return the integer convolution with its bias, int64 ``[B, N, …]``; exact in float64."""
    spatial = w.ndim - 2
    around = [(0, 0), (0, 0), *((pads[axis], pads[axis + spatial]) for axis in range(spatial))]
    wide = np.pad(x.astype(np.float64) - x_zero_point, around)
    sizes = [
        (wide.shape[2 + axis] - dilations[axis] * (w.shape[2 + axis] - 1) - 1) // strides[axis] + 1
        for axis in range(spatial)
    ]
    out = np.zeros((x.shape[0], w.shape[0], *sizes))
    channels, filters = w.shape[1], w.shape[0] // group
    for tap in itertools.product(*(range(size) for size in w.shape[2:])):
        steps = [
            slice(at * dilation, at * dilation + (size - 1) * stride + 1, stride)
            for at, dilation, size, stride in zip(tap, dilations, sizes, strides, strict=True)
        ]
        window = wide[(slice(None), slice(None), *steps)]
        for part in range(group):
            here = slice(part * filters, (part + 1) * filters)
            block = window[:, part * channels : (part + 1) * channels]
            weights = w[(here, slice(None), *tap)].astype(np.float64)
            out[:, here] += np.moveaxis(np.tensordot(weights, block, ([1], [1])), 0, 1)
    return out.astype(np.int64) + bias.astype(np.int64).reshape(-1, *[1] * spatial)
