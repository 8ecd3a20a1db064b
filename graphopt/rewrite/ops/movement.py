"""Operators that move positions: the index of the dense value, or nothing where that is the identity."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from graphopt import dims
from graphopt.facts.ops.movement import pads_of
from graphopt.facts.store import Link, Spec
from graphopt.plan.classes import Layout
from graphopt.rewrite import moves
from graphopt.rewrite.edit import Cursor, Edit
from graphopt.rewrite.rules import by_links, outputs_narrowed, patch_shape, rewrites, set_ints, wanted_by_links


def dense_index(link: Link, have: np.ndarray | None, want: np.ndarray | None, size: int) -> np.ndarray:
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
    return dense_index(link, have, want, size)


def is_identity(index: np.ndarray, size: int) -> bool:
    """Tell whether an index selects every position of an axis, in order."""
    return index.size == size and np.array_equal(index, np.arange(size))


def dense_size(value: ir.Value, axis: int) -> int:
    """Return the size that an axis has in the value's present form."""
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
            counts.append(int(kept.size) if kept is not None else dense_size(out, axis))
        node.attributes.pop("num_outputs", None)
        if edit.facts.opset < 13:
            node.attributes["split"] = ir.AttrInt64s("split", counts)
        else:
            set_ints(node, 1, "split", counts, edit)
    outputs_narrowed(node, edit)


@rewrites("Slice", "Pad")
def select(node: ir.Node, spec: Spec, edit: Edit) -> None:
    """Rewrite the moved axes; pass the others by their links."""
    prepared = moved_indices(node, spec, edit)
    if prepared is None:
        return
    indices, wanted = prepared
    edit.operand(node, 0, wanted)
    planned = edit.planned(node.outputs[0])
    outputs_narrowed(node, edit)
    changed = {link.axis for link in spec.links if link.axis in indices and changes(link, wanted, planned)}
    if changed and node.op_type == "Pad":
        _pad(node, indices, changed, edit)
    elif changed:
        _slice(node, indices, edit)


def moved_indices(node: ir.Node, spec: Spec, edit: Edit) -> tuple[dict[int, np.ndarray], Layout] | None:
    """Return (axis → index into the dense input, layout wanted of the input); ``None`` where nothing is left to do."""
    moved = [link for link in spec.links if link.index is not None]
    out, value = node.outputs[0], node.inputs[0]
    assert value is not None
    if not edit.planned(out) and not any(edit.layout(v) for v in node.inputs if v is not None):
        return None
    if not moved:
        by_links(node, spec, edit)
        return None
    wanted = wanted_by_links(node, 0, spec, edit)
    if edit.facts.constants.known(value):
        wanted = {axis: kept for axis, kept in wanted.items() if all(link.axis != axis for link in moved)}
    return {link.axis: _index_of_axis(node, link, edit) for link in moved}, wanted


def changes(link: Link, wanted: Layout, planned: Layout) -> bool:
    """Tell whether a moved axis is narrowed on either side."""
    return link.index is not None and (link.axis in wanted or link.out_axis in planned)


def replace_by(node: ir.Node, value: ir.Value, edit: Edit) -> None:
    """The node has become the identity: ``Identity`` stays in its place, ``tidy`` removes it."""
    out = node.outputs[0]
    users = list(out.uses())
    same = edit.node("Identity", [value], Cursor(edit.graph, after=node), f"{out.name}_same", dims.sizes(value), value)
    edit.counts["cancelled"] += 1
    edit.stand_in(out, same, users)


def _slice(node: ir.Node, indices: dict[int, np.ndarray], edit: Edit) -> None:
    """Constant ranges of the dense value; axes whose positions are no range are gathered."""
    value, out = node.inputs[0], node.outputs[0]
    assert value is not None
    place = Cursor(edit.graph, after=node)
    starts, ends, axes, steps = [], [], [], []
    gathers: list[tuple[int, np.ndarray]] = []
    for axis, index in sorted(indices.items()):
        size = dense_size(value, axis)
        if is_identity(index, size):
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
        replace_by(node, value, edit)
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
    value, out = node.inputs[0], node.outputs[0]
    assert value is not None
    rank = dims.rank(value) or 0
    pads = pads_of(node, rank, edit.facts)
    assert pads is not None
    for axis in changed:
        index, size = indices[axis], dense_size(value, axis)
        inside = np.flatnonzero(index >= 0)
        if inside.size:
            first, last = int(inside[0]), int(inside[-1])
            pads[axis] = first if first else -int(index[first])
            behind = index.size - 1 - last
            pads[rank + axis] = behind if behind else -(size - 1 - int(index[last]))
        else:
            pads[axis], pads[rank + axis] = index.size, -size
    if not any(pads):
        replace_by(node, value, edit)
        return
    if len(node.inputs) < 2:
        name = "pads" if "pads" in node.attributes else "paddings"
        node.attributes[name] = ir.AttrInt64s(name, pads)
        return
    node.replace_input_with(1, edit.constant(np.array(pads, np.int64), f"{out.name}_pads"))
    if len(node.inputs) > 3 and node.inputs[3] is not None:
        node.resize_inputs(3)


@rewrites("Tile")
def tile(node: ir.Node, spec: Spec, edit: Edit) -> None:
    """Make as many copies of a single position as are wanted; other repetitions keep their number."""
    planned = edit.planned(node.outputs[0])
    copies = {axis for group in spec.groups for _, axis, _ in group.outputs}
    patch_shape(node, 1, edit, {axis: int(kept.size) for axis, kept in planned.items() if axis in copies})
    by_links(node, spec, edit)
