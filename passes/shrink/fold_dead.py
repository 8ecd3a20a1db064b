"""Dead layers go."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from graphopt import dims
from graphopt.context import Context
from graphopt.facts.constants import is_constant
from graphopt.facts.store import Facts
from graphopt.plan.classes import Plan
from graphopt.rewrite.edit import Cursor, Edit
from graphopt.rewrite.unused import remove_unused


@dataclass(frozen=True)
class FoldDead:
    """A value whose every position along some axis is constant is a constant; everything above it goes.

    1. Where such a value meets a live operand in an elementwise operator, its fills stand in for it (``[1, C, 1, 1]``).
    2. Elsewhere the fills are expanded to its shape: known sizes, and symbols that a graph input carries.

    *Never* where the shape cannot be rebuilt from graph inputs, and never for a value that is a constant already.

    *Needs* nothing.

    ``Add(x, Conv(y, 0) + b)`` -> ``Add(x, b)``
    """

    name: ClassVar[str] = "fold-dead"

    def run(self, context: Context) -> bool:
        """Run on every graph."""
        return context.everywhere(lambda: self._run(context))

    def _run(self, context: Context) -> bool:
        facts = context.facts()
        if not facts.dead:
            return False
        edit = Edit(Plan(facts, context.kind), "composed", cut_weights=True)
        folded = 0
        for node in list(facts.graph):
            for position, value in enumerate(node.inputs):
                if value is None or is_constant(value) or value not in facts.dead:
                    continue
                fills = _constant_fills(value, facts)
                if fills is None or not _worth(value):
                    continue
                if _is_plain(node) and _shape_survives(node, position):
                    node.replace_input_with(position, edit.constant(fills, f"{value.name}_constant", value.dtype))
                    folded += 1
                    continue
                if position in (facts.specs[node].unread if node in facts.specs else ()):
                    continue
                expanded = _expanded(value, fills, edit)
                if expanded is not None:
                    node.replace_input_with(position, expanded)
                    folded += 1
        for value in list(facts.graph.outputs):
            fills = _constant_fills(value, facts) if value in facts.dead else None
            if fills is not None and _worth(value):
                expanded = _expanded(value, fills, edit)
                if expanded is not None:
                    edit.stand_in(value, expanded, list(value.uses()))
                    folded += 1
        if folded:
            remove_unused(facts.graph)
        return context.record({"dead": folded})


ELEMENTWISE = frozenset("Add Sub Mul Div Max Min Sum Mean Where Pow".split())


def _constant_fills(value: ir.Value, facts: Facts) -> np.ndarray | None:
    """Return the fills, shaped to broadcast against the value, if every position of some axis is dead."""
    rank = dims.rank(value)
    if rank is None:
        return None
    for axis, dead in facts.dead_axes(value).items():
        if dead.mask.all():
            shape = [1] * rank
            if bool((dead.fill == dead.fill[0]).all()):
                return dead.fill[:1].reshape(shape)
            shape[axis] = dead.fill.size
            return dead.fill.reshape(shape)
    return None


def _worth(value: ir.Value) -> bool:
    """An ``Expand`` of a constant is the form this pass writes itself; a constant of a shape holds no parameters."""
    producer = value.producer()
    return not (
        producer is None
        or producer.op_type == "ConstantOfShape"
        or (producer.op_type == "Expand" and producer.inputs[0] is not None and is_constant(producer.inputs[0]))
    )


def _is_plain(node: ir.Node) -> bool:
    return node.op_type in ELEMENTWISE and node.domain == ""


def _shape_survives(node: ir.Node, position: int) -> bool:
    """Tell whether the other operands alone give the node's output its shape."""
    out = dims.sizes(node.outputs[0])
    if out is None:
        return False
    for axis, size in enumerate(out):
        carried = size == 1
        for other, value in enumerate(node.inputs):
            if other == position or value is None:
                continue
            own = dims.sizes(value)
            if own is None:
                continue
            shifted = axis - (len(out) - len(own))
            carried |= shifted >= 0 and dims.provably_equal(own[shifted], size)
        if not carried:
            return False
    return True


def _expanded(value: ir.Value, fills: np.ndarray, edit: Edit) -> ir.Value | None:
    """Build the whole value from its fills; ``None`` where a size cannot be rebuilt."""
    key = ("expanded", value)
    if key in edit.moved:
        return edit.moved[key]
    known = dims.sizes(value)
    if known is None or edit.facts.opset < 8:
        return None
    place = Cursor(edit.graph, before=next(iter(edit.graph), None))
    int64 = ir.DataType.INT64
    sources: dict[str, tuple[ir.Value, int]] = {}
    for graph_input in edit.graph.inputs:
        for axis, size in enumerate(dims.sizes(graph_input) or ()):
            if isinstance(size, str):
                sources.setdefault(size, (graph_input, axis))
    if any(size is None or (isinstance(size, str) and size not in sources) for size in known):
        return None
    constant = edit.constant(fills, f"{value.name}_constant", value.dtype)
    parts: list[ir.Value | None] = []
    for size in known:
        if isinstance(size, int):
            parts.append(edit.constant(np.array([size], np.int64), f"size_{size}"))
            continue
        source, axis = sources[str(size)]
        shape = edit.node("Shape", [source], place, f"{source.name}_shape", [dims.rank(source)], source, dtype=int64)
        index = edit.constant(np.array([axis], np.int64), f"axis_{axis}")
        parts.append(edit.node("Gather", [shape, index], place, f"size_{size}", [1], source, dtype=int64))
    if not parts:
        result = edit.node("Identity", [constant], place, f"{value.name}_constant", known, value)
    else:
        axes = [ir.AttrInt64("axis", 0)]
        target = edit.node("Concat", parts, place, f"{value.name}_shape", [len(parts)], value, axes, int64)
        result = edit.node("Expand", [constant, target], place, f"{value.name}_constant", known, value)
    edit.moved[key] = result
    return result
