"""``BinaryConv`` in numpy."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from graphopt.runtime_ops.binary_gemm.bits import signs, unpack_filters


def sums(
    x: np.ndarray,
    weights: np.ndarray,
    channels: int,
    group: int,
    strides: Sequence[int],
    pads: Sequence[int],
    dilations: Sequence[int],
) -> np.ndarray:
    """Return the sums of products of signs, int32 ``[B, M, H', W']``; places in the padding add nothing."""
    filters = unpack_filters(weights, channels).astype(np.int32)
    top, left, bottom, right = pads
    padded = np.pad(signs(x), ((0, 0), (0, 0), (top, bottom), (left, right)))
    kernel = filters.shape[2:]
    high, wide = (
        max(0, (padded.shape[2 + axis] - dilations[axis] * (kernel[axis] - 1) - 1) // strides[axis] + 1)
        for axis in (0, 1)
    )
    each = filters.shape[0] // group
    out = np.zeros((x.shape[0], filters.shape[0], high, wide), np.int32)
    for g in range(group):
        mine = padded[:, g * channels : (g + 1) * channels]
        for ky in range(kernel[0]):
            for kx in range(kernel[1]):
                y, z = ky * dilations[0], kx * dilations[1]
                under = mine[:, :, y : y + strides[0] * high : strides[0], z : z + strides[1] * wide : strides[1]]
                under = under[:, :, :high, :wide]
                taps = filters[g * each : (g + 1) * each, :, ky, kx]
                out[:, g * each : (g + 1) * each] += np.einsum("bchw,mc->bmhw", under, taps)
    return out


def binary_conv(
    x: np.ndarray,
    weights: np.ndarray,
    scale: np.ndarray,
    bias: np.ndarray,
    *,
    channels: int,
    group: int = 1,
    strides: Sequence[int] = (1, 1),
    pads: Sequence[int] = (0, 0, 0, 0),
    dilations: Sequence[int] = (1, 1),
) -> tuple[np.ndarray]:
    """Return ``scale * conv(sign(x), weights) + bias``, both steps rounded to float32."""
    acc = sums(x, weights, channels, group, strides, pads, dilations).astype(np.float32)
    return (acc * scale[:, None, None] + bias[:, None, None],)
