"""The two walks over a graph: supports forward, demands backward. No edits.

A body (of If, Loop, Scan) is analysed when the walk comes to its node: what is known of the values that it reads from
outside is known by then. Its inputs are unknown unless its node's rule proves more (``facts/ops/control.py``).
"""

from __future__ import annotations

from collections.abc import Mapping

import onnx_ir as ir

import graphopt.facts.ops  # noqa: F401  (fills the table of rules)
from graphopt.facts.constants import Constants, is_constant
from graphopt.facts.rules import find
from graphopt.facts.store import Dead, Facts
from graphopt.subgraphs import chooses, subgraphs


def analyse(
    model: ir.Model, constants: Constants, *, assume_finite: bool = True, names: set[str] | None = None
) -> Facts:
    """Compute the facts of a model's main graph; one topological walk forward, one backward.

    Demands follow from supports and supports need no demands, so that two walks are the fixed point; the plan may
    add forced demands and ask for ``demands`` again.

    Args:
        model: the model; facts of its bodies are in ``Facts.bodies``.
        constants: what is known of its constants.
        assume_finite: take activations for finite.
        names: names that an edit of this model must not give again, where it has bodies.
    """
    graph = model.graph
    opset = model.opset_imports.get("", model.opset_imports.get("ai.onnx", 1))
    facts = Facts(graph, opset, constants, assume_finite, names=names)
    if not assume_finite:
        facts.finite.update(value for value in graph.inputs)
    _walk(facts)
    return facts


def analyse_body(body: ir.Graph, around: Facts, known: Mapping[ir.Value, dict[int, Dead]] | None = None) -> Facts:
    """Compute the facts of a graph inside a node, given the facts of the graph around it so far.

    Args:
        body: the graph.
        around: facts of the graph that holds the node.
        known: what is proved of the body's inputs.
    """
    facts = Facts(body, around.opset, around.constants, around.assume_finite, names=around.names, around=around)
    facts.dead.update({value: dict(axes) for value, axes in (known or {}).items() if axes})
    for node in body:
        for value in node.inputs:
            if value is not None and value.graph is not body:
                _from_outside(value, facts)
    _walk(facts)
    return facts


def _from_outside(value: ir.Value, facts: Facts) -> None:
    """Let a body know what is known of a value that it reads from a graph around it."""
    around = facts.around
    while around is not None:
        if value in around.dead:
            facts.dead[value] = around.dead[value]
        if value in around.finite:
            facts.finite.add(value)
        if value.graph is around.graph:
            return
        around = around.around


def _walk(facts: Facts) -> None:
    graph, constants, assume_finite = facts.graph, facts.constants, facts.assume_finite
    for node in graph:
        if len(node.outputs) == 1 and node.op_type != "Constant" and constants.known(node.outputs[0]):
            continue  # a cut weight between passes, or one that is stored as integers: a constant
        found = find(node)
        spec = None if found is None else found.spec(node, facts)
        for body in subgraphs(node):
            if body not in facts.bodies:
                facts.bodies[body] = analyse_body(body, facts)
            _read_inside(node, facts.bodies[body], facts)
        if found is None or spec is None:
            continue
        facts.specs[node] = spec
        found.forward(node, spec, facts)
        if not assume_finite and all(facts.is_finite(v) for v in node.inputs) and found.finite(node, facts):
            facts.finite.update(node.outputs)
    demands(facts)


def demands(facts: Facts) -> None:
    """Walk backward and compute demands and physical needs anew, with the plan's forced demands."""
    facts.demand.clear()
    facts.physical.clear()
    facts.skips.clear()
    for value in facts.graph.outputs:
        facts.demand[value] = {axis: mask for axis, mask in facts.wanted.get(value, {}).items() if not mask.all()}
    for value in facts.captured:
        if value not in facts.sunk:
            facts.demand[value] = {}
            continue
        for inner in facts.sunk[value]:
            if value in inner.demand:
                facts.contribute(value, inner.demand[value])
            for axis, mask in inner.physical.get(value, {}).items():
                facts.need_physically(value, axis, mask)
    for node in reversed(facts.graph):
        spec = facts.specs.get(node)
        if spec is None:
            if _matters(node, facts):
                for value in node.inputs:
                    if value is not None and not is_constant(value):
                        facts.contribute(value, {})
            continue
        found = find(node)
        assert found is not None
        found.backward(node, spec, facts)


def _matters(node: ir.Node, facts: Facts) -> bool:
    """Tell whether a node without a rule reaches an output (its results are demanded, or it has none)."""
    return not node.outputs or any(out in facts.demand for out in node.outputs)


def _read_inside(node: ir.Node, body: Facts, facts: Facts) -> None:
    """Find the values of the analysed graph that a body of one of its nodes reads, at any depth.

    What only branches read may be narrowed: a branch scatters it first, as an operator that needs it whole would have
    it scattered, and its own narrowing takes the scatter out. A loop would do so in every iteration.
    """
    pending = [(body, chooses(node))]
    while pending:
        inner, branch = pending.pop()
        outer = {value: None for each in inner.graph for value in each.inputs if value is not None}
        for value in (*outer, *inner.graph.outputs):
            if value.graph is not facts.graph:
                continue
            if not branch or value not in outer:
                facts.sunk.pop(value, None)
            elif value not in facts.captured or value in facts.sunk:
                facts.sunk.setdefault(value, []).append(inner)
            facts.captured.add(value)
        for each in inner.graph:
            pending += [(inner.bodies[deeper], branch and chooses(each)) for deeper in subgraphs(each)]


def unknown(node: ir.Node, facts: Facts) -> bool:
    """Tell whether a node has no rule, or one that declined it."""
    return node not in facts.specs
