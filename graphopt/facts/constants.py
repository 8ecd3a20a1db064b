"""What is known about constants: their arrays, which slices are uniform, which weights are zero.

Patterns are small (one bit a weight at most) and kept; arrays of large tensors are read, used and released, so that the
memory of an analysis does not grow with the size of the model.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar, cast

import numpy as np
import onnx_ir as ir

from graphopt import dims
from graphopt.facts.quantization import axis_of, dequantized, spread

Found = TypeVar("Found")

MICROSOFT = "com.microsoft"
"""The domain of onnxruntime's contributed operators."""

COMPUTED = frozenset({("", "Gather"), ("", "DequantizeLinear"), (MICROSOFT, "DequantizeLinear")})
"""Operators of constants whose results count as constants: cut weights, and weights that are stored as integers."""

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


def stored(value: ir.Value | None) -> ir.Node | None:
    """Return the ``DequantizeLinear`` that makes a value, or ``None``; see ``Constants.known``."""
    node = None if value is None or is_constant(value) else value.producer()
    return node if node is not None and node.op_type == "DequantizeLinear" else None


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

        A ``Gather`` of a constant by a constant counts as a constant: it is how cut weights look between passes. So
        does a ``DequantizeLinear`` of one: a weight that is stored as integers, and stays so.
        """
        if value is None:
            return None
        if not is_constant(value):
            return self._computed(value)
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
        """Return the tensor of a known constant; one made of the result where it is computed from constants."""
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
        if tensor is not None:
            return int(tensor.size)
        known = dims.static(value) if self.known(value) else None
        return None if known is None or None in known else int(np.prod([size or 0 for size in known], dtype=np.int64))

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
            and (producer.domain, producer.op_type) in COMPUTED
            and all(operand is None or self.known(operand) for operand in producer.inputs)
            and (producer.op_type != "Gather" or self.reaches(producer.inputs[0], producer))
        )

    def reaches(self, table: ir.Value | None, gather: ir.Node) -> bool:
        """Tell whether the constant indices of a ``Gather`` all lie inside its axis; else it means nothing."""
        known, axis, index = dims.static(table), gather.attributes.get_int("axis", 0), gather.inputs[1]
        if known is None or index is None or not -len(known) <= axis < len(known):
            return False

        def ends(array: np.ndarray) -> tuple[int, int]:
            return (int(array.min()), int(array.max())) if array.size else (0, -1)

        found, size = self._pattern(index, ("ends",), ends), known[axis]
        return found is not None and size is not None and -size <= found[0] and found[1] < size

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

    def in_rows(self, value: ir.Value | None) -> bool:
        """Tell whether rows (along axis 0) of a constant can be cut one by one: no scales lie along another axis."""
        node = stored(value)
        if node is None or node.inputs[1] is None or self.size(node.inputs[1]) == 1:
            return True
        zero = self.array(node.inputs[2]) if len(node.inputs) > 2 else None
        uneven = zero is not None and bool((zero != zero.reshape(-1)[:1]).any())
        return not uneven and not node.attributes.get_int("block_size", 0) and axis_of(node, dims.rank(value) or 0) == 0

    def single(self, value: ir.Value) -> np.ndarray | None:
        """Return the one value (0-d array) that a constant holds everywhere, or ``None``."""

        def compute(array: np.ndarray) -> np.ndarray | None:
            if array.size == 0:
                return None
            first = array.reshape(-1)[0]
            return first if bool((array == first).all()) else None

        return self._pattern(value, ("single",), compute)

    def nonzero(self, value: ir.Value, rows: int, columns: int, zero: np.ndarray | None = None) -> np.ndarray | None:
        """Return the boolean matrix ``[rows, columns]``: is any weight between the two not zero? NaN is not zero.

        Of integers, ``zero`` (which broadcasts against them) may be their zero point.
        """
        first, second = sorted((rows, columns))

        def compute(array: np.ndarray) -> np.ndarray:
            rest = tuple(i for i in range(array.ndim) if i not in (rows, columns))
            return (array != (0 if zero is None else zero)).any(axis=rest)

        def turned(found: np.ndarray) -> np.ndarray:
            return found if rows < columns else found.T

        size = self.size(value) or 0
        point = None if zero is None else (zero.shape, zero.tobytes())
        if size <= SMALL:
            found = self._pattern(value, ("nonzero", first, second, point), compute)
            return None if found is None else turned(found)

        def pack(array: np.ndarray) -> tuple[np.ndarray, tuple[int, ...]]:
            found = compute(array)
            return np.packbits(found), found.shape

        packed = self._pattern(value, ("packed", first, second, point), pack)
        if packed is None:
            return None
        bits, shape = packed
        return turned(np.unpackbits(bits, count=int(np.prod(shape))).astype(bool).reshape(shape))

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
        read: list[ir.TensorProtocol] = []
        identity = self._identity(value, read)
        if identity is None:
            return None
        full_key = (identity, *key)
        if full_key not in self._patterns:
            array = self.array(value)
            if array is None:
                return None
            self._patterns[full_key] = compute(array)
            for tensor in read:
                self._alive[id(tensor)] = tensor
                if tensor.size > SMALL:
                    release(tensor)
        return cast("Found", self._patterns[full_key])

    def _identity(self, value: ir.Value | None, read: list[ir.TensorProtocol]) -> object:
        """Return what tells a constant from others, ``None`` for anything else; collects the tensors it is made of."""
        if value is None:
            return ()
        if is_constant(value):
            tensor = tensor_of(value)
            if tensor is None:
                return None
            read.append(tensor)
            return id(tensor)
        producer = value.producer()
        if producer is None or (producer.domain, producer.op_type) not in COMPUTED:
            return None
        operands = tuple(self._identity(operand, read) for operand in producer.inputs)
        numbers = tuple(producer.attributes.get_int(name, -1) for name in ("axis", "block_size"))
        return None if None in operands else (producer.op_type, "axis" in producer.attributes, numbers, operands)

    def _computed(self, value: ir.Value) -> np.ndarray | None:
        producer = value.producer()
        if producer is None or not self.known(value):
            return None
        arrays = [self.array(operand) for operand in producer.inputs]
        first, second = arrays[:2]
        if first is None or second is None:
            return None
        if producer.op_type == "Gather":
            return np.take(first, second, axis=producer.attributes.get_int("axis", 0))
        block, axis = producer.attributes.get_int("block_size", 0), axis_of(producer, first.ndim)
        if axis is None and second.size > 1:
            return None
        parameters = [None if p is None else spread(p, first.shape, axis, block) for p in (second, *arrays[2:3])]
        scale = parameters[0]
        assert scale is not None
        return dequantized(first, scale, parameters[1] if len(parameters) > 1 else None)
