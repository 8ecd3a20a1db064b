"""Softmax and the normalizations: barriers along the axes they normalize, transparent along the others."""

from __future__ import annotations

import onnx_ir as ir

from graphopt import dims
from graphopt.facts.rules import Rule, identity_links, rule
from graphopt.facts.store import Facts, Spec


@rule("Softmax", "LogSoftmax", "Hardmax", "LpNormalization", "LayerNormalization", "RMSNormalization",
      "MeanVarianceNormalization", "LRN", "InstanceNormalization", "GroupNormalization")  # fmt: skip
class Normalization(Rule):
    """Every position of a normalized axis influences every other: such an axis is needed whole."""

    def spec(self, node: ir.Node, facts: Facts) -> Spec | None:
        rank = dims.rank(node.inputs[0])
        if rank is None or any(out.uses() or out.is_graph_output() for out in node.outputs[1:]):
            return None
        reason = f"{node.op_type} normalizes over this axis"
        return Spec(identity_links(rank, self._free(node, rank, facts)), reason=reason)

    @staticmethod
    def _free(node: ir.Node, rank: int, facts: Facts) -> list[int]:
        """Return the axes along which positions do not see one another."""
        if node.op_type in ("Softmax", "LogSoftmax", "Hardmax"):
            axis = node.attributes.get_int("axis", -1 if facts.opset >= 13 else 1)
            axis += rank if axis < 0 else 0
            return [i for i in range(rank) if (i != axis if facts.opset >= 13 else i < axis)]
        if node.op_type in ("LayerNormalization", "RMSNormalization"):
            axis = node.attributes.get_int("axis", -1)
            return list(range(axis + rank if axis < 0 else axis))
        if node.op_type == "LpNormalization":
            axis = node.attributes.get_int("axis", -1)
            return [i for i in range(rank) if i != (axis + rank if axis < 0 else axis)]
        if node.op_type == "LRN":
            return [i for i in range(rank) if i != 1]
        if node.op_type == "MeanVarianceNormalization":
            axes = node.attributes.get_ints("axes", (0, 2, 3))
            return [i for i in range(rank) if i not in axes and i - rank not in axes]
        return [0]
