"""A contraction whose weight falls into blocks, as several products, one batched product or a grouped convolution."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from graphopt import dims
from graphopt.facts.blocks import Block
from graphopt.facts.ops.contraction import Geometry, canonical, original
from graphopt.facts.store import Spec
from graphopt.plan.blocks import Split
from graphopt.rewrite import moves, weights
from graphopt.rewrite.edit import Cursor, Edit
from graphopt.rewrite.reorder import Constant, makers, readers, reorder


@dataclass(frozen=True, slots=True)
class Neighbours:
    """Constants whose reordering makes a gather unnecessary; ``None``: the gather is needed."""

    before: list[Constant] | None
    after: list[Constant] | None


def neighbours(node: ir.Node, geo: Geometry, split: Split, edit: Edit) -> Neighbours:
    """Find out whether the orders that the blocks want cost anything."""
    x, out = node.inputs[geo.x], node.outputs[0]
    assert x is not None
    columns, channels = split.columns(), (dims.static(x) or ())[geo.x_axis]
    before = None
    if in_order(columns, channels):
        before = []
    elif columns.size == channels and np.unique(columns).size == channels:
        before = makers(x, geo.x_axis, edit.facts)
    after = [] if in_order(split.rows(), split.rows().size) else readers(out, geo.out_axis, edit.facts)
    return Neighbours(before, after)


def in_order(positions: np.ndarray, size: int | None) -> bool:
    """Tell whether positions are all of an axis, from the first to the last."""
    return positions.size == size and np.array_equal(positions, np.arange(positions.size))


def split_contraction(node: ir.Node, spec: Spec, geo: Geometry, split: Split, around: Neighbours, edit: Edit) -> None:
    """Carry out a decision."""
    x, out = node.inputs[geo.x], node.outputs[0]
    assert x is not None
    if around.before is not None:
        reorder(around.before, split.columns(), edit)
    if around.after is not None:
        reorder(around.after, split.rows(), edit)
    place = Cursor(edit.graph, before=node)
    build = {"several": _several, "batched": _batched, "grouped": _grouped}[split.form]
    result = build(node, spec, geo, split, around.before is not None, place, edit)
    if around.after is None:
        result = moves.gather(edit, result, geo.out_axis, np.argsort(split.rows()), place, out)
    edit.stand_in(out, result, list(out.uses()))
    edit.graph.remove(node, safe=True)
    edit.counts["split"] += 1


def _sized(value: ir.Value, axis: int, size: int) -> list[dims.Size]:
    known = list(dims.sizes(value) or ())
    known[axis] = size
    return known


def _several(
    node: ir.Node, spec: Spec, geo: Geometry, split: Split, ordered: bool, place: Cursor, edit: Edit
) -> ir.Value:
    """``Concat(x[C_1] W_1, x[C_2] W_2, ...)``."""
    x, out = node.inputs[geo.x], node.outputs[0]
    assert x is not None
    parts = _divided(x, geo.x_axis, [block.columns.size for block in split.blocks], place, edit) if ordered else []
    results: list[ir.Value | None] = []
    for number, block in enumerate(split.blocks):
        inputs = list(node.inputs)
        inputs[geo.x] = parts[number] if parts else moves.gather(edit, x, geo.x_axis, block.columns, place, x)
        inputs[geo.w] = _weight(node, geo, block, edit)
        if geo.bias is not None and geo.bias < len(inputs):
            inputs[geo.bias] = _bias(node, spec, geo, block.rows, edit)
        shape = _sized(out, geo.out_axis, block.rows.size)
        attributes = list(node.attributes.values())
        results.append(edit.node(node.op_type, inputs, place, f"{out.name}_block", shape, out, attributes))
    axis = [ir.AttrInt64("axis", geo.out_axis)]
    return edit.node("Concat", results, place, f"{out.name}_blocks", dims.sizes(out), out, axis)


def _divided(x: ir.Value, axis: int, sizes: list[int], place: Cursor, edit: Edit) -> list[ir.Value]:
    """``Split`` along an axis."""
    outputs = [
        ir.Value(name=edit.name(f"{x.name}_part"), shape=ir.Shape(_sized(x, axis, size)), type=x.type) for size in sizes
    ]
    attributes: list[ir.Attr] = [ir.AttrInt64("axis", axis)]
    inputs: list[ir.Value | None] = [x]
    if edit.facts.opset < 13:
        attributes.append(ir.AttrInt64s("split", sizes))
    else:
        inputs.append(edit.constant(np.array(sizes, np.int64), f"{x.name}_sizes"))
    place.insert(ir.Node("", "Split", inputs, attributes, outputs=outputs, name=outputs[0].name))
    return outputs


def _weight(node: ir.Node, geo: Geometry, block: Block, edit: Edit) -> ir.Value:
    value = node.inputs[geo.w]
    assert value is not None
    tensor = weights.take(edit.facts.constants.tensor(value), {geo.w_out: block.rows, geo.w_in: block.columns})
    return edit.initializer(tensor, f"{value.name}_block")


def _bias(node: ir.Node, spec: Spec, geo: Geometry, rows: np.ndarray, edit: Edit) -> ir.Value | None:
    assert geo.bias is not None
    value = node.inputs[geo.bias]
    links = [link for link in spec.of_operand(geo.bias) if link.out_axis == geo.out_axis]
    return value if value is None or not links else edit.cut(value, {links[0].axis: rows})


def _stacked(node: ir.Node, geo: Geometry, split: Split, edit: Edit) -> tuple[ir.TensorProtocol, tuple[int, ...]]:
    """Return the weight's tensor, and the shape ``[blocks, o, i, ...]`` of its equal blocks in a row."""
    value = node.inputs[geo.w]
    assert value is not None
    tensor = edit.facts.constants.tensor(value)
    rest = [size for axis, size in enumerate(tensor.shape.numpy()) if axis not in (geo.w_in, geo.w_out)]
    return tensor, (len(split.blocks), *split.blocks[0].shape, *rest)


