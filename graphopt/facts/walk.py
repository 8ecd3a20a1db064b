"""The two walks over a graph: supports forward, demands backward. No edits."""

from __future__ import annotations

import onnx_ir as ir

import graphopt.facts.ops  # noqa: F401  (fills the table of rules)
from graphopt.facts.constants import Constants, is_constant
from graphopt.facts.rules import find
from graphopt.facts.store import Facts
from graphopt.subgraphs import subgraphs


def analyse(model: ir.Model, constants: Constants, *, assume_finite: bool = True) -> Facts:
    """Compute the facts of a model's main graph; one topological walk forward, one backward.

    Demands follow from supports and supports need no demands, so that two walks are the fixed point; the plan may
    add forced demands and ask for ``demands`` again.
    """
    graph = model.graph
    facts = Facts(graph, graph.opset_imports.get("", 1), constants, assume_finite)
    _capture(graph, facts)
    if not assume_finite:
        facts.finite.update(value for value in graph.inputs)
    for node in graph:
        if node.op_type == "Gather" and constants.known(node.outputs[0]):
            continue  # a cut weight between passes: a constant
        found = find(node)
        spec = None if found is None else found.spec(node, facts)
        if found is None or spec is None:
            continue
        facts.specs[node] = spec
        found.forward(node, spec, facts)
        if not assume_finite and all(facts.is_finite(v) for v in node.inputs) and found.finite(node, facts):
            facts.finite.update(node.outputs)
    demands(facts)
    return facts


def demands(facts: Facts) -> None:
    """Walk backward and compute demands and physical needs anew, with the plan's forced demands."""
    facts.demand.clear()
    facts.physical.clear()
    for value in facts.graph.outputs:
        facts.demand[value] = {}
    for value in facts.captured:
        facts.demand[value] = {}
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


def _capture(graph: ir.Graph, facts: Facts) -> None:
    """Find the values of the main graph that a subgraph reads."""
    for node in graph:
        for inner in subgraphs(node):
            _captured_in(inner, facts)


def _captured_in(graph: ir.Graph, facts: Facts) -> None:
    for node in graph.all_nodes():
        for value in node.inputs:
            if value is not None and value.graph is facts.graph:
                facts.captured.add(value)
    for value in graph.outputs:
        if value.graph is facts.graph:
            facts.captured.add(value)


def unknown(node: ir.Node, facts: Facts) -> bool:
    """Tell whether a node has no rule, or one that declined it."""
    return node not in facts.specs
