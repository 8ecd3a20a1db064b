"""The gathers and scatters that an edit emits, in the form that stays readable between passes.

A scatter along any axis is ``Transpose -> ScatterND -> Transpose`` (no transposes for the first axis): the dense
value's rows are written over rows of fills, which ``Expand`` makes as large as the other axes turn out to be at run
time. ``passes/lower`` turns this canonical form into what runs fastest.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from graphopt import dims

if TYPE_CHECKING:
    from graphopt.rewrite.edit import Cursor, Edit


ROLE = "graphopt.role"
"""Metadata key of nodes that an edit inserted to move positions."""


def gather(edit: Edit, value: ir.Value, axis: int, index: np.ndarray, place: Cursor, named: ir.Value) -> ir.Value:
    """Select positions ``index`` (``[k]``) of ``axis``."""
    indices = edit.constant(index.astype(np.int64), f"{named.name}_index")
    known = list(dims.sizes(value) or ())
    known[axis] = int(index.size)
    edit.counts["gathers"] += 1
    base = f"{named.name}_gathered"
    result = edit.node("Gather", [value, indices], place, base, known, named, [ir.AttrInt64("axis", axis)])
    return _tagged(result, "gather")


def cut_range(
    edit: Edit, value: ir.Value, axis: int, start: int, count: int, place: Cursor, named: ir.Value
) -> ir.Value:
    """Select ``count`` positions of ``axis`` from ``start`` on."""
    known = list(dims.sizes(value) or ())
    known[axis] = count
    numbers: list[ir.Value | None] = [
        edit.constant(np.array([number], np.int64), f"{named.name}_{what}")
        for what, number in (("start", start), ("end", start + count), ("axis", axis))
    ]
    edit.counts["gathers"] += 1
    result = edit.node("Slice", [value, *numbers], place, f"{named.name}_gathered", known, named)
    return _tagged(result, "gather")


def scatter(
    edit: Edit,
    value: ir.Value,
    axis: int,
    index: np.ndarray,
    size: int,
    fill: np.ndarray,
    place: Cursor,
    named: ir.Value,
) -> ir.Value:
    """Write a dense value to positions ``index`` (``[k]``) of an axis; the others hold ``fill`` (``[size]``)."""
    edit.counts["scatters"] += 1
    known = list(dims.sizes(value) or ())
    rank = len(known)
    base = str(named.name)
    if edit.facts.opset < 11:
        return padded(edit, value, axis, index, size, fill, place, named)
    front = value
    order = [axis, *(i for i in range(rank) if i != axis)]
    turned = [known[i] for i in order]
    if axis != 0:
        perm = ir.AttrInt64s("perm", order)
        front = edit.node("Transpose", [value], place, f"{base}_rows", turned, named, [perm])
    wide = [size, *turned[1:]]
    dtype = named.dtype or ir.DataType.FLOAT
    rows = edit.constant(fill.reshape([size] + [1] * (rank - 1)), f"{base}_fill", dtype)
    data = _rows(edit, rows, front, size, wide, place, named)
    indices = edit.constant(index.astype(np.int64)[:, None], f"{base}_positions")
    scattered_base = f"{base}_scattered"
    result = _tagged(edit.node("ScatterND", [data, indices, front], place, scattered_base, wide, named), "scatter")
    if axis != 0:
        back = [order.index(i) for i in range(rank)]
        shape = [wide[i] for i in back]
        result = edit.node("Transpose", [result], place, scattered_base, shape, named, [ir.AttrInt64s("perm", back)])
    return result


def has_scatters(graph: ir.Graph) -> bool:
    """Tell whether a graph holds scatters in the canonical form."""
    return any(node.op_type == "ScatterND" and node.metadata_props.get(ROLE) == "scatter" for node in graph)


def _tagged(value: ir.Value, role: str) -> ir.Value:
    """Mark the node that makes a value as a scatter or a gather of ours; the mark travels with the model."""
    producer = value.producer()
    assert producer is not None
    producer.metadata_props[ROLE] = role
    return value


def _rows(
    edit: Edit, rows: ir.Value, front: ir.Value, size: int, wide: list[dims.Size], place: Cursor, named: ir.Value
) -> ir.Value:
    """Expand one fill per row to whole rows."""
    base = str(named.name)
    if len(wide) == 1:
        return rows
    if all(isinstance(dim, int) for dim in wide[1:]):
        target = edit.constant(np.array(wide, np.int64), f"{base}_shape")
    else:
        int64 = ir.DataType.INT64
        shape = edit.node("Shape", [front], place, f"{base}_shape", [len(wide)], named, dtype=int64)
        rest = edit.node(
            "Slice",
            [shape, edit.constant(np.array([1]), "from_1"), edit.constant(np.array([len(wide)]), f"to_{len(wide)}")],
            place,
            f"{base}_rest",
            [len(wide) - 1],
            named,
            dtype=int64,
        )
        count = edit.constant(np.array([size]), f"size_{size}")
        concat = [ir.AttrInt64("axis", 0)]
        target = edit.node("Concat", [count, rest], place, f"{base}_shape", [len(wide)], named, concat, int64)
    if named.dtype == ir.DataType.BFLOAT16:  # onnxruntime moves these numbers, but does not expand them
        wider = edit.node(
            "Cast", [rows], place, f"{base}_fill", None, named, [ir.AttrInt64("to", 1)], ir.DataType.FLOAT
        )
        wider = edit.node("Expand", [wider, target], place, f"{base}_fills", wide, named, dtype=ir.DataType.FLOAT)
        return edit.node("Cast", [wider], place, f"{base}_fills", wide, named, [ir.AttrInt64("to", 16)])
    return edit.node("Expand", [rows, target], place, f"{base}_fills", wide, named)


def padded(
    edit: Edit,
    value: ir.Value,
    axis: int,
    index: np.ndarray,
    size: int,
    fill: np.ndarray,
    place: Cursor,
    named: ir.Value,
) -> ir.Value:
    """Scatter as ``Pad`` (one position of zeros), ``Gather`` (an index map), ``Add`` (the fills that are not zero).

    Where the positions are one range, ``Pad`` alone does it. Bytes are padded with their zero point, and selected where
    there are several, for they are not added before opset 14.
    """
    known = list(dims.sizes(value) or ())
    rank = len(known)
    base = str(named.name)
    count = int(index.size)
    lowest = int(index[0]) if count else 0
    zeros = np.asarray(fill).copy()
    zeros[index] = 0
    with_bytes = named.dtype in (ir.DataType.UINT8, ir.DataType.INT8)
    point = np.unique(np.delete(fill, index)) if with_bytes and edit.facts.opset >= 11 else None
    if point is not None and point.size == 1 and point[0] != 0:
        zeros[:] = 0
    else:
        point = None
    if np.array_equal(index, np.arange(lowest, lowest + count)):
        known[axis] = size
        result = _tagged(
            _pad(edit, value, axis, rank, lowest, size - lowest - count, place, named, known, point), "scatter"
        )
    else:
        known[axis] = count + 1
        wider = _pad(edit, value, axis, rank, 0, 1, place, named, known, point)
        places = np.full(size, count)
        places[index] = np.arange(count)
        indices = edit.constant(places.astype(np.int64), f"{base}_places")
        known[axis] = size
        attributes = [ir.AttrInt64("axis", axis)]
        result = edit.node("Gather", [wider, indices], place, f"{base}_scattered", known, named, attributes)
        _tagged(result, "scatter")
    if np.any(zeros != 0):
        shape = [1] * rank
        shape[axis] = size
        fills = edit.constant(zeros.reshape(shape), f"{base}_fill", named.dtype)
        if with_bytes and edit.facts.opset < 14:
            mask = np.ones(size, bool)
            mask[index] = False
            inputs: list[ir.Value | None] = [edit.constant(mask.reshape(shape), f"{base}_filled"), fills, result]
            return _tagged(edit.node("Where", inputs, place, f"{base}_filled", known, named), "fill")
        result = _tagged(edit.node("Add", [result, fills], place, f"{base}_filled", known, named), "fill")
    return result


def _pad(
    edit: Edit,
    value: ir.Value,
    axis: int,
    rank: int,
    before: int,
    after: int,
    place: Cursor,
    named: ir.Value,
    shape: list[dims.Size],
    point: np.ndarray | None = None,
) -> ir.Value:
    pads = np.zeros(2 * rank, np.int64)
    pads[axis], pads[rank + axis] = before, after
    base = f"{named.name}_padded"
    if edit.facts.opset < 11:
        return edit.node("Pad", [value], place, base, shape, named, [ir.AttrInt64s("pads", pads.tolist())])
    inputs: list[ir.Value | None] = [value, edit.constant(pads, f"{base}_pads")]
    if point is not None:
        inputs.append(edit.constant(point.reshape(()), f"{base}_fill", named.dtype))
    return edit.node("Pad", inputs, place, base, shape, named)
