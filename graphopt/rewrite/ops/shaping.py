"""Reshape and the operators that read sizes."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from graphopt import dims
from graphopt.facts.entries import Entries
from graphopt.facts.misread import copied
from graphopt.facts.ops.leading import Leading
from graphopt.facts.store import Block, Spec
from graphopt.plan.classes import Layout
from graphopt.rewrite.edit import Cursor, Edit
from graphopt.rewrite.rules import overwritten, patch_shape, rewrites


@rewrites("Reshape", "Flatten", "Squeeze", "Unsqueeze")
def reshape(node: ir.Node, spec: Spec, edit: Edit) -> None:
    """The input comes in the layout that the plan's output layout stands for; the shape operand names the new sizes."""
    value, out = node.inputs[0], node.outputs[0]
    assert value is not None
    planned = edit.planned(out)
    original, result = edit.sizes(value), edit.sizes(out)
    wanted = {}
    for link in spec.of_operand(0):
        if link.out_axis in planned:
            wanted[link.axis] = planned[link.out_axis]
    assert original is not None
    if isinstance(spec.extra, Leading) and spec.extra.out_axis in planned:
        wanted[spec.extra.axis] = spec.extra.wanted(planned[spec.extra.out_axis])
    present = dict(planned)
    for block in spec.blocks:
        grid = np.ones(block.sizes, bool)
        if block.merges:
            kept = planned.get(block.outs[0])
            if kept is not None:
                positions = _merge(block, kept, edit.layout(value), wanted)
                present[block.outs[0]] = positions
            continue
        for place, axis in enumerate(block.outs):
            if axis in planned:
                found = np.zeros(block.sizes[place], bool)
                found[planned[axis]] = True
                grid &= found.reshape([-1 if i == place else 1 for i in range(len(block.sizes))])
        if not grid.all():
            wanted[block.ins[0]] = np.flatnonzero(grid.ravel())
    assert result is not None
    places = copied(node, original, result, Entries(edit.facts.constants))[0] if wanted else set()
    _name_axes(node, original, wanted, edit)
    edit.operand(node, 0, wanted)
    sizes = {axis: int(kept.size) for axis, kept in present.items()}
    for axis in _copies(node, edit) & set(wanted) - set(sizes):
        if isinstance(size := original[axis], int):
            sizes[axis] = size
    if node.op_type == "Reshape" and sizes:
        if len(node.inputs) > 1:
            patch_shape(node, 1, edit, sizes)
        else:
            shape = list(node.attributes.get_ints("shape", ()))
            for axis, size in sizes.items():
                shape[axis] = size
            node.attributes["shape"] = ir.AttrInt64s("shape", shape)
    _copy_as_before(
        node, {axis: size for axis in places & set(wanted) if isinstance(size := original[axis], int)}, edit
    )
    edit.narrow_value(out, {axis: kept for axis, kept in present.items() if kept.size != result[axis]})
    if any(present[axis] is not kept for axis, kept in planned.items()):
        users = list(out.uses())
        chosen = edit.convert(out, planned)
        edit.stand_in(out, chosen, users)
        edit.layouts[chosen] = planned


def _copies(node: ir.Node, edit: Edit) -> set[int]:
    """Return the axes of the input whose size a constant shape copies: where it says 0."""
    if node.op_type != "Reshape" or node.attributes.get_int("allowzero", 0):
        return set()
    constants = edit.facts.constants
    if len(node.inputs) < 2:
        shape = np.array(node.attributes.get_ints("shape", ()))
    else:
        shape = constants.array(node.inputs[1]) if constants.known(node.inputs[1]) else None
    return set() if shape is None else set(np.flatnonzero(shape == 0).tolist())


