"""What nobody reads."""

from __future__ import annotations

import onnx_ir as ir


def remove_unused(graph: ir.Graph) -> int:
    """Remove nodes and initializers that nobody reads; return their number."""
    removed = 0
    for node in reversed(list(graph)):
        if not node.outputs:
            continue
        if any(out.uses() or out.is_graph_output() for out in node.outputs):
            continue
        graph.remove(node, safe=True)
        removed += 1
    for name, value in list(graph.initializers.items()):
        if not value.uses() and not value.is_graph_output() and not value.is_graph_input():
            del graph.initializers[name]
            removed += 1
    return removed
