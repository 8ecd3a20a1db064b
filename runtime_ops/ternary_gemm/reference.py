"""``TernaryGemm`` in numpy, and how its weights are packed."""

from __future__ import annotations

import numpy as np


def pack(codes: np.ndarray, bits: int = 2) -> np.ndarray:
    """Return codes ``[N, K]`` as bytes ``[N, ceil(K * bits / 8)]``; code ``k`` starts at bit ``k * bits % 8``."""
    each = 8 // bits
    rows, size = codes.shape
    padded = np.zeros((rows, -(-size // each) * each), np.uint8)
    padded[:, :size] = codes
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    return np.bitwise_or.reduce(padded.reshape(rows, padded.shape[1] // each, each) << shifts, axis=2)


def unpack(packed: np.ndarray, size: int, bits: int = 2) -> np.ndarray:
    """Return codes ``[N, size]`` from bytes."""
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    spread = packed[..., None] >> shifts & (1 << bits) - 1
    return spread.reshape(len(packed), packed.shape[1] * shifts.size)[:, :size]


def quantized(x: np.ndarray, scale: np.ndarray, zero_point: np.ndarray) -> np.ndarray:
    """Return ``saturate(round(x / scale) + zero_point)``, halves to even, as ``QuantizeLinear`` does."""
    bounds = np.iinfo(zero_point.dtype)
    steps = np.rint(np.asarray(x, np.float32) / np.float32(scale)) + np.float32(zero_point)
    return np.clip(steps, bounds.min, bounds.max).astype(zero_point.dtype)


def ternary_gemm(
    x: np.ndarray,
    codes: np.ndarray,
    levels: np.ndarray,
    scale: np.ndarray,
    bias: np.ndarray,
    x_scale: np.ndarray,
    x_zero_point: np.ndarray,
    *,
    bits: int = 2,
    stored: int = 0,
) -> tuple[np.ndarray]:
    """Return ``y[..., n] = (sum_k (q(x)[..., k] - x_zero_point) levels[codes[n, k]]) x_scale scale[n] + bias[n]``.

    Args:
        x: ``[..., K]``: float32, or, where ``stored``, already of the zero point's type.
        codes: uint8 ``[N, ceil(K * bits / 8)]``, see ``pack``.
        levels: int8 ``[2 ** bits]``: what the codes stand for; ternary: ``[-1, 0, 1, 0]``.
        scale: float32 ``[N]`` or ``[1]``.
        bias: float32 ``[N]`` or ``[1]``.
        x_scale: float32, a scalar.
        x_zero_point: uint8 or int8, a scalar.
        bits: 2 or 4.
        stored: Whether ``x`` is quantized already.
    """
    q = x if stored else quantized(x, x_scale, x_zero_point)
    weight = levels[unpack(codes, x.shape[-1], bits)].astype(np.int64)
    sums = (q.astype(np.int64) - np.int64(x_zero_point)) @ weight.T
    factor = np.float32(x_scale) * scale.astype(np.float32)
    return (sums.astype(np.int32).astype(np.float32) * factor + bias.astype(np.float32),)
