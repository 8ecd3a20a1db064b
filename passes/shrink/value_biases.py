"""Biases of dead value heads go behind attention."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from graphopt.context import Context
from graphopt.facts.value_biases import Move, value_biases
from graphopt.rewrite.edit import Edit
from graphopt.rewrite.unused import remove_unused
from graphopt.rewrite.value_biases import move_bias


@dataclass(frozen=True)
class ValueBiases:
    """Add the bias of dead value heads behind the output projection, so that the heads are zero and can go.

    1. Rows of a softmax add up to one: `softmax(S) (V + b) W + c` is `softmax(S) V W + (c + b W)`. The product is
       computed in float64 and rounded once.
    2. Only the positions of heads, or of places in all heads, move that are zero afterwards and were not dead before.

    *Never* where something else sees the values with their bias (a cache, an output), where scores are not normalised
    over the axis that is summed over, right in front of the product, where there may be no values to sum over, where
    the output projection has no constant weight, or between Q and DQ; a warning names the reason.

    *Needs* masks folded into the weights (``fold-masks``), and heads as an axis (``split-batches``).

    ``MatMul(MatMul(Softmax(s), Add(v, b)), W)`` -> ``Add(MatMul(MatMul(Softmax(s), v), W), b W)``
    """

    name: ClassVar[str] = "value-biases"

    def run(self, context: Context) -> bool:
        """Run on every graph."""
        return context.everywhere(lambda: self._run(context))

    def _run(self, context: Context) -> bool:
        # Without finite activations a head of zeros stays: it may be multiplied by an infinite score.
        if not context.assume_finite or "MatMul" not in context.operators():
            return False
        changed = False
        while self._once(context):
            changed = True
        return changed

    def _once(self, context: Context) -> bool:
        edit = Edit(context.bare(), "composed", cut_weights=True)
        touched: set[ir.Node] = set()
        moved = 0
        for found in value_biases(context.graph, context.opset, context.constants, context.facts):
            if not isinstance(found, Move):
                context.warn("value-bias-stays", f"dead value heads keep their bias: {found.reason}", found.product)
                continue
            nodes = {found.bias.node, found.product} | ({found.behind.node} if found.behind is not None else set())
            if touched.isdisjoint(nodes) and move_bias(found, edit):
                touched |= nodes
                moved += 1
        if moved:
            remove_unused(context.graph)
        return context.record({"value biases": moved})
