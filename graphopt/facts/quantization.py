"""The arithmetic of QuantizeLinear and DequantizeLinear on arrays, as onnxruntime does it.

``q = saturate(round_half_even(x / scale) + zero)`` and ``x = (q - zero) * scale``; scale and zero point are numbers, or
vectors along one axis, or one entry for every block of an axis. Float8 types have no zero point and round to the
nearest number that they have.
"""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx_ir as ir

RELATIVE, ABSOLUTE = 1e-5, 1e-3
"""How far a computed fill may be from what a runtime computes: relative, and in steps of the quantized type."""


def axis_of(node: ir.Node, rank: int) -> int | None:
    """Return the axis that a vector of scales lies along; ``None`` where there is no such axis."""
    axis = node.attributes.get_int("axis", 1)
    return axis % rank if -rank <= axis < rank else None


def spread(parameter: np.ndarray, sizes: tuple[int, ...], axis: int | None, block: int) -> np.ndarray:
    """Return a scale or zero point so that it broadcasts against an array of ``sizes``."""
    if block:
        assert axis is not None
        return np.repeat(parameter, block, axis).take(range(sizes[axis]), axis)
    if parameter.size == 1:
        return parameter.reshape(())
    assert axis is not None and parameter.ndim == 1
    return parameter.reshape([-1 if i == axis else 1 for i in range(len(sizes))])


def dequantized(q: np.ndarray, scale: np.ndarray, zero: np.ndarray | None) -> np.ndarray:
    """Return ``(q - zero) * scale`` in the type of the scale; the operands broadcast."""
    if q.dtype.kind in "iu" or _is_small_integer(q.dtype):
        wide = q.astype(np.int64)
        wide = (wide if zero is None else wide - zero.astype(np.int64)).astype(np.float32)
    else:
        wide = q.astype(np.float32)
    if scale.dtype == np.float64:
        return wide.astype(np.float64) * scale
    with np.errstate(all="ignore"):
        return (wide * scale.astype(np.float32)).astype(scale.dtype)


def _is_small_integer(dtype: np.dtype) -> bool:
    return dtype.kind == "V" and "int" in dtype.name


def quantized(
    real: np.ndarray, zero: np.ndarray | None, dtype: np.dtype, *, saturate: bool = True
) -> tuple[np.ndarray, np.ndarray]:
    """Return (q, sure) of ``real = x / scale`` (float64, in steps): is ``q`` the same if ``real`` is a little wrong?

    Zero is never wrong: it comes from weights that are zero, not from a sum.
    """
    error = np.where(real == 0, 0, np.abs(real) * RELATIVE + ABSOLUTE)
    found = _rounded(real, zero, dtype, saturate)
    sure = (_rounded(real - error, zero, dtype, saturate) == found) & (
        _rounded(real + error, zero, dtype, saturate) == found
    )
    return found, np.asarray(sure & np.isfinite(real))


def _rounded(real: np.ndarray, zero: np.ndarray | None, dtype: np.dtype, saturate: bool) -> np.ndarray:
    with np.errstate(all="ignore"):
        if dtype.kind in "iu":
            limits = np.iinfo(dtype)
        elif _is_small_integer(dtype):
            limits = ml_dtypes.iinfo(dtype)
        else:
            largest = float(ml_dtypes.finfo(dtype).max)
            return (np.clip(real, -largest, largest) if saturate else real).astype(np.float32).astype(dtype)
        steps = np.rint(real) + (0 if zero is None else zero.astype(np.float64))
        return np.clip(np.nan_to_num(steps), int(limits.min), int(limits.max)).astype(np.int64).astype(dtype)
