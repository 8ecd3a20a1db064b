"""Integers behind DequantizeLinear, with the constants that say what they stand for."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from graphopt import dims
from graphopt.facts.constants import stored

if TYPE_CHECKING:
    from graphopt.context import Context


@dataclass(frozen=True)
class Dequantized:
    """Numbers that are ``(integers - zero) scale``.

    Attributes:
        integers: The integers.
        scale: ``[n]`` float32: one, or one for each position of an axis.
        zero: ``[1]`` or ``[n]``: zero points, of the integers' type.
        axis: That axis, from 0.
    """

    integers: ir.Value
    scale: np.ndarray
    zero: np.ndarray
    axis: int

    @property
    def signed_zero(self) -> np.ndarray:
        """The zero points of the same numbers as int8: 128 less where they are uint8."""
        return signed(self.zero)


def signed(integers: np.ndarray) -> np.ndarray:
    """Return integers of 8 bits as int8: those of uint8 less 128."""
    return (integers ^ np.uint8(128)).view(np.int8) if integers.dtype == np.uint8 else integers


def dequantized(value: ir.Value | None, types: Collection[ir.DataType], context: Context) -> Dequantized | None:
    """Return the integers that a DequantizeLinear makes a value of, if they are of one of the types; None otherwise."""
    node = stored(value)
    integers = None if node is None or node.domain != "" else node.inputs[0]
    return None if node is None or integers is None else quantized(node, integers, types, context)


def quantized(
    node: ir.Node, integers: ir.Value, types: Collection[ir.DataType], context: Context
) -> Dequantized | None:
    """Return what a QuantizeLinear or DequantizeLinear says of its integers; None if that is computed or in blocks."""
    if integers.dtype is None or integers.dtype not in types or node.attributes.get_int("block_size", 0):
        return None
    scale = None if node.inputs[1] is None else context.constants.array(node.inputs[1])
    given = node.inputs[2] if len(node.inputs) > 2 else None
    zero = np.zeros(1, integers.dtype.numpy()) if given is None else context.constants.array(given)
    if scale is None or zero is None or scale.dtype != np.float32 or zero.size not in (1, scale.size):
        return None
    axis = node.attributes.get_int("axis", 1) % max(dims.rank(integers) or 1, 1)
    return Dequantized(integers, scale.reshape(-1), zero.reshape(-1), axis)


def codes(integers: ir.Value, context: Context) -> np.ndarray | None:
    """Return integers that are constants, or what a QuantizeLinear makes of constant floats; None otherwise.

    ``saturate(round(x / scale) + zero)`` in float32, halves to the even number, as onnxruntime computes it.
    """
    known = context.constants.array(integers)
    node = integers.producer()
    if known is not None or node is None or (node.domain, node.op_type) != ("", "QuantizeLinear"):
        return known
    found = quantized(node, integers, (ir.DataType.INT8, ir.DataType.UINT8), context)
    floats = context.constants.array(node.inputs[0])
    if found is None or floats is None or floats.dtype != np.float32 or not np.isfinite(floats).all():
        return None
    scale, zero = found.scale, found.zero.astype(np.float32)
    if scale.size > 1:
        along = [-1 if axis == found.axis else 1 for axis in range(floats.ndim)]
        scale, zero = scale.reshape(along), np.broadcast_to(zero, scale.size).reshape(along)
    info = np.iinfo(found.zero.dtype)
    return np.clip(np.rint(floats / scale) + zero, info.min, info.max).astype(info.dtype)
