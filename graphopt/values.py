"""Numbers for one input: legal for its role, random otherwise."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx_ir as ir

from graphopt import roles
from graphopt.errors import ModelError

Sizes = Mapping[str, int]

_WORDS = ("a", "cat", "sat", "on", "the", "mat", "graph", "Größe", "")


def values(value: ir.Value, role: roles.Role, shape: tuple[int, ...], sizes: Sizes, rng: np.random.Generator) -> Any:
    """Draw one input.

    Args:
        value: The graph input.
        role: How the graph uses it.
        shape: The shape to draw.
        sizes: The size of every symbol, for tables whose size is one.
        rng: Where randomness comes from.

    Returns:
        An array of the element type of the input; strings as objects.

    Raises:
        ModelError: The input has no element type.
    """
    dtype = value.dtype
    if dtype is None or dtype == ir.DataType.UNDEFINED:
        raise ModelError(f"input {value.name!r} has no type", help="declare its element type in the model")
    if dtype == ir.DataType.STRING:
        return rng.choice(np.array(_WORDS, dtype=object), size=shape)
    if dtype == ir.DataType.BOOL:
        if "zeros" in role.kinds:
            return np.zeros(shape, np.bool_)
        return _mask(shape, rng).astype(np.bool_)
    kind = dtype.numpy()
    if dtype.is_integer() or role.below or role.at_most:
        return _integers(value, role, shape, sizes, rng).astype(kind)
    if kind.kind == "c":
        return (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)).astype(kind)
    if "ones" in role.kinds:
        return np.ones(shape).astype(kind)
    if "fraction" in role.kinds:
        return np.full(shape, 0.5).astype(kind)
    drawn = np.asarray(rng.standard_normal(shape))
    if "positive" in role.kinds:
        drawn = 0.5 + np.abs(drawn)
    return drawn.astype(kind)


def _integers(
    value: ir.Value, role: roles.Role, shape: tuple[int, ...], sizes: Sizes, rng: np.random.Generator
) -> np.ndarray:
    if role.below:
        low = max(0, *(-offset for _, offset in role.below))
        high = min(_number(size, sizes) - offset for size, offset in role.below)
        return np.asarray(rng.integers(low, max(high, low + 1), size=shape))
    if role.at_most:
        high = min(_number(size, sizes) for size in role.at_most)
        return np.asarray(rng.integers(1, max(high, 1) + 1, size=shape))
    kinds, count = role.kinds, int(np.prod(shape))
    if "shape" in kinds:  # legal for any data: everything in the last axis
        return np.concatenate([np.ones(max(count - 1, 0)), -np.ones(min(count, 1))]).reshape(shape)
    if "axes" in kinds:
        return np.arange(count).reshape(shape)
    if "ones" in kinds:
        return np.ones(shape)
    if "zeros" in kinds:
        return np.zeros(shape)
    if "small" in kinds:
        return np.asarray(rng.integers(1, 4, size=shape))
    if "bit" in kinds:
        return np.asarray(rng.integers(0, 2, size=shape))
    if "positive" in kinds:
        return np.asarray(rng.integers(1, 10, size=shape))
    wide = value.dtype is not None and value.dtype.itemsize > 2
    if wide and ("mask" in kinds or "mask" in str(value.name).lower()):
        return _mask(shape, rng)
    if not wide and value.dtype is not None:
        return np.asarray(rng.integers(int(value.dtype.min), int(value.dtype.max), endpoint=True, size=shape))
    signed = value.dtype is not None and value.dtype.is_signed()
    return np.asarray(rng.integers(-4 if signed and role.numeric else 0, 10, size=shape))


def _mask(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Zeros and ones. The first of each row is a one, so that a causal mask on top leaves something everywhere."""
    mask = np.asarray(rng.random(shape) < 0.7).astype(np.int64)
    if mask.ndim and mask.shape[-1]:
        mask[..., 0] = 1
    return mask


def _number(size: roles.Size | None, sizes: Sizes) -> int:
    """A size from the middle of the graph, at least 1: where nothing says it, only index 0 is certain to be legal."""
    if isinstance(size, int):
        return size
    if size is None:
        return 1
    try:
        found = size.evaluate(sizes)
    except ValueError:
        return int(sizes.get(str(size.value), 1))
    return found if isinstance(found, int) else 1