def _name_axes(node: ir.Node, original: dims.Sizes, wanted: Layout, edit: Edit) -> None:
    """Say which axes a ``Squeeze`` without axes takes away: one that becomes a single position is none of them."""
    given = "axes" in node.attributes or (len(node.inputs) > 1 and node.inputs[1] is not None)
    if node.op_type != "Squeeze" or given or all(kept.size != 1 for kept in wanted.values()):
        return
    axes = [axis for axis, size in enumerate(original) if size == 1]
    if edit.facts.opset < 13:
        node.attributes["axes"] = ir.AttrInt64s("axes", axes)
        return
    node.resize_inputs(2)
    node.replace_input_with(1, edit.constant(np.array(axes, np.int64), f"{node.outputs[0].name}_axes"))


def _merge(block: Block, kept: np.ndarray, have: Layout, wanted: Layout) -> np.ndarray:
    """Choose the positions of merged axes behind kept ones of the result; return what the result has of them then.

    That is ``kept`` itself where it is a product of positions. Otherwise more is merged than is wanted.
    """
    chosen = np.zeros(int(np.prod(block.sizes)), bool)
    chosen[kept] = True
    chosen = chosen.reshape(block.sizes)
    parts = [chosen.any(axis=tuple(i for i in range(len(block.sizes)) if i != place)) for place in range(chosen.ndim)]
    grid = np.ones(block.sizes, bool)
    irregular = np.prod([part.sum() for part in parts]) > kept.size
    for place, (axis, size) in enumerate(zip(block.ins, block.sizes, strict=True)):
        found = np.flatnonzero(parts[place])
        if irregular and (axis not in have or np.isin(found, have[axis]).all()):
            found = have.get(axis, np.arange(size))  # one selection will do
        if found.size < size:
            wanted[axis] = found
        inside = np.isin(np.arange(size), found)
        grid &= inside.reshape([-1 if i == place else 1 for i in range(len(block.sizes))])
    return np.flatnonzero(grid.ravel()) if irregular else kept


def _copy_as_before(node: ir.Node, sizes: dict[int, int], edit: Edit) -> None:
    """Write out what an entry of a computed shape copies where it is zero: the input has another size there now."""
    if not sizes:
        return
    shape = node.inputs[1]
    assert shape is not None
    length = dims.rank(node.outputs[0])
    assert length is not None
    numbers = np.zeros(length, np.int64)
    for entry, size in sizes.items():
        numbers[entry] = size
    place, base = edit.before(node), f"{node.outputs[0].name}_shape"
    int64, copies = ir.DataType.INT64, edit.constant(numbers, f"{base}_copies")
    zero = edit.constant(np.zeros(1, np.int64), "zero")
    empty = edit.node("Equal", [shape, zero], place, f"{base}_empty", [length], shape, dtype=ir.DataType.BOOL)
    if edit.facts.opset >= 9:
        explicit = edit.node("Where", [empty, copies, shape], place, base, [length], shape, dtype=int64)
    else:
        cast = edit.node("Cast", [empty], place, base, [length], shape, [ir.AttrInt64("to", int64)], int64)
        product = edit.node("Mul", [cast, copies], place, base, [length], shape, dtype=int64)
        explicit = edit.node("Add", [shape, product], place, base, [length], shape, dtype=int64)
    node.replace_input_with(1, explicit)


@rewrites("Shape")
def shape(node: ir.Node, spec: Spec, edit: Edit) -> None:
    """The sizes of a narrowed value are reported as the original ones."""
    value, out = node.inputs[0], node.outputs[0]
    assert value is not None
    layout = edit.layout(value)
    if not layout:
        return
    original = edit.sizes(value)
    assert original is not None
    start, end = node.attributes.get_int("start", 0), node.attributes.get_int("end", len(original))
    axes = range(len(original))[start:end]
    replaced: dict[int, int] = {}
    for entry, axis in enumerate(axes):
        size = original[axis]
        if axis in layout and isinstance(size, int):
            replaced[entry] = size
    if not replaced:
        return
    users = list(out.uses())
    place = Cursor(edit.graph, after=node)
    result = overwritten(out, len(axes), replaced, place, f"{out.name}_original", edit)
    edit.stand_in(out, result, users)
