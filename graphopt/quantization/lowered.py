"""The quantized model with runtime operators, and what none of them took returned to float.

Q and DQ around an operator are a wish on every target. Where graphopt's own operators fulfil it, a lowering pass that
declines leaves the pattern behind: a float kernel between DQ and Q, slower than float alone. Such nodes are returned to
float, and the model is made anew.
"""

from __future__ import annotations

from dataclasses import replace

import onnx_ir as ir

from graphopt import registry, rounds
from graphopt.context import Context
from graphopt.quantization import steps
from graphopt.quantization.place_candidates import STANDARD
from graphopt.quantization.placement import Kept, Placement
from graphopt.quantization.tables import WITH_OPERATORS
from graphopt.report.schema import Report
from graphopt.rounds import Settings
from graphopt.selection import lowerings

DECLINED = "no runtime operator takes it as it is"

TRIES = 3
"""Returning a node to float changes what its neighbours look like; after so many times the rest stays as it is."""


def finished(context: Context, quantized: ir.Model, report: Report) -> ir.Model:
    """Return the quantized model as the target runs it: with runtime operators, where they were asked for.

    Args:
        context: The quantization; its placement is the one that ``quantized`` carries out, and gets smaller where a
            node is returned to float.
        quantized: A copy with Q and DQ; is edited.
        report: Gets a row for each lowering pass.
    """
    request = steps.state_of(context).request
    if not request.operators:
        return quantized
    state, first = steps.state_of(context), len(report.passes)
    tries = TRIES if WITH_OPERATORS.get(request.target) is request.table else 1
    while True:
        tries -= 1
        inside = _lowered(context, quantized, report)
        declined = remaining(state.placement, inside.model) if tries else []
        if not declined:
            context.warnings += [row for row in inside.warnings if row not in context.warnings]
            return inside.model
        del report.passes[first:]
        state.floats |= set(declined)
        state.why |= dict.fromkeys(declined, DECLINED)
        quantized = steps.rebuilt(context)


def remaining(placement: Placement, result: ir.Model) -> list[ir.Node]:
    """Return the nodes of a placement that compute and are still there, in standard operators."""
    left = {(node.name, node.op_type) for node in result.graph if node.domain in STANDARD}
    return [node for node, kernel in placement.nodes.items() if kernel != "move" and (node.name, node.op_type) in left]


def confirmed(placement: Placement, result: ir.Model) -> Placement:
    """Return a placement without the nodes that no operator took after all; they are among those in float."""
    left = set(remaining(placement, result))
    nodes = {node: kernel for node, kernel in placement.nodes.items() if node not in left}
    return replace(placement, nodes=nodes, kept=[*placement.kept, *(Kept(node, DECLINED) for node in left)])


def _lowered(context: Context, quantized: ir.Model, report: Report) -> Context:
    target = steps.state_of(context).request.target
    passes: list[registry.Pass] = lowerings(target)
    inside = rounds.prepare(quantized, Settings((), target=target, operators=True))
    rounds.lower(inside, passes, report, lambda what, done, total: None)
    return inside
