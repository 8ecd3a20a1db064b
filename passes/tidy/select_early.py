"""Parts of a rearranged value are taken before it is rearranged."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from graphopt import dims
from graphopt.context import Context
from graphopt.facts.arrangements import MOVES, Arrangement, Arrangements
from graphopt.facts.constants import Constants
from graphopt.facts.factors import ONE, Axes, Factor, Product, simplified
from graphopt.rewrite.arrange import Recipe, arrange, recipe, writable
from graphopt.rewrite.edit import Cursor, Edit
from graphopt.rewrite.unused import remove_unused

SELECTIONS = frozenset({"Split", "Slice", "Gather"})

OPSET = 10
"""From which Slice takes its bounds as inputs."""


@dataclass(frozen=True, slots=True)
class Part:
    """What one output of a selection takes: positions ``first`` to ``last`` of an axis; that axis may be gone."""

    out: ir.Value
    axis: int
    first: int
    last: int
    dropped: bool = False


@dataclass(frozen=True)
class SelectEarly:
    """Take queries, keys and values out of one product before it is reshaped and transposed, not after.

    1. ``Split``, ``Slice`` or ``Gather`` of constant neighbouring positions behind a chain of Reshape and Transpose
       becomes a ``Slice`` in front of the chain, if the positions are the outermost digit of one of its axes, and if
       all that reads the chain selects like this.

    *Never* where positions would have to be collected one by one.

    *Needs* shapes folded.

    ``Gather(Transpose(Reshape(x: [N, 3*E] -> [N, 3, E])), 0)`` -> ``Reshape(Slice(x: [N, 3*E], 0, E))``
    """

    name: ClassVar[str] = "select-early"

    def run(self, context: Context) -> bool:
        """Run on every graph."""
        return context.everywhere(lambda: self._run(context))

    def _run(self, context: Context) -> bool:
        graph = context.graph
        operators = context.operators()
        if context.opset < OPSET or MOVES.isdisjoint(operators) or SELECTIONS.isdisjoint(operators):
            return False
        arrangements = Arrangements(context.constants)
        for node in graph:
            arrangements.visit(node)
        edit = Edit(context.bare(), "composed", cut_weights=True)
        moved = 0
        for node in list(graph):
            for value in node.outputs:
                found = arrangements.of(value)
                if found is not None and found.nodes and not found.repeats and arrangements.certain(value):
                    moved += _select(value, found, context.constants, edit)
        if moved:
            remove_unused(graph)
        return context.record({"selections": moved})


def _select(value: ir.Value, found: Arrangement, constants: Constants, edit: Edit) -> int:
    """Move all selections from one value; the number of values that are taken earlier now."""
    users = [use.node for use in value.uses()]
    if not users or value.is_graph_output():
        return 0
    planned: list[tuple[Part, Arrangement, Recipe, Factor]] = []
    for node in users:
        parts = _parts(node, value, constants)
        if parts is None or node.graph is not edit.graph:
            return 0
        for part in parts:
            early = _early(part, found)
            if early is None:
                return 0
            steps = recipe(early[0])
            if part.out.is_graph_output() or not writable(early[0], steps, edit):
                return 0
            planned.append((part, early[0], steps, early[1]))
    # A part that is the whole stays where it is: nothing would be won.
    if any(part.first == 0 and factor.size == Product(part.last) for part, _, _, factor in planned):
        return 0
    for part, early, steps, factor in planned:
        place = Cursor.behind(found.root, edit.graph)
        taken = _slice(found.root, factor, part, place, edit)
        early = Arrangement(taken, early.sizes, early.axes)
        result = arrange(early, steps, part.out, place, edit, {}) if steps.nodes else taken
        assert result is not None
        edit.stand_in(part.out, result, list(part.out.uses()))
    return len(planned)


def _slice(root: ir.Value, factor: Factor, part: Part, place: Cursor, edit: Edit) -> ir.Value:
    known = list(dims.sizes(root) or ())
    inner = factor.inner.number
    bounds = part.first * inner, part.last * inner
    known[factor.axis] = bounds[1] - bounds[0]
    base = f"{part.out.name}_taken"
    inputs: list[ir.Value | None] = [root]
    for number, what in ((bounds[0], "from"), (bounds[1], "to"), (factor.axis, "axis")):
        inputs.append(edit.constant(np.array([number], np.int64), f"{what}_{number}"))
    return edit.node("Slice", inputs, place, base, known, root)


def _early(part: Part, found: Arrangement) -> tuple[Arrangement, Factor] | None:
    """Return the part as an arrangement of a slice of the root, and the digit that is sliced."""
    if len(found.axes[part.axis]) != 1:
        return None
    factor = found.axes[part.axis][0]
    size, total = factor.size, found.sizes[factor.axis]
    if factor.outer != ONE or total.symbols:
        return None
    count = Product(part.last - part.first)

    def narrowed(other: Factor) -> Factor | None:
        if other.axis != factor.axis:
            return other
        if other == factor:
            return None if count == ONE else Factor(factor.axis, ONE, count, factor.inner)
        outer = other.outer.over(size)
        assert outer is not None
        return Factor(other.axis, outer * count, other.size, other.inner)

    axes: Axes = tuple(
        simplified([kept for kept in map(narrowed, axis) if kept is not None])
        for place, axis in enumerate(found.axes)
        if not (part.dropped and place == part.axis)
    )
    sizes = list(found.sizes)
    sizes[factor.axis] = count * factor.inner
    return Arrangement(found.root, tuple(sizes), axes), factor


def _parts(node: ir.Node, value: ir.Value, constants: Constants) -> list[Part] | None:
    """Return what a node takes of a value, output by output, where that is neighbouring positions of one axis."""
    known = dims.static(value)
    if node.domain not in ("", "ai.onnx") or node.inputs[0] is not value or known is None:
        return None
    if any(other is value for other in node.inputs[1:]):
        return None
    if node.op_type == "Split":
        axis = node.attributes.get_int("axis", 0) % len(known)
        parts, first = [], 0
        for out in node.outputs:
            size = (dims.static(out) or (None,) * len(known))[axis]
            if not size:
                return None
            parts.append(Part(out, axis, first, first + size))
            first += size
        return parts
    out = node.outputs[0]
    if node.op_type == "Gather":
        axis, index = node.attributes.get_int("axis", 0) % len(known), constants.array(node.inputs[1])
        size = known[axis]
        if index is None or index.ndim > 1 or not index.size or size is None:
            return None
        positions = np.where(index.ravel() < 0, index.ravel() + size, index.ravel())
        first = int(positions[0])
        if not np.array_equal(positions, np.arange(first, first + positions.size)):
            return None
        return [Part(out, axis, first, first + int(positions.size), index.ndim == 0)]
    if node.op_type != "Slice" or len(node.inputs) < 4 or (len(node.inputs) > 4 and node.inputs[4] is not None):
        return _sliced_by_ones(node, known, constants) if node.op_type == "Slice" else None
    return _sliced(node, known, constants)


def _sliced(node: ir.Node, known: tuple[int | None, ...], constants: Constants) -> list[Part] | None:
    starts, ends, axes = (constants.ints(operand) for operand in node.inputs[1:4])
    if starts is None or ends is None or axes is None or len(axes) != 1:
        return None
    axis = axes[0] % len(known)
    size = known[axis]
    if size is None:
        return None
    first, last, _ = slice(starts[0], ends[0]).indices(size)
    return [Part(node.outputs[0], axis, first, last)] if first < last else None


def _sliced_by_ones(node: ir.Node, known: tuple[int | None, ...], constants: Constants) -> list[Part] | None:
    steps = constants.ints(node.inputs[4]) if len(node.inputs) > 4 else None
    return _sliced(node, known, constants) if steps is not None and all(step == 1 for step in steps) else None
