"""Operators that move positions: the index of the dense value, or nothing where that is the identity."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from graphopt import dims
from graphopt.facts.store import Link, Spec
from graphopt.plan.classes import Layout
from graphopt.rewrite import moves
from graphopt.rewrite.edit import Cursor, Edit
from graphopt.rewrite.rules import by_links, outputs_narrowed, patch_shape, rewrites, set_ints, wanted_by_links


def _dense_index(link: Link, have: np.ndarray | None, want: np.ndarray | None, size: int) -> np.ndarray:
    """Return, for every kept output position, its place in the dense input (``-1``: not from this input)."""
    assert link.index is not None
    index = link.index if want is None else link.index[want]
    if have is None:
        return index
    place = np.full(size, -1)
    place[have] = np.arange(have.size)
    return np.where(index < 0, -1, place[np.maximum(index, 0)])


def _index_of_axis(node: ir.Node, link: Link, edit: Edit) -> np.ndarray:
    value, out = node.inputs[link.operand], node.outputs[link.out]
    assert value is not None
    original = edit.sizes(value)
    assert original is not None and isinstance(original[link.axis], int)
    have, want = edit.layout(value).get(link.axis), edit.planned(out).get(link.out_axis)
    size = original[link.axis]
    assert isinstance(size, int)
    return _dense_index(link, have, want, size)


def _identity(index: np.ndarray, size: int) -> bool:
    return index.size == size and np.array_equal(index, np.arange(size))


def _dense_size(value: ir.Value, axis: int) -> int:
    known = dims.static(value)
    assert known is not None and known[axis] is not None
    return known[axis] or 0


@rewrites("Concat")
def concat(node: ir.Node, spec: Spec, edit: Edit) -> None:
    """Every input in the layout of its part of the output."""
    out = node.outputs[0]
    for operand, value in enumerate(node.inputs):
        if value is None:
            continue
        wanted = wanted_by_links(node, operand, spec, edit)
        for link in spec.of_operand(operand):
            if link.index is None:
                continue
            planned = edit.planned(out).get(link.out_axis)
            if planned is None:
                wanted.pop(link.axis, None)
                continue
            inside = link.index[planned]
            kept = inside[inside >= 0]
            size = int((link.index >= 0).sum())
            if kept.size < size:
                wanted[link.axis] = kept
            else:
                wanted.pop(link.axis, None)
        edit.operand(node, operand, wanted)
    outputs_narrowed(node, edit)


@rewrites("Split")
def split(node: ir.Node, spec: Spec, edit: Edit) -> None:
    """New sizes; the parts are still ranges of the dense input."""
    edit.operand(node, 0, wanted_by_links(node, 0, spec, edit))
    axis = next(link.axis for link in spec.links if link.index is not None)
    if any(axis in edit.planned(out) for out in node.outputs):
        counts = []
        for out in node.outputs:
            kept = edit.planned(out).get(axis)
            counts.append(int(kept.size) if kept is not None else _dense_size(out, axis))
        node.attributes.pop("num_outputs", None)
        if edit.facts.opset < 13:
            node.attributes["split"] = ir.AttrInt64s("split", counts)
        else:
            set_ints(node, 1, "split", counts, edit)
    outputs_narrowed(node, edit)


@rewrites("Slice", "Gather", "Tile", "Pad", "Resize", "Upsample", "ScatterND")
def select(node: ir.Node, spec: Spec, edit: Edit) -> None:
    """Rewrite the moved axes; pass the others by their links."""
    moved = [link for link in spec.links if link.index is not None]
    out = node.outputs[0]
    value = node.inputs[0]
    assert value is not None
    if not edit.planned(out) and not any(edit.layout(v) for v in node.inputs if v is not None):
        return
    if node.op_type == "ScatterND":
        _scatter(node, spec, edit)
        return
    if node.op_type in ("Resize", "Upsample"):
        by_links(node, spec, edit)
        _resize(node, edit)
        return
    if node.op_type == "Gather" and isinstance(spec.extra, tuple):
        _gather_one(node, spec, edit)
        return
    if not moved:
        by_links(node, spec, edit)
        return
    wanted = wanted_by_links(node, 0, spec, edit)
    if edit.facts.constants.known(value):
        wanted = {axis: kept for axis, kept in wanted.items() if all(link.axis != axis for link in moved)}
    if edit.form == "carried" and node.metadata_props.get(moves.ROLE) == "gather":
        _stay_visible(node, moved[0], wanted, edit)
        return
    indices = {link.axis: _index_of_axis(node, link, edit) for link in moved}
    edit.operand(node, 0, wanted)
    changed = {link.axis for link in moved if link.axis in wanted or link.out_axis in edit.planned(out)}
    outputs_narrowed(node, edit)
    if not changed:
        return
    if node.op_type == "Pad":
        _pad(node, indices, changed, edit)
    elif node.op_type == "Gather":
        ((axis, index),) = indices.items()
        _regather(node, axis, index, edit)
    else:
        _slice(node, indices, changed, edit)


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
    if _identity(index, _dense_size(value, axis)):
        _replace(node, value, edit)
        return
    node.replace_input_with(1, edit.constant(index.astype(np.int64), f"{node.outputs[0].name}_index"))


def _replace(node: ir.Node, value: ir.Value, edit: Edit) -> None:
    """The node has become the identity: ``Identity`` stays in its place, ``tidy`` removes it."""
    out = node.outputs[0]
    users = list(out.uses())
    same = edit.node("Identity", [value], Cursor(edit.graph, after=node), f"{out.name}_same", dims.sizes(value), value)
    edit.counts["cancelled"] += 1
    edit.stand_in(out, same, users)


def _gather_one(node: ir.Node, spec: Spec, edit: Edit) -> None:
    """A scalar index: its place in the dense value."""
    axis, position = spec.extra  # type: ignore[misc]
    value = node.inputs[0]
    assert value is not None
    wanted = wanted_by_links(node, 0, spec, edit)
    kept = edit.layout(value).get(axis)
    if kept is not None and position in kept:
        wanted[axis] = kept
        place = int(np.searchsorted(kept, position))
        node.replace_input_with(1, edit.constant(np.array(place, np.int64), f"{node.outputs[0].name}_index"))
    edit.operand(node, 0, wanted)
    outputs_narrowed(node, edit)


def _slice(node: ir.Node, indices: dict[int, np.ndarray], changed: set[int], edit: Edit) -> None:
    """Constant ranges of the dense value; axes whose positions are no range are gathered."""
    value, out = node.inputs[0], node.outputs[0]
    assert value is not None
    place = Cursor(edit.graph, after=node)
    starts, ends, axes, steps = [], [], [], []
    gathers: list[tuple[int, np.ndarray]] = []
    for axis, index in sorted(indices.items()):
        size = _dense_size(value, axis)
        if _identity(index, size):
            continue
        step = int(index[1] - index[0]) if index.size > 1 else 1
        if index.size and step and np.array_equal(index, index[0] + step * np.arange(index.size)):
            last = int(index[-1])
            starts.append(int(index[0]))
            ends.append(last + 1 if step > 0 else (last - 1 if last else -(2**31) - 1))
            axes.append(axis)
            steps.append(step)
        else:
            gathers.append((axis, index))
    others = _other_slices(node, set(indices), edit)
    if others is None:
        return
    for start, end, axis, step in others:
        starts.append(start)
        ends.append(end)
        axes.append(axis)
        steps.append(step)
    users = list(out.uses())
    current = value
    if axes:
        current = _emit_slice(current, starts, ends, axes, steps, place, out, edit)
    for axis, index in gathers:
        current = moves.gather(edit, current, axis, index, place, out)
    if current is value:
        _replace(node, value, edit)
        return
    current.shape = out.shape
    edit.stand_in(out, current, users)


def _emit_slice(
    value: ir.Value,
    starts: list[int],
    ends: list[int],
    axes: list[int],
    steps: list[int],
    place: Cursor,
    named: ir.Value,
    edit: Edit,
) -> ir.Value:
    base = f"{named.name}_sliced"
    if edit.facts.opset < 10:
        attributes = [ir.AttrInt64s("starts", starts), ir.AttrInt64s("ends", ends), ir.AttrInt64s("axes", axes)]
        return edit.node("Slice", [value], place, base, dims.sizes(named), named, attributes)
    operands: list[ir.Value | None] = [value]
    for name, numbers in (("starts", starts), ("ends", ends), ("axes", axes), ("steps", steps)):
        operands.append(edit.constant(np.array(numbers, np.int64), f"{base}_{name}"))
    return edit.node("Slice", operands, place, base, dims.sizes(named), named)


def _other_slices(node: ir.Node, known: set[int], edit: Edit) -> list[tuple[int, int, int, int]] | None:
    """Return (start, end, axis, step) of the sliced axes that are not moved by index (sizes known only at run time)."""
    rank = dims.rank(node.inputs[0]) or 0
    constants = edit.facts.constants
    if len(node.inputs) > 1:
        starts, ends = constants.ints(node.inputs[1]), constants.ints(node.inputs[2])
        axes = constants.ints(node.inputs[3]) if len(node.inputs) > 3 and node.inputs[3] is not None else None
        steps = constants.ints(node.inputs[4]) if len(node.inputs) > 4 and node.inputs[4] is not None else None
    else:
        starts, ends = list(node.attributes.get_ints("starts", ())), list(node.attributes.get_ints("ends", ()))
        axes = list(node.attributes.get_ints("axes", range(len(starts))))
        steps = None
    if starts is None or ends is None:
        return None
    axes = list(range(len(starts))) if axes is None else axes
    result = []
    for place, axis in enumerate(axes):
        axis = axis + rank if axis < 0 else axis
        if axis not in known:
            result.append((starts[place], ends[place], axis, 1 if steps is None else steps[place]))
    return result


def _pad(node: ir.Node, indices: dict[int, np.ndarray], changed: set[int], edit: Edit) -> None:
    """Fewer pads where padded positions are not kept."""
    from graphopt.facts.ops.movement import pads_of

    value, out = node.inputs[0], node.outputs[0]
    assert value is not None
    rank = dims.rank(value) or 0
    pads = pads_of(node, rank, edit.facts)
    assert pads is not None
    for axis in changed:
        index, size = indices[axis], _dense_size(value, axis)
        inside = np.flatnonzero(index >= 0)
        if inside.size:
            first, last = int(inside[0]), int(inside[-1])
            pads[axis] = first if first else -int(index[first])
            behind = index.size - 1 - last
            pads[rank + axis] = behind if behind else -(size - 1 - int(index[last]))
        else:
            pads[axis], pads[rank + axis] = index.size, -size
    if not any(pads):
        _replace(node, value, edit)
        return
    if len(node.inputs) < 2:
        name = "pads" if "pads" in node.attributes else "paddings"
        node.attributes[name] = ir.AttrInt64s(name, pads)
        return
    node.replace_input_with(1, edit.constant(np.array(pads, np.int64), f"{out.name}_pads"))
    if len(node.inputs) > 3 and node.inputs[3] is not None:
        node.resize_inputs(3)


def _resize(node: ir.Node, edit: Edit) -> None:
    """A ``sizes`` operand names the narrowed sizes."""
    layout = edit.planned(node.outputs[0])
    if not layout or len(node.inputs) < 4 or node.inputs[3] is None:
        return
    rank = dims.rank(node.outputs[0]) or 0
    axes = [axis + rank if axis < 0 else axis for axis in node.attributes.get_ints("axes", tuple(range(rank)))]
    patch_shape(node, 3, edit, {axes.index(axis): int(kept.size) for axis, kept in layout.items() if axis in axes})


def _scatter(node: ir.Node, spec: Spec, edit: Edit) -> None:
    """Rows over fills: only the kept rows; nothing where the updates are all that is kept."""
    data, _, updates = node.inputs[:3]
    out = node.outputs[0]
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
    index = _dense_index(link, own, planned.get(0), edit.sizes(updates)[0])  # type: ignore[index,arg-type]
    covered = np.flatnonzero(index >= 0)
    taken = index[covered]
    edit.narrow_value(out, planned)
    place = Cursor(edit.graph, after=node)
    users = list(out.uses())
    if not _identity(taken, _dense_size(dense, 0)):
        dense = moves.gather(edit, dense, 0, taken, place, out)
    if covered.size == rows.size:
        result = edit.node("Identity", [dense], place, f"{out.name}_same", dims.sizes(dense), dense)
        edit.counts["cancelled"] += 1
    else:
        fill = edit.fill(out, 0, original[0])[rows]
        result = moves.scatter(edit, dense, 0, covered, int(rows.size), fill, place, out)
    edit.stand_in(out, result, users)
