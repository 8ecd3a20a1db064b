"""Weights of one bit: eight to a byte, the first in the lowest bit; 1 is +1, 0 is -1."""

from __future__ import annotations

import numpy as np


def pack(numbers: np.ndarray) -> np.ndarray:
    """Return the signs of ``[..., K]`` as bytes ``[..., ceil(K / 8)]``; a number above 0 is +1, any other -1."""
    return np.packbits(numbers > 0, axis=-1, bitorder="little")


def unpack(packed: np.ndarray, k: int) -> np.ndarray:
    """Return bytes ``[..., ceil(k / 8)]`` as int8 ``[..., k]`` of -1 and +1."""
    bits = np.unpackbits(packed, axis=-1, count=k, bitorder="little").astype(np.int8)
    return (2 * bits - 1).astype(np.int8)


def pack_filters(filters: np.ndarray) -> np.ndarray:
    """Return filters ``[M, C / group, kH, kW]`` as ``BinaryConv`` wants them: ``[M, kH, kW, ceil(C / group / 8)]``."""
    return pack(np.moveaxis(filters, 1, -1))


def unpack_filters(packed: np.ndarray, channels: int) -> np.ndarray:
    """Return what ``pack_filters`` packed, as int8 ``[M, channels, kH, kW]`` of -1 and +1."""
    return np.moveaxis(unpack(packed, channels), -1, 1)


def signs(numbers: np.ndarray) -> np.ndarray:
    """Return +1 where a number is above 0 and -1 elsewhere (also for 0, -0 and NaN), as int32."""
    return np.where(numbers > 0, 1, -1).astype(np.int32)


def thresholds(gain: np.ndarray, offset: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return what ``gain * sum + offset > 0`` says about the sum of a channel's products of signs.

    A scale, a bias and a batch-norm behind a binary layer, followed by a sign, are a comparison of the integer sum. A
    negative gain turns it round; then the bits of this channel are to be flipped, which negates its sum exactly
    (padding contributes 0 either way), and the comparison stays the same.

    Args:
        gain: ``[M]``: for a batch-norm behind a scale, ``gamma / sqrt(variance + epsilon) * scale``.
        offset: ``[M]``: ``beta + gamma / sqrt(variance + epsilon) * (bias - mean)``.

    Returns:
        Thresholds ``[M]``, float32, halfway between integers: ``y = +1 where sum > threshold``, so that no rounding can
        change a result; and where bits are to be flipped, bool ``[M]``. A gain of 0 gives a threshold that is infinite.
    """
    gain, offset = np.asarray(gain, np.float64), np.asarray(offset, np.float64)
    flip = gain < 0
    with np.errstate(divide="ignore", invalid="ignore"):
        limit = -offset / np.abs(gain)  # sum > -offset / gain, and for a negative gain -sum > -offset / |gain|
    limit = np.where(gain == 0, np.where(offset > 0, -np.inf, np.inf), limit)
    return (np.floor(limit) + 0.5).astype(np.float32), flip
