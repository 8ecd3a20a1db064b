"""A whole model in a later version of the standard operator set."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx_ir as ir

from graphopt.rewrite.edit import Edit
from graphopt.rewrite.versions import upgrade

if TYPE_CHECKING:
    from graphopt.context import Context


def raise_opset(context: Context, version: int) -> str | None:
    """Write every graph and function of the model in a later version; they share one.

    New constants get names of their own: an ``Edit`` that was made before does not know them.

    Returns:
        Why it cannot be done, and nothing was changed then; None where it was, or where nothing was to do.
    """
    old, model = context.opset, context.model
    if old >= version:
        return None
    graphs = [model.graph, *(function.graph for function in model.functions.values())]
    nodes = [node for graph in graphs for node in graph.all_nodes()]
    reason = upgrade(nodes, old, version, None)
    if reason is not None:
        return reason
    for graph in graphs:
        _rewrite(context, graph, old, version)
    for imports in (model.opset_imports, *(function.opset_imports for function in model.functions.values())):
        imports.pop("ai.onnx", None)
        imports[""] = version
    context.changed()
    return None


def _rewrite(context: Context, graph: ir.Graph, old: int, new: int) -> None:
    by_graph: dict[ir.Graph, list[ir.Node]] = {}
    for node in graph.all_nodes():
        if isinstance(node.graph, ir.Graph):
            by_graph.setdefault(node.graph, []).append(node)
    for each, nodes in by_graph.items():
        with context.inside(each):
            upgrade(nodes, old, new, Edit(context.bare(), "composed", cut_weights=True))
