"""Scatters sink, gathers rise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from graphopt.context import Context
from graphopt.rewrite.apply import apply
from graphopt.rewrite.moves import has_scatters


@dataclass(frozen=True)
class Propagate:
    """Move scatters behind the operators that can run on the dense tensor, and gathers before them.

    1. A scatter sinks through an operator that passes its axis through (elementwise, pools, norms over other axes,
       reshapes, movers): the operator runs on the dense tensor, its fill becomes ``g(fill)``.
    2. A gather rises to the operator that produces its positions.
    3. Scatter and gather end up next to each other in front of a contraction, a join of two branches, an operator that
       needs the whole axis, or a graph output.

    *Never* through an operator of several live operands (``coalesce`` does that), nor past one that mixes the axis.

    *Needs* the local form (``demask``): without scatters in the graph there is nothing to move.

    ``Relu(Scatter(y))`` -> ``Scatter(Relu(y))``
    """

    name: ClassVar[str] = "propagate"

    def run(self, context: Context) -> bool:
        """Run on every graph."""
        return context.everywhere(lambda: self._run(context))

    def _run(self, context: Context) -> bool:
        if not has_scatters(context.graph):
            return False
        edit = apply(context.plan(joins=False), "carried", cut_weights=False)
        return context.record(edit.counts)
