"""Bidirectional layers whose directions need different units become two layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from graphopt import dims
from graphopt.context import Context
from graphopt.facts.ops.recurrent import HIDDEN_AXIS, LENGTHS, Recurrence, X, read_alone, recurrence
from graphopt.facts.store import Facts
from graphopt.plan.classes import Plan
from graphopt.rewrite.edit import Cursor, Edit
from graphopt.rewrite.unused import remove_unused

RECURRENT = frozenset({"LSTM", "GRU", "RNN"})

DIRECTIONS = ("forward", "reverse")


@dataclass(frozen=True)
class SplitDirections:
    """Give LSTM, GRU and RNN the form in which each direction can lose units of its own.

    1. An initial state that is zero goes.
    2. A bidirectional layer of which the directions need different units becomes a forward and a reverse layer; what
       read both (``Transpose``, ``Reshape``) reads a ``Concat`` of the two.

    *Never* where the two directions' results are not taken apart or put side by side: a graph output shows both alike.

    *Needs* masks folded into the weights.

    ``Reshape(Transpose(LSTM(x, bidirectional)))`` -> ``Concat(LSTM(x, forward), LSTM(x, reverse))``
    """

    name: ClassVar[str] = "split-directions"

    def run(self, context: Context) -> bool:
        """Run on every graph."""
        return context.everywhere(lambda: self._run(context))

    def _run(self, context: Context) -> bool:
        graph = context.graph
        if RECURRENT.isdisjoint(context.operators()):
            return False
        facts = context.facts()
        edit = Edit(Plan(facts, context.kind), "composed", cut_weights=True)
        idle = split = 0
        for node in list(graph):
            spec = facts.specs.get(node)
            found = None if spec is None else recurrence(spec)
            if found is None:
                continue
            for operand in found.idle:
                node.replace_input_with(operand, None)
                idle += 1
            readers = _readers(node, found, facts) if found.directions == 2 else None
            if readers is not None and _differ(node, found, readers, facts):
                _split(node, found, readers, edit)
                split += 1
        if idle or split:
            remove_unused(graph)
        return context.record({"states": idle, "split": split})


@dataclass(frozen=True)
class _Readers:
    """Who reads the results of a bidirectional layer, where that can be told direction by direction."""

    merged: Sequence[tuple[ir.Node, ir.Node]]
    """(Transpose, Reshape) that put the directions of Y side by side."""
    taken: Sequence[tuple[int, ir.Node, int]]
    """(output, Gather, direction) that take one direction out of Y_h or Y_c."""


def _readers(node: ir.Node, found: Recurrence, facts: Facts) -> _Readers | None:
    if "activation_alpha" in node.attributes or "activation_beta" in node.attributes:
        return None
    merged: list[tuple[ir.Node, ir.Node]] = []
    taken: list[tuple[int, ir.Node, int]] = []
    for position, out in enumerate(node.outputs):
        if out.is_graph_output() or out in facts.captured:
            return None
        for user in {use.node for use in out.uses()}:
            if user.op_type == "Shape":
                continue
            if position == 0:
                pairs = _side_by_side(user, found, facts)
                if pairs is None:
                    return None
                merged += pairs
                continue
            direction = _one_direction(user, facts)
            if direction is None:
                return None
            taken.append((position, user, direction))
    return _Readers(merged, taken)


def _side_by_side(node: ir.Node, found: Recurrence, facts: Facts) -> list[tuple[ir.Node, ir.Node]] | None:
    """Return (Transpose, Reshape) for every reader, if all of them merge ``(directions, units)`` of Y."""
    perm = list(node.attributes.get_ints("perm", ())) if node.op_type == "Transpose" else []
    out = node.outputs[0]
    if perm[2:] != [1, 3] or out.is_graph_output() or out in facts.captured:
        return None
    pairs = []
    for user in {use.node for use in out.uses()}:
        if user.op_type == "Shape":
            continue
        spec = facts.specs.get(user)
        if user.op_type != "Reshape" or spec is None or dims.rank(user.outputs[0]) != 3:
            return None
        straight = {(link.axis, link.out_axis) for link in spec.links}
        blocks = [(block.ins, block.outs, block.sizes) for block in spec.blocks]
        if not _kept(straight, out) or blocks != [((2, 3), (2,), (2, found.hidden))]:
            return None
        pairs.append((node, user))
    return pairs


def _kept(straight: set[tuple[int, int]], value: ir.Value) -> bool:
    """Tell whether a reshape that merges the last two of four axes keeps the first two; one of a known size will do."""
    if straight == {(0, 0), (1, 1)}:
        return True
    known = dims.static(value)
    return known is not None and straight in ({(0, 0)}, {(1, 1)}) and all(known[axis] for axis, _ in straight)


def _one_direction(node: ir.Node, facts: Facts) -> int | None:
    """Return which direction a Gather takes, if it takes just one."""
    if node.op_type != "Gather" or node.attributes.get_int("axis", 0) not in (0, -3):
        return None
    index = facts.constants.array(node.inputs[1]) if facts.constants.known(node.inputs[1]) else None
    return int(index.reshape(())) % 2 if index is not None and index.ndim == 0 else None


def _differ(node: ir.Node, found: Recurrence, readers: _Readers, facts: Facts) -> bool:
    shown = np.zeros((2, found.hidden), bool)
    for _, reshape in readers.merged:
        shown |= facts.demanded(reshape.outputs[0], 2, 2 * found.hidden).reshape(2, found.hidden)
    for _, gather, direction in readers.taken:
        shown[direction] |= facts.demanded(gather.outputs[0], 1, found.hidden)
    needed = read_alone(node, found, shown, facts)
    return bool(needed.sum() < 2 * needed.any(axis=0).sum())


def _split(node: ir.Node, found: Recurrence, readers: _Readers, edit: Edit) -> None:
    place = Cursor(edit.graph, before=node)
    parts = [_one(node, direction, found, place, edit) for direction in range(2)]
    place = Cursor(edit.graph, after=node)
    for transpose, reshape in readers.merged:
        order = [axis - (axis > 1) for axis in transpose.attributes.get_ints("perm", ()) if axis != 1]
        sides = [_side(part[0], order, reshape.outputs[0], place, edit) for part in parts]
        _together(sides, reshape.outputs[0], 2, place, edit)
    for position, gather, direction in readers.taken:
        gather.replace_input_with(0, parts[direction][position])
        gather.replace_input_with(1, edit.constant(np.array(0, np.int64), f"{gather.outputs[0].name}_index"))
    for position, out in enumerate(node.outputs):
        if list(out.uses()):  # whoever asks for the size
            both = [part[position] for part in parts]
            _together(both, out, 1 if position == 0 else 0, place, edit)


def _one(node: ir.Node, direction: int, found: Recurrence, place: Cursor, edit: Edit) -> list[ir.Value]:
    """Insert the layer of one direction and return its outputs."""
    chosen = np.array([direction])
    inputs: list[ir.Value | None] = []
    for operand, value in enumerate(node.inputs):
        if value is None or operand in (X, LENGTHS):
            inputs.append(value)
        elif edit.facts.constants.known(value):
            inputs.append(edit.cut_tensor(value, {0: chosen}))
        else:
            sizes = list(dims.sizes(value) or ())
            index = edit.constant(chosen.astype(np.int64), f"direction_{direction}")
            axis = [ir.AttrInt64("axis", 0)]
            base = f"{value.name}_{DIRECTIONS[direction]}"
            inputs.append(edit.node("Gather", [value, index], place, base, [1, *sizes[1:]], value, axis))
    attributes = dict(node.attributes.items())
    attributes["direction"] = ir.AttrString("direction", DIRECTIONS[direction])
    if "activations" in attributes:
        names = list(attributes["activations"].as_strings())  # as they are written: runtimes look at the case
        half = len(names) // 2
        attributes["activations"] = ir.AttrStrings("activations", names[direction * half : (direction + 1) * half])
    outputs = []
    for out, axis in zip(node.outputs, HIDDEN_AXIS, strict=False):
        sizes = dims.sizes(out)
        shape = None if sizes is None else ir.Shape([1 if i == axis - 2 else size for i, size in enumerate(sizes)])
        if axis == 3 and sizes is not None:
            shape = ir.Shape([sizes[0], 1, *sizes[2:]])
        outputs.append(ir.Value(name=edit.name(f"{out.name}_{DIRECTIONS[direction]}"), shape=shape, type=out.type))
    name = edit.name(f"{node.name or node.op_type}_{DIRECTIONS[direction]}")
    layer = ir.Node("", node.op_type, inputs, attributes.values(), outputs=outputs, name=name)
    layer.metadata_props.update(node.metadata_props)
    place.insert(layer)
    return outputs


def _side(y: ir.Value, order: list[int], named: ir.Value, place: Cursor, edit: Edit) -> ir.Value:
    """Return Y ``[sequence, 1, batch, units]`` of one direction without the second axis, in the order that is read."""
    sizes = dims.sizes(y)
    assert sizes is not None
    rest = [sizes[0], *sizes[2:]]
    if edit.facts.opset < 13:
        side = edit.node("Squeeze", [y], place, f"{y.name}_rows", rest, y, [ir.AttrInt64s("axes", [1])])
    else:
        side = edit.node("Squeeze", [y, edit.constant(np.array([1]), "axis_1")], place, f"{y.name}_rows", rest, y)
    if order == [0, 1, 2]:
        return side
    turned = [rest[i] for i in order]
    return edit.node("Transpose", [side], place, f"{y.name}_rows", turned, y, [ir.AttrInt64s("perm", order)])


def _together(parts: list[ir.Value], out: ir.Value, axis: int, place: Cursor, edit: Edit) -> None:
    users = list(out.uses())
    attributes = [ir.AttrInt64("axis", axis)]
    inputs: list[ir.Value | None] = list(parts)
    both = edit.node("Concat", inputs, place, f"{out.name}_both", dims.sizes(out), out, attributes)
    edit.stand_in(out, both, users)
