"""What is known about constants: their arrays, which slices are uniform, which weights are zero.

Patterns are small (one bit a weight at most) and kept; arrays of large tensors are read, used and released, so that the
memory of an analysis does not grow with the size of the model.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar, cast

import numpy as np
import onnx_ir as ir

Found = TypeVar("Found")

SMALL = 1 << 16
"""Tensors of at most this many elements are kept as arrays once they have been read."""


def is_constant(value: ir.Value | None) -> bool:
    """Tell whether a value is an initializer that no caller can override, or a ``Constant`` node's output."""
    if value is None:
        return False
    if value.const_value is not None:
        return not value.is_graph_input()
    producer = value.producer()
    return producer is not None and producer.op_type == "Constant" and producer.domain in ("", "ai.onnx")


def tensor_of(value: ir.Value) -> ir.TensorProtocol | None:
    """Return the tensor behind a constant value, or ``None`` where there is none (strings, sparse, sequences)."""
    if value.const_value is not None:
        return None if value.is_graph_input() else value.const_value
    producer = value.producer()
    if producer is None or producer.op_type != "Constant":
        return None
    for name, attribute in producer.attributes.items():
        if name == "value":
            return attribute.as_tensor()
        if name == "value_float":
            return ir.tensor(np.array(attribute.as_float(), np.float32))
        if name == "value_int":
            return ir.tensor(np.array(attribute.as_int(), np.int64))
        if name == "value_floats":
            return ir.tensor(np.array(attribute.as_floats(), np.float32))
        if name == "value_ints":
            return ir.tensor(np.array(attribute.as_ints(), np.int64))
    return None


def release(tensor: ir.TensorProtocol) -> None:
    """Drop the memory map behind a tensor of an external file; it is mapped again when it is next read."""
    drop = getattr(tensor, "release", None)
    if drop is not None:
        drop()


