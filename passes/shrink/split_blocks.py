"""Weights that fall into blocks become small products."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from graphopt import dims
from graphopt.context import Context
from graphopt.facts.ops.contraction import Geometry, geometry
from graphopt.facts.store import Facts, Spec
from graphopt.plan.blocks import Split, choose_split, may_split, moving_time
from graphopt.plan.classes import Plan
from graphopt.rewrite.blocks import neighbours, split_contraction
from graphopt.rewrite.edit import Edit
from graphopt.rewrite.unused import remove_unused


@dataclass(frozen=True)
class SplitBlocks:
    """Compute a Conv, Gemm or MatMul block by block where its weight is block-diagonal in some order of its positions.

    1. Outputs that share no input with others, and outputs that read the same inputs, are a block: ``y[R] = W x[C]``.
    2. Equal blocks of a convolution become its groups, equal blocks of a MatMul one batched or several products.
    3. Others become several products: Split or Gather before, Concat behind.
    4. The order that the blocks want is brought about in the weights before and behind, at no cost; by one Gather
       where something else decides or shows the order.

    *Never* splits what has no blocks (unstructured zeros), saves less than a quarter of the weights, or, with
    ``--plan fastest``, is estimated to take longer.

    *Needs* dead positions cut (``narrow``).

    ``MatMul(x, [[A, 0], [0, B]])`` -> ``Concat(MatMul(x[:a], A), MatMul(x[a:], B))``
    """

    name: ClassVar[str] = "split-blocks"

    def run(self, context: Context) -> bool:
        """Run on every graph."""
        return context.everywhere(lambda: self._run(context))

    def _run(self, context: Context) -> bool:
        if not any(may_split(node, context.constants) for node in context.graph):
            return False
        facts = context.facts()
        edit = Edit(Plan(facts, context.kind), "composed", cut_weights=True)
        for node in list(facts.graph):
            spec = facts.specs.get(node)
            geo = None if spec is None else geometry(spec)
            if spec is not None and geo is not None and _splittable(node, spec, geo, facts):
                _split(node, spec, geo, edit, context)
        if edit.counts:
            remove_unused(facts.graph)
        return context.record(edit.counts)


def _splittable(node: ir.Node, spec: Spec, geo: Geometry, facts: Facts) -> bool:
    """Tell whether the node is one whose parts can be written: one group, no bias that is computed."""
    if not may_split(node, facts.constants):
        return False
    weight = node.inputs[geo.w]
    bias = node.inputs[geo.bias] if geo.bias is not None and geo.bias < len(node.inputs) else None
    rank = dims.rank(node.outputs[0])
    return (
        geo.groups == 1
        and weight is not None
        and len(weight.uses()) == 1  # else it would be there twice
        and rank is not None
        and (0, geo.out_axis) not in spec.pinned
        and (bias is None or facts.constants.known(bias))
        and bool(node.outputs[0].uses() or node.outputs[0].is_graph_output())
    )


def _split(node: ir.Node, spec: Spec, geo: Geometry, edit: Edit, context: Context) -> None:
    x, out = node.inputs[geo.x], node.outputs[0]
    assert x is not None

    def moving(split: Split) -> float:
        around, costs = neighbours(node, geo, split, edit), context.costs
        time = 0.0 if around.before is not None else moving_time(x, geo.x_axis, split.columns(), costs)
        return time + (0.0 if around.after is not None else moving_time(out, geo.out_axis, split.rows(), costs))

    split = choose_split(node, geo, edit.facts, context.kind, context.costs, moving)
    if split is not None:
        split_contraction(node, spec, geo, split, neighbours(node, geo, split, edit), edit)
