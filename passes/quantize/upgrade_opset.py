"""The version of the operator set that a quantized type needs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from graphopt.context import Context
from graphopt.quantization.types import opset
from graphopt.rewrite.edit import Edit
from graphopt.rewrite.versions import upgrade


@dataclass(frozen=True)
class UpgradeOpset:
    """Write the model in a later version of the standard operator set, where quantized types need one.

    1. Scales for each channel need version 13; types of 4 and 16 bits, and scales for each block, need 21.
    2. Operators that did not change stay as they are; those that are written otherwise are, exactly: axes become
       inputs, ``Softmax`` over its last axis says so, ``Split`` counts its outputs.

    *Options*: ``version``, what to come to; 0: what the types need that are being quantized to (13 otherwise).

    *Never* where an operator means something else in the later version and no node writes the old meaning; the warning
    names it. Never to an earlier version.

    *Needs* ranks.

    ``Squeeze(x){axes=[2]}`` -> ``Squeeze(x, [2])``
    """

    name: ClassVar[str] = "upgrade-opset"
    stage: ClassVar[str] = "prepare"

    version: int = 0

    def __post_init__(self) -> None:
        if self.version < 0:
            raise ValueError("version cannot be negative")

    def run(self, context: Context) -> bool:
        """Run on every graph at once: they share a version."""
        old, new = context.opset, self.version or _wanted(context)
        if old >= new:
            return False
        model = context.model
        graphs = [model.graph, *(function.graph for function in model.functions.values())]
        nodes = [node for graph in graphs for node in graph.all_nodes()]
        reason = upgrade(nodes, old, new, None)
        if reason is not None:
            context.warn("opset-stays", f"the model stays at operator set {old}, {new} was wanted: {reason}")
            return False
        for graph in graphs:
            self._rewrite(context, graph, old, new)
        for imports in (model.opset_imports, *(function.opset_imports for function in model.functions.values())):
            imports.pop("ai.onnx", None)
            imports[""] = new
        return context.record({"opset": new - old})

    def _rewrite(self, context: Context, graph: ir.Graph, old: int, new: int) -> None:
        by_graph: dict[ir.Graph, list[ir.Node]] = {}
        for node in graph.all_nodes():
            if isinstance(node.graph, ir.Graph):
                by_graph.setdefault(node.graph, []).append(node)
        for each, nodes in by_graph.items():
            with context.inside(each):
                upgrade(nodes, old, new, Edit(context.bare(), "composed", cut_weights=True))


def _wanted(context: Context) -> int:
    return 13 if context.quantization is None else opset(context.quantization.request)
