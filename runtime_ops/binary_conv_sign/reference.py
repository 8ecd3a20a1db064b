"""``BinaryConvSign`` in numpy."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from graphopt.runtime_ops.binary_conv.reference import sums


def binary_conv_sign(
    x: np.ndarray,
    weights: np.ndarray,
    threshold: np.ndarray,
    *,
    channels: int,
    group: int = 1,
    strides: Sequence[int] = (1, 1),
    pads: Sequence[int] = (0, 0, 0, 0),
    dilations: Sequence[int] = (1, 1),
) -> tuple[np.ndarray]:
    """Return ``+1 where conv(sign(x), weights) > threshold, -1 elsewhere``, int8."""
    acc = sums(x, weights, channels, group, strides, pads, dilations)
    return (np.where(acc > threshold[:, None, None], 1, -1).astype(np.int8),)
