"""Scatters that stay are written in the form that runs fastest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from graphopt import dims
from graphopt.context import Context
from graphopt.facts.constants import is_constant
from graphopt.readers import only_reader
from graphopt.rewrite import moves
from graphopt.rewrite.edit import Cursor, Edit

PADDED = frozenset(
    {ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.INT32, ir.DataType.INT64, ir.DataType.UINT8, ir.DataType.INT8}
)
"""Types that onnxruntime's CPU provider pads."""


@dataclass(frozen=True)
class LowerScatters:
    """Write a canonical scatter as Pad, Gather and Add, which run faster than ScatterND between transposes.

    1. ``Transpose -> ScatterND(Expand(fill), rows) -> Transpose`` along one axis becomes ``Pad`` where the positions
       are one range, else ``Pad`` by one position and ``Gather`` with an index map.
    2. Fills that are not zero are added behind it.

    *Never* where the rows that are not written are computed, or for types that onnxruntime does not pad.

    *Needs* nothing; comes last, for the other passes read the canonical form as well as this one.

    ``ScatterND(fills, rows, y)`` -> ``Gather(Pad(y), map) + fills``
    """

    name: ClassVar[str] = "lower-scatters"

    def run(self, context: Context) -> bool:
        """Run on every graph."""
        return context.everywhere(lambda: self._run(context))

    def _run(self, context: Context) -> bool:
        found = [node for node in context.graph if node.op_type == "ScatterND" and node.domain == ""]
        if not found:
            return False
        edit = Edit(context.bare(), "composed", cut_weights=True)
        lowered = sum(_lower(node, edit, context) for node in found)
        return context.record({"lowered": lowered})


def _lower(node: ir.Node, edit: Edit, context: Context) -> bool:
    data, index, updates = node.inputs[:3]
    out = node.outputs[0]
    spread = None if data is None else data.producer()
    if data is None or index is None or updates is None or out.dtype not in PADDED or out.is_graph_output():
        return False
    if node.attributes.get_string("reduction", "none") != "none" or not is_constant(index):
        return False
    if spread is None or spread.op_type != "Expand" or spread.inputs[0] is None:
        fills = context.constants.array(data) if is_constant(data) and dims.rank(data) == 1 else None
    else:
        fills = context.constants.array(spread.inputs[0]) if is_constant(spread.inputs[0]) else None
    known, positions = dims.static(data), context.constants.array(index)
    if fills is None or known is None or positions is None or known[0] is None or positions.shape[1:] != (1,):
        return False
    flat = positions[:, 0].astype(np.int64)
    flat = np.where(flat < 0, flat + known[0], flat)
    rank = len(known)
    if flat.size and not (flat.min() >= 0 and flat.max() < known[0]):
        return False
    if fills.size != known[0] or fills.shape[:1] != (known[0],) or not (np.diff(flat) > 0).all() or rank == 0:
        return False
    rows = dims.sizes(updates)
    wide = dims.sizes(data)
    if (
        rows is None
        or wide is None
        or not all(dims.provably_equal(a, b) or a == b for a, b in zip(rows[1:], wide[1:], strict=True))
    ):
        return False
    back = only_reader(out)
    before = updates.producer()
    axis, source, target = 0, updates, node
    if (
        back is not None
        and back.op_type == "Transpose"
        and before is not None
        and before.op_type == "Transpose"
        and before.inputs[0] is not None
    ):
        there = before.attributes.get_ints("perm", tuple(reversed(range(rank))))
        here = back.attributes.get_ints("perm", tuple(reversed(range(rank))))
        if [there[i] for i in here] == list(range(rank)):
            axis, source, target = there[0], before.inputs[0], back
    last = target.outputs[0]
    if axis == 0 and last.is_graph_output():
        return False
    users = list(last.uses())
    fill = fills.reshape(-1)
    place = Cursor(edit.graph, before=node) if target is node else Cursor(edit.graph, before=target)
    result = moves.padded(edit, source, axis, flat, known[0], fill, place, last)
    edit.stand_in(last, result, users)
    return True
