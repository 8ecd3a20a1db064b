"""Weights as rows: ``[rows, K]`` with the axis that is summed over last, ``[rows, ceil(K / B), B]`` in blocks.

The rows of a weight are its slices along every other axis, in their order: the columns of ``[K, N]`` for a MatMul, the
filters' taps ``[N * kH * kW]`` of ``[N, C, kH, kW]`` for blocks of channels.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def to_rows(array: np.ndarray, axis: int) -> np.ndarray:
    """Return ``[rows, K]``, where ``K`` is the size of ``axis``; a view where that is possible."""
    return np.moveaxis(array, axis, -1).reshape(-1, array.shape[axis])


def from_rows(rows: np.ndarray, shape: Sequence[int], axis: int) -> np.ndarray:
    """Return rows in the order of a weight of ``shape``; the size of ``axis`` is that of a row (blocks, too)."""
    others = [size for position, size in enumerate(shape) if position != axis % len(shape)]
    return np.moveaxis(rows.reshape(*others, rows.shape[-1]), -1, axis)


def blocked(rows: np.ndarray, block: int) -> np.ndarray:
    """Return ``[rows, ceil(K / B), B]``; what is missing of the last block is 0."""
    count, size = rows.shape
    missing = -size % block
    if missing:
        rows = np.concatenate([rows, np.zeros((count, missing), rows.dtype)], axis=1)
    return rows.reshape(count, (size + missing) // block, block)


def spread(parameter: np.ndarray, block: int, size: int) -> np.ndarray:
    """Return ``[rows, K]`` of a parameter ``[rows, ceil(K / B)]``: the entry of its block for every position."""
    return np.repeat(parameter, block, axis=1)[:, :size]


def restored(codes: np.ndarray, scale: np.ndarray, zero: np.ndarray, block: int) -> np.ndarray:
    """Return ``S (q - O)`` as float32 ``[rows, K]``, of integers ``[rows, K]`` and parameters by block."""
    size = codes.shape[1]
    centred = codes.astype(np.float32) - spread(zero, block, size).astype(np.float32)
    return centred * spread(scale, block, size).astype(np.float32)


def packed(codes: np.ndarray, bits: int) -> np.ndarray:
    """Return unsigned integers below ``2 ** bits``, packed along the last axis, low bits first: uint8.

    ``out[j] = sum over i of codes[j * 8 / bits + i] << (bits * i)``; what is missing of the last byte is 0. This is
    how onnxruntime's MatMulNBits and GatherBlockQuantized read weights and zero points.
    """
    if bits == 8:
        return np.ascontiguousarray(codes.astype(np.uint8))
    each = 8 // bits
    missing = -codes.shape[-1] % each
    if missing:
        codes = np.concatenate([codes, np.zeros((*codes.shape[:-1], missing), codes.dtype)], axis=-1)
    parts = codes.astype(np.uint8).reshape(*codes.shape[:-1], codes.shape[-1] // each, each)
    out = np.zeros(parts.shape[:-1], np.uint8)
    for position in range(each):
        out |= parts[..., position] << np.uint8(bits * position)
    return out
