"""Selection and replacement by indices: the index of the dense value, or nothing where that is the identity."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from graphopt import dims
from graphopt.facts.ops.gathering import Lookup
from graphopt.facts.store import Link, Spec
from graphopt.plan.classes import Layout
from graphopt.rewrite import moves
from graphopt.rewrite.edit import Cursor, Edit
from graphopt.rewrite.ops.movement import changes, dense_index, dense_size, is_identity, moved_indices, replace_by
from graphopt.rewrite.rules import by_links, outputs_narrowed, rewrites, wanted_by_links


@rewrites("Gather", "GatherND")
def gather(node: ir.Node, spec: Spec, edit: Edit) -> None:
    """Constant indices become those of the dense value; axes that are not looked up pass by their links."""
    out = node.outputs[0]
    if isinstance(spec.extra, Lookup):
        _look_up(node, spec, spec.extra, edit)
        return
    prepared = moved_indices(node, spec, edit)
    if prepared is None:
        return
    indices, wanted = prepared
    link = next(link for link in spec.links if link.index is not None)
    if edit.form == "carried" and node.metadata_props.get(moves.ROLE) == "gather":
        _stay_visible(node, link, wanted, edit)
        return
    edit.operand(node, 0, wanted)
    outputs_narrowed(node, edit)
    if changes(link, wanted, edit.planned(out)):
        _regather(node, link.axis, indices[link.axis], edit)


def _stay_visible(node: ir.Node, link: Link, wanted: Layout, edit: Edit) -> None:
    """A gather of ours reads the original positions: the scatter ends up in front of it."""
    assert link.index is not None
    edit.operand(node, 0, {axis: kept for axis, kept in wanted.items() if axis != link.axis})
    kept = edit.planned(node.outputs[0]).get(link.out_axis)
    if kept is not None:
        index = link.index[kept].astype(np.int64)
        node.replace_input_with(1, edit.constant(index, f"{node.outputs[0].name}_index"))
    outputs_narrowed(node, edit)


def _regather(node: ir.Node, axis: int, index: np.ndarray, edit: Edit) -> None:
    value = node.inputs[0]
    assert value is not None
    if is_identity(index, dense_size(value, axis)):
        replace_by(node, value, edit)
        return
    places = index.astype(np.int64)
    if node.op_type == "GatherND":
        places = places[:, None]
    node.replace_input_with(1, edit.constant(places, f"{node.outputs[0].name}_index"))


def _look_up(node: ir.Node, spec: Spec, found: Lookup, edit: Edit) -> None:
    """Constant positions, not in a vector: their places in the dense value."""
    value = node.inputs[0]
    assert value is not None
    if not edit.planned(node.outputs[0]) and not any(edit.layout(v) for v in node.inputs if v is not None):
        return
    wanted = wanted_by_links(node, 0, spec, edit)
    kept = edit.layout(value).get(found.axis)
    if kept is not None and np.isin(found.positions, kept).all():
        wanted[found.axis] = kept
        places = np.searchsorted(kept, found.positions).astype(np.int64)
        node.replace_input_with(1, edit.constant(places, f"{node.outputs[0].name}_index"))
    edit.operand(node, 0, wanted)
    outputs_narrowed(node, edit)


@rewrites("ScatterND")
def scatter(node: ir.Node, spec: Spec, edit: Edit) -> None:
    """Rows over fills: only the kept rows; nothing where the updates are all that is kept."""
    data, _, updates = node.inputs[:3]
    out = node.outputs[0]
    if not edit.planned(out) and not any(edit.layout(v) for v in node.inputs if v is not None):
        return
    if all(link.index is None for link in spec.links):
        by_links(node, spec, edit)
        return
    assert data is not None and updates is not None
    original = edit.sizes(out)
    assert original is not None and isinstance(original[0], int)
    link = next(link for link in spec.of_operand(2) if link.index is not None)
    assert link.index is not None
    planned = edit.planned(out)
    rows = planned.get(0, np.arange(original[0]))
    uncovered = rows[link.index[rows] < 0]
    dead = edit.facts.dead_axes(edit.origin(out)).get(0)
    fixed = dead is not None and bool(dead.mask[uncovered].all())
    wanted: Layout = {axis: kept for axis, kept in planned.items() if axis}
    own = edit.layout(updates).get(0)
    if own is not None:
        wanted[0] = own
    if not fixed:
        # Rows of ``data`` are computed: both stay whole along the scattered axis.
        whole = {axis: kept for axis, kept in planned.items() if axis}
        edit.operand(node, 0, whole)
        edit.operand(node, 2, whole)
        edit.narrow_value(out, whole)
        if 0 in planned:
            users = list(out.uses())
            result = moves.gather(edit, out, 0, rows, Cursor(edit.graph, after=node), out)
            edit.stand_in(out, result, users)
            edit.layouts[result] = planned
        return
    dense = edit.convert(updates, wanted)
    index = dense_index(link, own, planned.get(0), edit.sizes(updates)[0])  # type: ignore[index,arg-type]
    covered = np.flatnonzero(index >= 0)
    taken = index[covered]
    edit.narrow_value(out, planned)
    place = Cursor(edit.graph, after=node)
    users = list(out.uses())
    if not is_identity(taken, dense_size(dense, 0)):
        dense = moves.gather(edit, dense, 0, taken, place, out)
    if covered.size == rows.size:
        result = edit.node("Identity", [dense], place, f"{out.name}_same", dims.sizes(dense), dense)
        edit.counts["cancelled"] += 1
    else:
        fill = edit.fill(out, 0, original[0])[rows]
        result = moves.scatter(edit, dense, 0, covered, int(rows.size), fill, place, out)
    edit.stand_in(out, result, users)
