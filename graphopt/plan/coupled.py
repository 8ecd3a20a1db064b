"""Does a value's axis share its layout with that of another value?"""

from __future__ import annotations

import onnx_ir as ir

from graphopt.facts.rules import ELEMENTWISE_JOINS
from graphopt.facts.store import Facts


def coupled(value: ir.Value, axis: int, facts: Facts) -> bool:
    """Tell whether an operator that reads the axis, through any links, can only be narrowed with another operand.

    Such are the batch axes of a product of two live values: one that stays whole keeps the other one whole. An
    elementwise operator is none: each of its operands may have a layout of its own.
    """
    pending, seen = [(value, axis)], {(value, axis)}
    while pending:
        current, place = pending.pop()
        for use in current.uses():
            spec = facts.specs.get(use.node)
            if spec is None or use.node.graph is not facts.graph:
                continue
            ends = [(pair, (use.idx, place)) for pair in spec.products if (use.idx, place) in pair]
            if any(_live(use.node, pair[0] if pair[1] == own else pair[1], facts) for pair, own in ends):
                return True
            for link in spec.of_operand(use.idx):
                if link.axis != place or link.index is not None:
                    continue
                others = [(other.operand, other.axis) for other in spec.of_output(link.out, link.out_axis)]
                if use.node.op_type not in ELEMENTWISE_JOINS and any(
                    _live(use.node, other, facts) for other in others if other[0] != use.idx
                ):
                    return True
                end = use.node.outputs[link.out], link.out_axis
                if end not in seen:
                    seen.add(end)
                    pending.append(end)
    return False


def _live(node: ir.Node, end: tuple[int, int], facts: Facts) -> bool:
    value = node.inputs[end[0]]
    return value is not None and not facts.constants.known(value)