def _taken(array: np.ndarray, geo: Geometry, split: Split) -> np.ndarray:
    rows = np.stack([block.rows for block in split.blocks])[:, :, None]
    columns = np.stack([block.columns for block in split.blocks])[:, None, :]
    return canonical(array, geo)[0][rows, columns]


def _grouped(
    node: ir.Node, spec: Spec, geo: Geometry, split: Split, ordered: bool, place: Cursor, edit: Edit
) -> ir.Value:
    """A convolution with a group for every block."""
    x, out = node.inputs[geo.x], node.outputs[0]
    assert x is not None
    inputs = list(node.inputs)
    inputs[geo.x] = x if ordered else moves.gather(edit, x, geo.x_axis, split.columns(), place, x)
    grouped = replace(geo, groups=len(split.blocks))
    tensor, shape = _stacked(node, geo, split, edit)
    o, i = shape[1:3]
    head = [shape[0] * o, i] if geo.w_out < geo.w_in else [shape[0] * i, o]
    stacked = weights.derived(tensor, lambda array: original(_taken(array, geo, split), grouped), [*head, *shape[3:]])
    inputs[geo.w] = edit.initializer(stacked, f"{node.outputs[0].name}_blocks")
    if geo.bias is not None and geo.bias < len(inputs):
        inputs[geo.bias] = _bias(node, spec, geo, split.rows(), edit)
    attributes = [attribute for name, attribute in node.attributes.items() if name != "group"]
    attributes.append(ir.AttrInt64("group", len(split.blocks)))
    return edit.node(node.op_type, inputs, place, f"{out.name}_blocks", dims.sizes(out), out, attributes)


def _batched(
    node: ir.Node, spec: Spec, geo: Geometry, split: Split, ordered: bool, place: Cursor, edit: Edit
) -> ir.Value:
    """``[m, k c] -> [k, m, c] @ [k, c, r] -> [m, k r]``, where ``m`` stands for all axes but the last."""
    x, out = node.inputs[geo.x], node.outputs[0]
    assert x is not None
    tensor, (count, o, i) = _stacked(node, geo, split, edit)
    stacked = weights.derived(tensor, lambda array: _taken(array, geo, split).swapaxes(1, 2), [count, i, o])
    weight = edit.initializer(stacked, f"{out.name}_blocks")
    value = x if ordered else moves.gather(edit, x, geo.x_axis, split.columns(), place, x)
    lead = list(dims.sizes(out) or ())[:-1]
    rows = lead[0] if len(lead) == 1 else None
    swap = [ir.AttrInt64s("perm", [1, 0, 2])]

    def reshaped(value: ir.Value, target: list[int], sizes: list[dims.Size]) -> ir.Value:
        shape = edit.constant(np.array(target, np.int64), f"{out.name}_shape")
        return edit.node("Reshape", [value, shape], place, f"{out.name}_parts", sizes, out)

    value = reshaped(value, [-1, count, i], [rows, count, i])
    value = edit.node("Transpose", [value], place, f"{out.name}_rows", [count, rows, i], out, swap)
    value = edit.node("MatMul", [value, weight], place, f"{out.name}_blocks", [count, rows, o], out)
    value = edit.node("Transpose", [value], place, f"{out.name}_rows", [rows, count, o], out, swap)
    return reshaped(value, [size if isinstance(size, int) else -1 for size in [*lead, count * o]], [*lead, count * o])
