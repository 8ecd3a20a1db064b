"""Who reads a value."""

from __future__ import annotations

import onnx_ir as ir


def only_reader(value: ir.Value) -> ir.Node | None:
    """Return the one operator of the graph that reads a value; None if there are others, or it is an output."""
    uses = list(value.uses())
    alone = len(uses) == 1 and uses[0].node.graph is value.graph and not value.is_graph_output()
    return uses[0].node if alone else None
