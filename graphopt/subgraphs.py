"""The graphs inside a node: bodies of Loop and Scan, branches of If."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

Nesting = dict[ir.Graph, ir.Graph]
"""Body → the graph whose node it belongs to; what is inside a body comes before it."""


def subgraphs(node: ir.Node) -> Iterator[ir.Graph]:
    """Yield the graphs that a node's attributes hold; references to a function's attributes hold none."""
    for attribute in node.attributes.data.values():
        if attribute.is_ref():
            continue
        if attribute.type == ir.AttributeType.GRAPH:
            yield attribute.as_graph()
        elif attribute.type == ir.AttributeType.GRAPHS:
            yield from attribute.as_graphs()


def nesting(graph: ir.Graph, *, standard: bool = False) -> Nesting:
    """Return every graph inside the nodes of a graph, at any depth.

    Args:
        graph: the graph to start from.
        standard: leave out what is inside operators that the standard does not define (``com.microsoft.BeamSearch``):
            they may expect more of their graphs than to compute the same.
    """
    found: Nesting = {}
    pending = [graph]
    while pending:
        around = pending.pop()
        for node in around:
            if standard and node.domain not in ("", "ai.onnx"):
                continue
            for body in subgraphs(node):
                found[body] = around
                pending.append(body)
    return dict(reversed(found.items()))


def chooses(node: ir.Node) -> bool:
    """Tell whether a node runs one of its graphs, once."""
    return node.op_type == "If" and node.domain in ("", "ai.onnx")


def within(graph: ir.Graph) -> Iterator[ir.Graph]:
    """Yield a graph and every graph inside it."""
    yield graph
    yield from reversed(nesting(graph))


def made(graph: ir.Graph) -> list[ir.Value]:
    """Return the values that a graph itself makes: inputs, initializers, results of its nodes."""
    found = dict.fromkeys([*graph.inputs, *graph.initializers.values()])
    for node in graph:
        found.update(dict.fromkeys(node.outputs))
    return list(found)


def names(graph: ir.Graph) -> set[str]:
    """Return the names of all values and nodes in a graph and inside it."""
    found: set[str] = set()
    for each in within(graph):
        found.update(value.name or "" for value in made(each))
        found.update(node.name or "" for node in each)
    return found
