"""What is done to a weight behind its DequantizeLinear is done to the integers in front of it.

``Mul(DequantizeLinear(q), mask) -> DequantizeLinear(q')`` with the zero point where the mask is zero;
``Transpose(DequantizeLinear(q)) -> DequantizeLinear(q')``. Exact: ``(z - z) * scale`` is zero.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from graphopt import dims
from graphopt.facts.constants import stored
from graphopt.facts.quantization import axis_of
from graphopt.rewrite import quantized
from graphopt.rewrite.edit import Edit
from graphopt.rewrite.unused import remove_unused


def fold_into_stored(edit: Edit) -> int:
    """Move masks and transposes of stored weights to where they are stored; return their number."""
    folded = 0
    for node in list(edit.graph):
        if node.domain != "" or node.op_type not in ("Mul", "Transpose", "Where") or node.outputs[0].is_graph_output():
            continue
        result = _turned(node, edit) if node.op_type == "Transpose" else _masked(node, edit)
        if result is not None:
            ir.convenience.replace_all_uses_with(node.outputs[0], result)
            folded += 1
    if folded:
        remove_unused(edit.graph)
    return folded


def _own(value: ir.Value | None, edit: Edit) -> ir.Node | None:
    """Return the ``DequantizeLinear`` of a weight that nobody else reads, nor the integers behind it."""
    node = stored(value)
    if value is None or node is None or not edit.facts.constants.known(value) or value.is_graph_output():
        return None
    integers = node.inputs[0]
    alone = len(value.uses()) == 1 and integers is not None and len(integers.uses()) == 1
    return node if alone and node.graph is edit.graph else None


def _masked(node: ir.Node, edit: Edit) -> ir.Value | None:
    """Return the weight with a mask of zeros and ones in it."""
    places = [place for place, value in enumerate(node.inputs) if _own(value, edit) is not None]
    if len(places) != 1:
        return None
    value = node.inputs[places[0]]
    assert value is not None
    mask = _mask(node, places[0], edit)
    known = dims.static(value)
    if mask is None or known is None or None in known or edit.facts.constants.finite(value) is not True:
        return None
    shape = [size or 0 for size in known]
    try:
        kept = np.broadcast_to(mask, shape)
    except ValueError:  # the mask is the larger one
        return None

    def compute(array: np.ndarray, zero: np.ndarray) -> np.ndarray:
        return np.where(kept, array, zero).astype(array.dtype)

    return quantized.changed(value, compute, shape, None, f"{value.name}_masked", edit)


def _mask(node: ir.Node, place: int, edit: Edit) -> np.ndarray | None:
    """Return where a node keeps the weight at ``place`` (bool), if it makes zeros of the rest."""
    constants = edit.facts.constants
    if node.op_type == "Mul":
        array = constants.array(node.inputs[1 - place])
        return array.astype(bool) if array is not None and bool(((array == 0) | (array == 1)).all()) else None
    if place == 0:
        return None
    condition, other = constants.array(node.inputs[0]), constants.array(node.inputs[3 - place])
    if condition is None or other is None or bool((other != 0).any()) or other.size != 1:
        return None
    return condition.astype(bool) if place == 1 else ~condition.astype(bool)


def _turned(node: ir.Node, edit: Edit) -> ir.Value | None:
    """Return the weight with its axes in the order of a transpose."""
    value = node.inputs[0]
    source, known = _own(value, edit), dims.static(value)
    if source is None or value is None or known is None or None in known:
        return None
    if source.attributes.get_int("block_size", 0):
        return None
    perm = list(node.attributes.get_ints("perm", tuple(reversed(range(len(known))))))
    axis = axis_of(source, len(known))

    def compute(array: np.ndarray, zero: np.ndarray) -> np.ndarray:
        return np.transpose(array, perm)

    result = quantized.changed(value, compute, [known[i] or 0 for i in perm], None, f"{value.name}_turned", edit)
    turned = result.producer()
    assert turned is not None
    if axis is not None and source.inputs[1] is not None and edit.facts.constants.size(source.inputs[1]) != 1:
        turned.attributes["axis"] = ir.AttrInt64("axis", perm.index(axis))
    return result
