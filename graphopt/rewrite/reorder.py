"""Positions in another order, at no cost: where weights make an axis and weights read it, the weights are reordered."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from graphopt.facts.ops.contraction import geometry
from graphopt.facts.ops.elementwise import BINARY, UNARY
from graphopt.facts.store import Facts
from graphopt.rewrite.edit import Edit

Constant = tuple[ir.Node, int, int]
"""A node, its input that is a constant, and the axis of the constant that has the positions."""

PASSING = frozenset(UNARY) | frozenset(BINARY) | {"Mul", "Div", "BatchNormalization", "Identity", "Cast"}
POOLS = frozenset({"MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "LpPool"})
"""Operators that treat every position of an axis that they link alike, whichever place it has."""


def makers(value: ir.Value, axis: int, facts: Facts) -> list[Constant] | None:
    """Return the constants that decide the order of a value's positions; ``None`` where anything else does."""
    found: list[Constant] = []
    while True:
        node = value.producer()
        spec = None if node is None else facts.specs.get(node)
        if node is None or spec is None or node.graph is not facts.graph or not _free(value, facts):
            return None
        if len(value.uses()) != 1 or len(node.outputs) != 1:
            return None
        geo = geometry(spec)
        if geo is not None:
            if geo.groups > 1 or geo.out_axis != axis or (0, axis) in spec.pinned or _shared(node, geo.w):
                return None
            rest = _linked(node, axis, facts, skip=(geo.x, geo.w))
            return None if rest is None else [*found, *rest, (node, geo.w, geo.w_out)]
        passed = _passed(node, axis, facts)
        if passed is None:
            return None
        operand, axis, constants = passed
        found += constants
        source = node.inputs[operand]
        assert source is not None
        value = source


def readers(value: ir.Value, axis: int, facts: Facts) -> list[Constant] | None:
    """Return the constants that a value's positions meet, if its order is nobody else's business."""
    found: list[Constant] = []
    waiting = [(value, axis)]
    while waiting:
        current, place = waiting.pop()
        if not _free(current, facts):
            return None
        for use in current.uses():
            node = use.node
            spec = facts.specs.get(node)
            if spec is None or node.graph is not facts.graph or len(node.outputs) != 1:
                return None
            geo = geometry(spec)
            if geo is not None:
                if geo.groups > 1 or (use.idx, place) != (geo.x, geo.x_axis) or _shared(node, geo.w):
                    return None
                found.append((node, geo.w, geo.w_in))
                continue
            links = [link for link in spec.of_operand(use.idx) if link.axis == place]
            passed = _passed(node, links[0].out_axis, facts) if len(links) == 1 else None
            if passed is None or passed[:2] != (use.idx, place):
                return None
            found += passed[2]
            waiting.append((node.outputs[0], links[0].out_axis))
    return found


def reorder(constants: list[Constant], order: np.ndarray, edit: Edit) -> None:
    """Bring the positions of constants into an order: position ``p`` is what ``order[p]`` was."""
    for node, operand, axis in constants:
        value = node.inputs[operand]
        assert value is not None
        node.replace_input_with(operand, edit.cut(value, {axis: order}))


def _free(value: ir.Value, facts: Facts) -> bool:
    return not value.is_graph_output() and value not in facts.captured


def _passed(node: ir.Node, axis: int, facts: Facts) -> tuple[int, int, list[Constant]] | None:
    """Return (operand, its axis, constants along it) of a node that passes the positions of one operand through."""
    spec = facts.specs[node]
    if node.domain not in ("", "ai.onnx") or node.op_type not in PASSING | POOLS or spec.blocks or spec.groups:
        return None
    live = [place for place, value in enumerate(node.inputs) if value is not None and not facts.constants.known(value)]
    links = [link for link in spec.of_output(0, axis) if link.operand in live]
    if len(live) != 1 or len(links) != 1 or links[0].index is not None or (0, axis) in spec.pinned:
        return None
    constants = _linked(node, axis, facts, skip=(live[0],))
    return None if constants is None else (live[0], links[0].axis, constants)


def _linked(node: ir.Node, axis: int, facts: Facts, skip: tuple[int, ...]) -> list[Constant] | None:
    """Return the other operands along an output axis, if all of them are constants of this node alone."""
    found: list[Constant] = []
    for link in facts.specs[node].of_output(0, axis):
        if link.operand in skip:
            continue
        value = node.inputs[link.operand]
        if link.index is not None or value is None or not facts.constants.known(value):
            return None
        if facts.constants.single(value) is not None:
            continue  # the same everywhere, in any order
        if _shared(node, link.operand):
            return None
        found.append((node, link.operand, link.axis))
    return found


def _shared(node: ir.Node, operand: int) -> bool:
    """Tell whether somebody else reads a constant too: it would be there twice."""
    value = node.inputs[operand]
    return value is None or len(value.uses()) != 1
