"""What is left of the masking in a model: mask products, and places where a narrow value is made wide again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

# Their outputs tell about sizes, not about data.
_SIZES = {"Shape", "Size"}
_SAME_NUMBERS = {"Cast", "CastLike", "Identity", "Reshape", "Unsqueeze", "Squeeze", "Expand", "Transpose"}
# A wide value may pass through these on its way to the Add that needs it wide.
_CARRIERS = {"Gather", "Add", "Sub", "Mul", "Div", "Identity", "Cast", "Transpose", "Reshape", "ScatterND", "Slice"}


def constant(value: ir.Value | None) -> np.ndarray | None:
    """The numbers of an initializer or a Constant node, also behind a change of type or shape, else None."""
    if value is None:
        return None
    if value.const_value is not None:
        return value.const_value.numpy()
    node = value.producer()
    if node is None:
        return None
    if node.op_type == "Constant" and "value" in node.attributes:
        return node.attributes["value"].as_tensor().numpy()
    return constant(node.inputs[0]) if node.op_type in _SAME_NUMBERS else None


def masks_left(model: ir.Model) -> list[str]:
    """Nodes that still apply a mask: a product of constants, or with a constant that has zeros."""
    found = []
    moving = varying(model)
    for node in model.graph:
        if node.op_type not in ("Mul", "Where", "And"):
            continue
        # What Where selects by a computed condition (a causal mask) is data, whatever it puts in its place.
        operands = node.inputs[:1] if node.op_type == "Where" else node.inputs
        known = [array for array in map(constant, operands) if array is not None]
        if node.outputs[0] not in moving and all(array.dtype.kind in "iub" for array in known):
            continue  # arithmetic with sizes
        if len(known) == len(operands) or any(array.size and not array.all() for array in known):
            found.append(f"{node.op_type} {node.name}: {[value.name for value in node.inputs if value]}")
    return found


def varying(model: ir.Model) -> set[ir.Value]:
    """Values whose numbers depend on the numbers of a graph input."""
    found = set(model.graph.inputs)
    for node in model.graph:
        if node.op_type not in _SIZES and any(value in found for value in node.inputs if value is not None):
            found.update(node.outputs)
    return found


def widenings(model: ir.Model) -> list[ir.Node]:
    """Scatters in every form: ScatterND/ScatterElements, Pad, and Concat of a computed value with a fixed one."""
    moving = varying(model)
    found = []
    for node in model.graph:
        if node.op_type in ("ScatterND", "ScatterElements", "Pad"):
            if any(value in moving for value in node.inputs if value is not None):
                found.append(node)
        elif node.op_type == "Concat":
            moves = [value in moving for value in node.inputs]
            if any(moves) and not all(moves):
                found.append(node)
    return found


def _ends(value: ir.Value, moving: set[ir.Value]) -> Iterator[tuple[ir.Node, bool]]:
    """Where a widened value ends up, and whether that node is a join: an Add of two computed values."""
    for node, _ in value.uses():
        joins = node.op_type == "Add" and all(operand in moving for operand in node.inputs)
        if node.op_type in _CARRIERS and not joins:
            yield from _ends(node.outputs[0], moving)
        else:
            yield node, joins


def inside_chains(model: ir.Model) -> list[str]:
    """Widenings that feed something else than an Add of two computed values (or the graph's output)."""
    moving = varying(model)
    outputs = set(model.graph.outputs)
    found = []
    for node in widenings(model):
        if node.outputs[0] in outputs:
            continue
        ends = [end for end, joins in _ends(node.outputs[0], moving) if not joins]
        found += [f"{node.op_type} {node.name} feeds {end.op_type} {end.name}" for end in ends]
    return found


def joins(model: ir.Model) -> dict[str, int]:
    """How many widenings end in each Add of two computed values; an Add that none ends in is not listed."""
    moving = varying(model)
    counts: Counter[str] = Counter()
    for node in widenings(model):
        counts.update({str(end.name) for end, joins in _ends(node.outputs[0], moving) if joins})
    return dict(counts)
