"""Pools: channels pass through, windows along the other axes are needed whole."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from graphopt import dims
from graphopt.facts.rules import Rule, identity_links, rule
from graphopt.facts.store import Facts, Spec


@rule(
    "AveragePool", "MaxPool", "LpPool", "GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool",
)  # fmt: skip
class Pool(Rule):
    """``f' = f``; where padding is counted, and for Lp norms, only for ``f = 0``. MaxPool's indices need all."""

    def spec(self, node: ir.Node, facts: Facts) -> Spec | None:
        rank = dims.rank(node.inputs[0])
        if rank is None or rank < 2 or any(out.uses() or out.is_graph_output() for out in node.outputs[1:]):
            return None
        return Spec(identity_links(rank, (0, 1)), reason="pooling windows cover this axis")

    def forward(self, node: ir.Node, spec: Spec, facts: Facts) -> None:
        for axis, dead in facts.dead_axes(node.inputs[0]).items():
            if axis > 1:
                continue
            only_zero = node.op_type in ("LpPool", "GlobalLpPool") or (
                node.op_type == "AveragePool" and bool(node.attributes.get_int("count_include_pad", 0))
            )
            mask = dead.mask & (dead.fill == 0) if only_zero else dead.mask
            facts.set_dead(node.outputs[0], axis, mask, np.where(mask, dead.fill, 0).astype(dead.fill.dtype))

    def finite(self, node: ir.Node, facts: Facts) -> bool:
        return node.op_type in ("MaxPool", "GlobalMaxPool")
