"""Weights that are stored as integers stay so: what is done to a weight is done in front of its DequantizeLinear."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from graphopt import dims
from graphopt.facts.constants import stored
from graphopt.facts.quantization import axis_of, spread
from graphopt.rewrite import weights

if TYPE_CHECKING:
    from graphopt.facts.ops.contraction import Geometry
    from graphopt.plan.classes import Layout
    from graphopt.rewrite.edit import Edit


def cut(value: ir.Value, wanted: Layout, edit: Edit) -> ir.Value | None:
    """Return the wanted positions of a dequantized constant, cut where it is stored; ``None`` for other constants.

    Along an axis that has one scale a block only whole blocks can be cut; the rest is gathered behind.
    """
    node = stored(value)
    known = None if node is None else dims.static(value)
    if node is None or known is None:
        return None
    block, axis = node.attributes.get_int("block_size", 0), axis_of(node, len(known))
    layout, rest = dict(wanted), None
    blocks = None
    if block and axis is not None and axis in wanted:
        blocks = np.unique(wanted[axis] // block)
        covered = (blocks[:, None] * block + np.arange(block)).ravel()
        covered = covered[covered < (known[axis] or 0)]
        layout[axis] = covered
        rest = None if np.array_equal(covered, wanted[axis]) else np.searchsorted(covered, wanted[axis])
    inputs: list[ir.Value | None] = []
    for position, operand in enumerate(node.inputs):
        rank = dims.rank(operand)
        if operand is None or position == 0:
            inputs.append(None if operand is None else edit.cut(operand, layout))
        elif block and axis is not None:
            own = {i: kept for i, kept in layout.items() if i != axis}
            inputs.append(edit.cut(operand, own if blocks is None else {**own, axis: blocks}))
        elif rank == 1 and edit.facts.constants.size(operand) != 1 and axis in layout:
            inputs.append(edit.cut(operand, {0: layout[axis]}))
        else:
            inputs.append(operand)
    result = _another(node, inputs, layout, edit)
    if rest is None or axis is None:
        return result
    index = edit.constant(rest.astype(np.int64), f"{value.name}_kept")
    sizes = list(dims.sizes(result) or ())
    sizes[axis] = int(rest.size)
    attributes = [ir.AttrInt64("axis", axis)]
    return edit.node("Gather", [result, index], edit.behind(result), f"{value.name}_dense", sizes, value, attributes)


def changed(
    value: ir.Value,
    compute: Callable[[np.ndarray, np.ndarray], np.ndarray],
    shape: Sequence[int],
    rows: np.ndarray | None,
    base: str,
    edit: Edit,
) -> ir.Value:
    """Return the constant ``compute(array, zero)`` of ``shape``; computed on the integers where it is stored as such.

    ``zero`` is what stands for zero; it broadcasts against the array. ``rows`` are the positions that are left of the
    first axis, where scales may lie; ``None``: as many as before.
    """
    node = stored(value)
    if node is None:
        tensor = edit.facts.constants.tensor(value)
        zero = np.zeros(1, tensor.dtype.numpy())
        result = weights.derived(tensor, lambda array: compute(array, zero), shape)
        return edit.initializer(result, base)
    first, constants = node.inputs[0], edit.facts.constants
    assert first is not None
    tensor = constants.tensor(first)
    given = constants.array(node.inputs[2]) if len(node.inputs) > 2 else None
    sizes = tuple(tensor.shape.numpy())
    block, axis = node.attributes.get_int("block_size", 0), axis_of(node, len(sizes))
    point = np.zeros(1, tensor.dtype.numpy()) if given is None else spread(given, sizes, axis, block)
    result = edit.initializer(weights.derived(tensor, lambda array: compute(array, point), shape), base)
    others: list[ir.Value | None] = [
        p if p is None or rows is None or constants.size(p) == 1 else edit.cut(p, {0: rows}) for p in node.inputs[1:]
    ]
    return _another(node, [result, *others], {i: np.arange(size) for i, size in enumerate(shape)}, edit)


def bias(node: ir.Node, geo: Geometry, sums: np.ndarray, old: ir.Value | None, edit: Edit) -> ir.Value | None:
    """Return a bias ``sums`` (``[o]``) that is stored as integers like the old one, or else like the weights.

    ``None`` where neither is stored so, or where a number is no multiple of the scale: then it has to be floats.
    """
    if old is not None:
        source = stored(old)
        if source is None or source.inputs[0] is None or source.inputs[0].dtype != ir.DataType.INT32:
            return None
        scale = edit.facts.constants.array(source.inputs[1])
    else:
        scale = _product_of_scales(node, geo, edit)
    if scale is None or scale.size not in (1, sums.size):
        return None
    scale = scale.reshape(-1)
    with np.errstate(all="ignore"):
        steps = sums / scale.astype(np.float64)
    near = np.rint(steps)
    if not np.isfinite(steps).all() or (np.abs(steps - near) > 1e-2).any() or (np.abs(near) >= 2.0**24).any():
        return None
    name, out = f"{node.outputs[0].name}_bias", node.outputs[0]
    stored_scale = edit.constant(scale if scale.size > 1 else scale.reshape(()), f"{name}_scale", out.dtype)
    inputs: list[ir.Value | None] = [edit.constant(near.astype(np.int32), name), stored_scale]
    place = edit.before(node)
    attributes = [ir.AttrInt64("axis", 0)] if scale.size > 1 else []
    return edit.node("DequantizeLinear", inputs, place, f"{name}_dequantized", [sums.size], out, attributes)


def _product_of_scales(node: ir.Node, geo: Geometry, edit: Edit) -> np.ndarray | None:
    """Return what a step of the sums is: scale of the data times scale (or scales, ``[o]``) of the weight."""
    data, weight = node.inputs[geo.x], stored(node.inputs[geo.w])
    source = None if data is None else data.producer()
    if weight is None or source is None or source.op_type != "DequantizeLinear":
        return None
    constants = edit.facts.constants
    x, w = constants.array(source.inputs[1]), constants.array(weight.inputs[1])
    if x is None or w is None or x.size != 1 or w.ndim > 1:
        return None
    return x.reshape(()) * w


def _another(node: ir.Node, inputs: list[ir.Value | None], layout: Layout, edit: Edit) -> ir.Value:
    """Return the result of a copy of a node with other inputs, right behind the node."""
    out = node.outputs[0]
    sizes = [layout[i].size if i in layout else size for i, size in enumerate(dims.sizes(out) or ())]
    attributes = list(node.attributes.values())
    return edit.node(
        "DequantizeLinear", inputs, edit.behind(out), str(out.name), sizes, out, attributes, domain=node.domain
    )
