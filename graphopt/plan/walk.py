"""One look at each node of a graph: what its operators tie, pin and let through; see ``plan/cells.py``."""

from __future__ import annotations

from collections.abc import Collection

import onnx_ir as ir

from graphopt import dims
from graphopt.facts.ops.elementwise import Elementwise
from graphopt.facts.rules import find
from graphopt.facts.store import Facts, sizes_only
from graphopt.plan.cells import Cells, Part
from graphopt.plan.operands import Operands
from graphopt.plan.regroup import reshape
from graphopt.plan.results import Results
from graphopt.plan.sums import Sums
from graphopt.subgraphs import subgraphs

RESHAPES = frozenset({"Reshape", "Flatten", "Squeeze", "Unsqueeze"})
RECURRENT = frozenset({"LSTM", "GRU", "RNN"})
TIED = "ties its states to themselves, step by step"
UNKNOWN = "reads it, and how it treats its axes is not known"


def walk(facts: Facts, parameters: Collection[str]) -> Cells:
    """Look at every node of a graph, once.

    Args:
        facts: Of the graph; asked for constants alone.
        parameters: Names of initializers whose positions may leave.
    """
    cells = Cells(facts)
    graph = facts.graph
    for name, value in graph.initializers.items():
        if name not in parameters or value.dtype is None or not value.dtype.is_floating_point():
            cells.free.add(value)
            continue
        cells.weights.add(value)
        for axis, size in enumerate(dims.static(value) or ()):
            if size:
                part = Part((axis,), cells.fresh(size))
                cells.parts.setdefault(value, {})[axis] = part
                cells.owned.append((name, axis, part.cells))
    for node in graph:
        _node(cells, node)
    for value in graph.outputs:
        cells.pin_all(value, f"it is visible in the output '{value.name}'")
    return cells


def _node(cells: Cells, node: ir.Node) -> None:
    inputs = [value for value in node.inputs if value is not None]
    bodies = list(subgraphs(node))
    inside = [
        value
        for body in bodies
        for each in body.all_nodes()
        for value in each.inputs
        if value is not None and value.graph is cells.facts.graph
    ]
    rule = None if bodies or node.op_type in RECURRENT else find(node)
    if isinstance(rule, Elementwise) and rule.operands is not None:
        inputs = inputs[: rule.operands]  # of the others no more than their type is read
    every = [*inputs, *inside]
    if node.op_type in ("Shape", "Size") or all(value in cells.free for value in every):
        cells.free.update(node.outputs)
        return
    if all(value in cells.free or value in cells.weights for value in every):
        cells.weights.update(node.outputs)
    spec = None if rule is None else rule.spec(node, cells.bare)
    if spec is None:
        for value in every:
            cells.pin_all(value, f"{node.op_type} {TIED if node.op_type in RECURRENT else UNKNOWN}")
    elif node.op_type in RESHAPES:
        reshape(cells, node)
    else:
        _tie(Operands(cells, node, spec))


def _tie(operands: Operands) -> None:
    results, sums = Results(operands), Sums(operands)
    for position, out in enumerate(operands.node.outputs):
        if not sizes_only(out):
            results.make(position, out)
    sums.groups()
    sums.contract()
    operands.pin_rest()
