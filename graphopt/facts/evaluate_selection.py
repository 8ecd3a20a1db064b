"""Values of constant expressions that choose, place and order: masks made of indices, of the largest scores, of parts.

Nothing is rounded here: what comes out is, number for number, what every runtime moves to the same place.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx_ir as ir

from graphopt import dims

Arrays = Sequence[np.ndarray | None]

_REDUCTIONS: dict[str, np.ufunc] = {"add": np.add, "mul": np.multiply, "max": np.maximum, "min": np.minimum}
"""What ``ScatterElements`` and ``ScatterND`` may do with what is there already; otherwise they overwrite it."""


def _first(arrays: Arrays) -> np.ndarray:
    assert arrays[0] is not None
    return arrays[0]


def _given(arrays: Arrays, position: int) -> np.ndarray | None:
    return arrays[position] if position < len(arrays) else None


def _number(arrays: Arrays, position: int, default: int) -> int:
    array = _given(arrays, position)
    return default if array is None else int(array.reshape(-1)[0])


def order(array: np.ndarray, axis: int, largest: bool) -> np.ndarray:
    """Return the indices that sort an axis, the first of equal numbers first."""
    if not largest:
        return np.argsort(array, axis=axis, kind="stable")
    size = array.shape[axis]
    backwards = np.argsort(np.flip(array, axis), axis=axis, kind="stable")
    return size - 1 - np.flip(backwards, axis)


def _top(node: ir.Node, arrays: Arrays) -> list[np.ndarray]:
    data = _first(arrays)
    axis = node.attributes.get_int("axis", -1)
    count = node.attributes.get_int("k", 0) if "k" in node.attributes else _number(arrays, 1, 0)
    places = order(data, axis, bool(node.attributes.get_int("largest", 1)))
    places = np.take(places, np.arange(count), axis=axis)
    return [np.take_along_axis(data, places, axis), places]


def _arg(node: ir.Node, arrays: Arrays) -> np.ndarray:
    data, axis = _first(arrays), node.attributes.get_int("axis", 0)
    last = bool(node.attributes.get_int("select_last_index", 0))
    seen = np.flip(data, axis) if last else data
    place = (np.argmax if node.op_type == "ArgMax" else np.argmin)(seen, axis=axis)
    place = data.shape[axis] - 1 - place if last else place
    return np.expand_dims(place, axis) if node.attributes.get_int("keepdims", 1) else place


def _scatter_elements(node: ir.Node, arrays: Arrays) -> np.ndarray:
    data, indices, updates = arrays
    assert data is not None and indices is not None and updates is not None
    axis, result = node.attributes.get_int("axis", 0) % data.ndim, data.copy()
    where: list[np.ndarray] = list(np.indices(indices.shape, sparse=True))
    where[axis] = np.where(indices < 0, indices + data.shape[axis], indices)
    return _placed(node, result, tuple(where), updates)


def _scatter_nd(node: ir.Node, arrays: Arrays) -> np.ndarray:
    data, indices, updates = arrays
    assert data is not None and indices is not None and updates is not None
    return _placed(node, data.copy(), tuple(np.moveaxis(indices, -1, 0)), updates)


def _placed(node: ir.Node, result: np.ndarray, where: tuple[np.ndarray, ...], updates: np.ndarray) -> np.ndarray:
    reduction = _REDUCTIONS.get(node.attributes.get_string("reduction", "none"))
    if reduction is None:
        result[where] = updates
    else:
        reduction.at(result, where, updates)
    return result


def _gather_elements(node: ir.Node, arrays: Arrays) -> np.ndarray:
    data, indices = _first(arrays), arrays[1]
    assert indices is not None
    axis = node.attributes.get_int("axis", 0) % data.ndim
    where: list[np.ndarray] = list(np.indices(indices.shape, sparse=True))
    where[axis] = indices
    return data[tuple(where)]


def _gather_nd(node: ir.Node, arrays: Arrays) -> np.ndarray:
    assert arrays[1] is not None
    return _first(arrays)[tuple(np.moveaxis(arrays[1], -1, 0))]


def _one_hot(node: ir.Node, arrays: Arrays) -> np.ndarray:
    indices, depth, values = arrays
    assert indices is not None and depth is not None and values is not None
    size, axis = int(depth.reshape(-1)[0]), node.attributes.get_int("axis", -1)
    axis = axis + indices.ndim + 1 if axis < 0 else axis
    wanted = np.expand_dims(np.where(indices < 0, indices + size, indices), axis)
    shape = [1] * wanted.ndim
    shape[axis] = size
    return np.where(np.arange(size).reshape(shape) == wanted, values[1], values[0])


def _non_zero(node: ir.Node, arrays: Arrays) -> np.ndarray:
    return np.array(np.nonzero(_first(arrays)), np.int64)


def _compress(node: ir.Node, arrays: Arrays) -> np.ndarray:
    assert arrays[1] is not None
    axis = node.attributes.get_int("axis", 0) if "axis" in node.attributes else None
    return np.compress(arrays[1].astype(bool), _first(arrays), axis=axis)


def _triangle(node: ir.Node, arrays: Arrays) -> np.ndarray:
    half = np.triu if node.attributes.get_int("upper", 1) else np.tril
    return half(_first(arrays), _number(arrays, 1, 0))


def _eye(node: ir.Node, arrays: Arrays) -> np.ndarray:
    rows, columns = _first(arrays).shape
    return np.eye(rows, columns, node.attributes.get_int("k", 0))


def _size(node: ir.Node, arrays: Arrays) -> np.ndarray:
    return np.array(_first(arrays).size, np.int64)


def _split(node: ir.Node, arrays: Arrays) -> list[np.ndarray]:
    data, axis, parts = _first(arrays), node.attributes.get_int("axis", 0), len(node.outputs)
    given = _given(arrays, 1)
    if given is not None:
        sizes = [int(size) for size in given]
    elif "split" in node.attributes:
        sizes = list(node.attributes.get_ints("split", ()))
    else:
        sizes = [-(-data.shape[axis] // parts)] * parts
    return np.split(data, np.cumsum(sizes)[:-1], axis=axis)


def _pad(node: ir.Node, arrays: Arrays) -> np.ndarray:
    data, given, axes = _first(arrays), _given(arrays, 1), _given(arrays, 3)
    amounts = list(node.attributes.get_ints("pads", ())) if given is None else [int(amount) for amount in given]
    padded = list(range(data.ndim)) if axes is None else [int(axis) % data.ndim for axis in axes]
    pads = [(0, 0)] * data.ndim
    for axis, before, behind in zip(padded, amounts[: len(padded)], amounts[len(padded) :], strict=True):
        pads[axis] = (before, behind)
    value = _given(arrays, 2)
    fill = node.attributes.get_float("value", 0.0) if value is None else value.reshape(-1)[0]
    grown = np.pad(data, [(max(a, 0), max(b, 0)) for a, b in pads], constant_values=fill)
    return grown[tuple(slice(max(-a, 0), size - max(-b, 0)) for (a, b), size in zip(pads, grown.shape, strict=True))]


def evaluable(node: ir.Node) -> bool:
    """Tell whether what the attributes ask for is among what is computed here."""
    attributes, rank = node.attributes, dims.rank(node.inputs[0]) if node.inputs else None
    if node.op_type == "TopK":  # the order of what is not sorted is the runtime's own
        return bool(attributes.get_int("sorted", 1))
    if node.op_type == "Pad":
        return attributes.get_string("mode", "constant") == "constant"
    if node.op_type == "GatherND":
        return attributes.get_int("batch_dims", 0) == 0
    return node.op_type != "NonZero" or bool(rank)


SELECTION: dict[str, Callable[[ir.Node, Arrays], np.ndarray | list[np.ndarray]]] = {
    "ArgMax": _arg,
    "ArgMin": _arg,
    "Compress": _compress,
    "EyeLike": _eye,
    "GatherElements": _gather_elements,
    "GatherND": _gather_nd,
    "NonZero": _non_zero,
    "OneHot": _one_hot,
    "Pad": _pad,
    "Scatter": _scatter_elements,
    "ScatterElements": _scatter_elements,
    "ScatterND": _scatter_nd,
    "Size": _size,
    "Split": _split,
    "TopK": _top,
    "Trilu": _triangle,
}
"""Operators by name; those with several outputs return a list."""
