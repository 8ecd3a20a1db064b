"""Giving axes another order: constants are permuted, gathers and scatters get another index."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from graphopt import dims
from graphopt.facts.constants import is_constant
from graphopt.facts.ops.contraction import geometry
from graphopt.facts.store import Spec
from graphopt.plan.order import Move, Orders
from graphopt.rewrite import moves
from graphopt.rewrite.edit import Cursor, Edit
from graphopt.rewrite.unused import remove_unused


def permute(orders: Orders, edit: Edit) -> int:
    """Carry out the orders; return how many gathers and scatters became ranges."""
    own = {move.node for move in orders.moves}
    for node in list(edit.graph):
        spec = edit.facts.specs.get(node)
        if spec is not None and node not in own:
            _constants(node, spec, orders, edit)
    became = sum(_move(move, orders, edit) for move in orders.moves)
    remove_unused(edit.graph)
    return became


def _constants(node: ir.Node, spec: Spec, orders: Orders, edit: Edit) -> None:
    geo = geometry(spec)
    for operand, value in enumerate(node.inputs):
        if value is None or not is_constant(value) or operand in spec.unread:
            continue
        wanted: dict[int, np.ndarray] = {}
        for link in spec.of_operand(operand):
            perm = orders.of(node.outputs[link.out], link.out_axis)
            if perm is not None and (dims.static(value) or ())[link.axis] == perm.size:
                wanted[link.axis] = perm
        if geo is not None and operand == geo.w and (x := node.inputs[geo.x]) is not None:
            perm = orders.of(x, geo.x_axis)
            if perm is not None:
                wanted[geo.w_in] = perm
        if wanted:
            node.replace_input_with(operand, edit.cut(value, wanted))


def _move(move: Move, orders: Orders, edit: Edit) -> bool:
    index = orders.index(move)
    if np.array_equal(index, move.index):
        return False
    out = move.out
    # What it reads may itself have been a move, and have got a stand-in.
    source = (move.pad or move.node).inputs[0]
    assert source is not None
    users = list(out.uses())
    place = Cursor(edit.graph, after=move.node)
    if move.scatters:
        inside = np.flatnonzero(index >= 0)
        positions = np.empty(inside.size, np.int64)
        positions[index[inside]] = inside
        fill = np.zeros(index.size, out.dtype.numpy() if out.dtype is not None else np.float32)
        result = moves.padded(edit, source, move.axis, positions, index.size, fill, place, out)
    elif index.size and edit.facts.opset >= 10 and bool((np.diff(index) == 1).all()):
        result = moves.cut_range(edit, source, move.axis, int(index[0]), int(index.size), place, out)
    else:
        result = moves.gather(edit, source, move.axis, index, place, out)
    edit.stand_in(out, result, users)
    return not move.simple and Move(move.node, None, move.source, out, move.axis, index).simple
