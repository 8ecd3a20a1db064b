"""What nobody reads."""

from __future__ import annotations

import onnx_ir as ir

from graphopt.subgraphs import subgraphs


def remove_unused(graph: ir.Graph) -> int:
    """Remove nodes and initializers that nobody reads; return their number."""
    removed = 0
    for node in reversed(list(graph)):
        if not node.outputs:
            continue
        if any(out.uses() or out.is_graph_output() for out in node.outputs):
            continue
        let_go(node)
        graph.remove(node, safe=True)
        removed += 1
    for name, value in list(graph.initializers.items()):
        if not value.uses() and not value.is_graph_output() and not value.is_graph_input():
            del graph.initializers[name]
            removed += 1
    return removed


def let_go(node: ir.Node) -> None:
    """Drop what the bodies of a node read, which is about to be removed: nobody else reads it, perhaps."""
    for graph in subgraphs(node):
        for inner in graph.all_nodes():
            for position in range(len(inner.inputs)):
                inner.replace_input_with(position, None)
