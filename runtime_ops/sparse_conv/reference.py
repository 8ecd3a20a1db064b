"""``SparseConv`` in numpy."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from graphopt.runtime_ops.compact import dense


def sparse_conv(
    x: np.ndarray,
    values: np.ndarray,
    gaps: np.ndarray,
    bias: np.ndarray,
    *,
    shape: Sequence[int],
    strides: Sequence[int] = (1, 1),
    pads: Sequence[int] = (0, 0, 0, 0),
    dilations: Sequence[int] = (1, 1),
    group: int = 1,
    relu: int = 0,
) -> tuple[np.ndarray]:
    """Return ``act(Conv(x, weight, bias))``, computed in float64, tap by tap, and rounded once."""
    weight = dense(values, gaps, list(shape)).astype(np.float64)
    spatial = x.ndim - 2
    around = [(0, 0), (0, 0), *zip(pads[:spatial], pads[spatial:], strict=True)]
    padded = np.pad(x.astype(np.float64), around)
    sizes = [
        (padded.shape[2 + axis] - dilations[axis] * (shape[2 + axis] - 1) - 1) // strides[axis] + 1
        for axis in range(spatial)
    ]
    filters, channels = shape[0] // group, shape[1]
    out = np.zeros((x.shape[0], shape[0], *sizes))
    for tap in np.ndindex(*shape[2:]):
        begins = [index * dilation for index, dilation in zip(tap, dilations, strict=False)]
        window = tuple(
            slice(begin, begin + (size - 1) * stride + 1, stride)
            for begin, size, stride in zip(begins, sizes, strides, strict=False)
        )
        seen = padded[(slice(None), slice(None), *window)]
        for g in range(group):
            rows = slice(g * filters, (g + 1) * filters)
            part = weight[(rows, slice(None), *tap)]
            out[:, rows] += np.moveaxis(
                np.tensordot(part, seen[:, g * channels : (g + 1) * channels], axes=(1, 1)), 0, 1
            )
    out += bias.reshape(1, -1, *[1] * spatial)
    return ((np.maximum(out, 0) if relu else out).astype(x.dtype),)