class Constants:
    """Reads constants on demand and remembers what was learnt about each tensor.

    Tensors are identified by object: passes replace a tensor, they never write into one.
    """

    def __init__(self) -> None:
        self._arrays: dict[int, np.ndarray] = {}
        self._patterns: dict[tuple[object, ...], object] = {}
        self._alive: dict[int, ir.TensorProtocol] = {}
        self.cuts: dict[tuple[object, ...], ir.Value] = {}
        """Weights of outer graphs as a body's edit cut them, for the other bodies that read the same positions."""

    def array(self, value: ir.Value | None) -> np.ndarray | None:
        """Return a constant's array, or ``None`` when the value is not a numeric constant.

        A ``Gather`` of a constant by a constant counts as a constant: it is how cut weights look between passes.
        """
        if value is None:
            return None
        if not is_constant(value):
            return self._gathered(value)
        tensor = tensor_of(value)
        if tensor is None or tensor.dtype in (ir.DataType.STRING, ir.DataType.UNDEFINED):
            return None
        known = self._arrays.get(id(tensor))
        if known is not None:
            return known
        array = tensor.numpy()
        if array.size <= SMALL:
            self._arrays[id(tensor)] = array
            self._alive[id(tensor)] = tensor
        return array

    def tensor(self, value: ir.Value) -> ir.TensorProtocol:
        """Return the tensor of a known constant; one made of the result where it is a gather of a constant."""
        tensor = tensor_of(value) if is_constant(value) else None
        if tensor is not None:
            return tensor
        array = self.array(value)
        assert array is not None
        return ir.Tensor(array)

    def release(self, value: ir.Value) -> None:
        """Drop the mapped memory behind a large constant that has just been read."""
        tensor = tensor_of(value) if is_constant(value) else None
        if tensor is not None and tensor.size > SMALL:
            release(tensor)

    def size(self, value: ir.Value) -> int | None:
        """Return the number of elements of a constant without reading it."""
        tensor = tensor_of(value) if is_constant(value) else None
        return None if tensor is None else int(tensor.size)

    def known(self, value: ir.Value | None) -> bool:
        """Tell whether ``array`` would return something, without reading anything large."""
        if value is None:
            return False
        if is_constant(value):
            tensor = tensor_of(value)
            return tensor is not None and tensor.dtype not in (ir.DataType.STRING, ir.DataType.UNDEFINED)
        producer = value.producer()
        return (
            producer is not None
            and producer.op_type == "Gather"
            and producer.domain == ""
            and all(self.known(operand) for operand in producer.inputs)
        )

    def ints(self, value: ir.Value | None) -> list[int] | None:
        """Return a small integer constant as a flat list."""
        if value is None or not is_constant(value):
            return None
        tensor = tensor_of(value)
        if tensor is None or tensor.size > SMALL or tensor.dtype not in (ir.DataType.INT64, ir.DataType.INT32):
            return None
        array = self.array(value)
        return None if array is None else [int(x) for x in array.ravel()]

    def uniform(self, value: ir.Value, axis: int) -> tuple[np.ndarray, np.ndarray] | None:
        """Return (mask, fill), each ``[n]``: slice ``p`` of ``axis`` holds ``fill[p]`` everywhere if ``mask[p]``."""

        def compute(array: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            count = array.shape[axis]
            if array.size == 0:
                return np.zeros(count, bool), np.zeros(count, array.dtype)
            rows = np.moveaxis(array, axis, 0).reshape(count, -1)
            fill = rows[:, 0].copy()
            return (rows == fill[:, None]).all(axis=1), fill

        return self._pattern(value, ("uniform", axis), compute)

    def single(self, value: ir.Value) -> np.ndarray | None:
        """Return the one value (0-d array) that a constant holds everywhere, or ``None``."""

        def compute(array: np.ndarray) -> np.ndarray | None:
            if array.size == 0:
                return None
            first = array.reshape(-1)[0]
            return first if bool((array == first).all()) else None

        return self._pattern(value, ("single",), compute)

    def nonzero(self, value: ir.Value, rows: int, columns: int) -> np.ndarray | None:
        """Return the boolean matrix ``[rows, columns]``: is any weight between the two not zero? NaN is not zero."""

        def compute(array: np.ndarray) -> np.ndarray:
            rest = tuple(i for i in range(array.ndim) if i not in (rows, columns))
            found = (array != 0).any(axis=rest)
            return found if rows < columns else found.T

        size = self.size(value) or 0
        if size <= SMALL:
            return self._pattern(value, ("nonzero", rows, columns), compute)

        def pack(array: np.ndarray) -> tuple[np.ndarray, tuple[int, ...]]:
            found = compute(array)
            return np.packbits(found), found.shape

        packed = self._pattern(value, ("packed", rows, columns), pack)
        if packed is None:
            return None
        bits, shape = packed
        return np.unpackbits(bits, count=int(np.prod(shape))).astype(bool).reshape(shape)

    def finite(self, value: ir.Value) -> bool | None:
        """Tell whether every element is finite; ``None`` when the value is not a numeric constant."""

        def compute(array: np.ndarray) -> bool:
            if array.dtype.kind in "iub":
                return True
            return bool(np.isfinite(array).all())

        return self._pattern(value, ("finite",), compute)

    def _pattern(
        self, value: ir.Value, key: tuple[object, ...], compute: Callable[[np.ndarray], Found]
    ) -> Found | None:
        tensor = tensor_of(value) if is_constant(value) else None
        if tensor is None:
            array = self.array(value)
            return None if array is None else compute(array)
        full_key = (id(tensor), *key)
        if full_key not in self._patterns:
            array = self.array(value)
            if array is None:
                return None
            self._patterns[full_key] = compute(array)
            self._alive[id(tensor)] = tensor
            if array.size > SMALL:
                release(tensor)
        return cast("Found", self._patterns[full_key])

    def _gathered(self, value: ir.Value) -> np.ndarray | None:
        producer = value.producer()
        if producer is None or producer.op_type != "Gather" or producer.domain != "" or not self.known(value):
            return None
        data, index = self.array(producer.inputs[0]), self.array(producer.inputs[1])
        if data is None or index is None:
            return None
        axis = producer.attributes.get_int("axis", 0)
        return np.take(data, index, axis=axis)
