"""Scatters in a graph, read from the standard operators that they are written in."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from graphopt import dims
from graphopt.facts.constants import is_constant
from graphopt.readers import only_reader

if TYPE_CHECKING:
    from graphopt.context import Context


@dataclass(frozen=True)
class Scatter:
    """Position ``j`` of an axis holds update ``places[j]``, or ``fill[j]`` where that is negative.

    Attributes:
        updates: What is scattered.
        axis: Along which axis, from 0.
        places: ``[size]``.
        fill: ``[size]``, of the value's type.
        producers: How many operators it is written in.
    """

    updates: ir.Value
    axis: int
    places: np.ndarray
    fill: np.ndarray
    producers: int

    @property
    def once(self) -> bool:
        """Whether every update is somewhere, and nowhere twice."""
        known = dims.sizes(self.updates)
        count = None if known is None else known[self.axis]
        found = self.places[self.places >= 0]
        return count == found.size == np.unique(found).size

    def indices(self) -> np.ndarray:
        """Return ``[k]``: where each update goes; only if it is ``once``."""
        positions = np.flatnonzero(self.places >= 0)
        order = np.argsort(self.places[positions])
        return positions[order].astype(np.int64)


def read_scatter(value: ir.Value, context: Context) -> Scatter | None:
    """Return the scatter that a value is; None if it is none.

    Read are ``Pad`` along one axis, ``Gather`` with constant indices behind it, ``ScatterND`` of rows (between
    transposes) into constant fills, and the constant fills that are added behind any of them. What lies between has no
    other reader.
    """
    node = value.producer()
    if node is None or node.domain not in ("", "ai.onnx") or value is not node.outputs[0]:
        return None
    read = {"Pad": _pad, "Gather": _gather, "Add": _add, "Transpose": _transposed, "ScatterND": _rows}.get(node.op_type)
    return None if read is None else read(node, context)


def _array(node: ir.Node, position: int, context: Context) -> np.ndarray | None:
    value = node.inputs[position] if position < len(node.inputs) else None
    return context.constants.array(value) if value is not None and is_constant(value) else None


def _inner(node: ir.Node, position: int) -> ir.Value | None:
    """Return an input that nothing else reads."""
    value = node.inputs[position] if position < len(node.inputs) else None
    return value if value is not None and only_reader(value) is node else None


def _pad(node: ir.Node, context: Context) -> Scatter | None:
    x = node.inputs[0]
    known = None if x is None else dims.sizes(x)
    pads = _array(node, 1, context)
    if x is None or known is None or pads is None or node.attributes.get_string("mode", "constant") != "constant":
        return None
    rank = len(known)
    if (len(node.inputs) > 3 and node.inputs[3] is not None) or pads.size != 2 * rank or pads.min(initial=0) < 0:
        return None
    axes = np.flatnonzero(pads.reshape(2, rank).any(axis=0))
    given = len(node.inputs) > 2 and node.inputs[2] is not None
    fill = _array(node, 2, context) if given else np.zeros((), _numpy(x))
    if axes.size != 1 or fill is None:
        return None
    axis = int(axes[0])
    count = known[axis]
    if not isinstance(count, int):
        return None
    before, after = int(pads[axis]), int(pads[rank + axis])
    places = np.concatenate([np.full(before, -1), np.arange(count), np.full(after, -1)]).astype(np.int64)
    return Scatter(x, axis, places, np.full(places.size, fill.reshape(()), _numpy(x)), 1)


def _gather(node: ir.Node, context: Context) -> Scatter | None:
    x, index = _inner(node, 0), _array(node, 1, context)
    inner = None if x is None or index is None else read_scatter(x, context)
    if inner is None or index is None or index.ndim != 1:
        return None
    axis = node.attributes.get_int("axis", 0) % len(dims.sizes(inner.updates) or (0,))
    size = inner.places.size
    if axis != inner.axis or (index.size and (index.min() < -size or index.max() >= size)):
        return None
    index = index % size if size else index
    return replace(inner, places=inner.places[index], fill=inner.fill[index], producers=inner.producers + 1)


def _add(node: ir.Node, context: Context) -> Scatter | None:
    """Fills may be added where nothing is written, and nothing elsewhere."""
    for position in (0, 1):
        added, x = _array(node, 1 - position, context), _inner(node, position)
        inner = None if added is None or x is None else read_scatter(x, context)
        known = None if inner is None else dims.sizes(inner.updates)
        if inner is None or added is None or known is None:
            continue
        shape = [1] * len(known)
        shape[inner.axis] = inner.places.size
        if list(added.shape) != shape[len(shape) - added.ndim :] or added.ndim < len(shape) - inner.axis:
            continue
        flat = added.reshape(-1)
        if np.any(flat[inner.places >= 0] != 0):
            continue
        fill = (inner.fill + flat).astype(inner.fill.dtype)
        return replace(inner, fill=fill, producers=inner.producers + 1)
    return None


def _transposed(node: ir.Node, context: Context) -> Scatter | None:
    """``Transpose(ScatterND(fills, rows, Transpose(y)))`` scatters along the axis brought to the front."""
    x = _inner(node, 0)
    inner = None if x is None or x.producer() is None else read_scatter(x, context)
    before = None if inner is None else inner.updates.producer()  # its result may be asked for its shape, too
    if inner is None or inner.axis != 0 or before is None or before.op_type != "Transpose":
        return None
    source = before.inputs[0]
    rank = len(dims.sizes(inner.updates) or ())
    usual = tuple(reversed(range(rank)))
    there = before.attributes.get_ints("perm", usual)
    here = node.attributes.get_ints("perm", usual)
    if source is None or dims.sizes(source) is None or [there[i] for i in here] != list(range(rank)):
        return None
    return replace(inner, updates=source, axis=there[0], producers=inner.producers + 2)


def _rows(node: ir.Node, context: Context) -> Scatter | None:
    data, index, updates = node.inputs[0], _array(node, 1, context), node.inputs[2]
    if data is None or index is None or updates is None or node.attributes.get_string("reduction", "none") != "none":
        return None
    wide, rows = dims.sizes(data), dims.sizes(updates)
    if wide is None or rows is None or not wide or len(wide) != len(rows) or index.ndim != 2 or index.shape[1] != 1:
        return None
    size = wide[0]
    fills = _fills(data, context)
    same = all(a == b or dims.provably_equal(a, b) for a, b in zip(wide[1:], rows[1:], strict=True))
    if not isinstance(size, int) or fills is None or fills.size != size or not same:
        return None
    flat = np.where(index[:, 0] < 0, index[:, 0] + size, index[:, 0])
    if np.unique(flat).size != flat.size or rows[0] != flat.size or not np.isin(flat, np.arange(size)).all():
        return None
    places = np.full(size, -1, np.int64)
    places[flat] = np.arange(flat.size)
    return Scatter(updates, 0, places, fills.reshape(-1).astype(_numpy(updates)), 1)


def _fills(data: ir.Value, context: Context) -> np.ndarray | None:
    """Return one number a row, if rows hold one number each."""
    node = data.producer()
    while node is not None and node.op_type in ("Expand", "Cast") and only_reader(data) is not None:
        source = node.inputs[0]
        if source is None:
            return None
        if is_constant(source):
            array = context.constants.array(source)
            return array if array is not None and array.size == (array.shape or (0,))[0] else None
        data, node = source, source.producer()
    array = context.constants.array(data) if is_constant(data) else None
    return array if array is not None and array.ndim == 1 else None


def _numpy(value: ir.Value) -> np.dtype:
    assert value.dtype is not None
    return value.dtype.numpy()
