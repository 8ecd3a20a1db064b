"""Scatters and gathers that meet become one, or nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from graphopt.context import Context
from graphopt.rewrite.apply import apply
from graphopt.rewrite.moves import has_scatters


@dataclass(frozen=True)
class Coalesce:
    """Combine scatters and gathers across layers, by algebra on their indices.

    1. A gather behind a scatter is nothing, or a smaller gather.
    2. A scatter that meets a contraction disappears: its positions select the weights, its fill goes into the bias.
    3. Scatters that meet in Add, Mul, Concat and the like become one behind it: the union of the positions for a sum,
       the intersection for a product with zeros, shifted concatenation for Concat. The trunk of a residual stream
       stays dense at the stream's width, a branch is scattered once, at the join.

    *Never* changes what weights hold: they stay gathered (``narrow`` cuts them).

    *Needs* scatters in the graph (``demask``, ``propagate``).

    ``Conv2(Gather(Scatter(Relu(Conv1))))`` -> ``Conv2(Relu(Conv1))``
    """

    name: ClassVar[str] = "coalesce"

    def run(self, context: Context) -> bool:
        """Run on every graph."""
        return context.everywhere(lambda: self._run(context))

    def _run(self, context: Context) -> bool:
        if not has_scatters(context.graph):
            return False
        edit = apply(context.plan(), "composed", cut_weights=False)
        return context.record(edit.counts)
