"""Weights are physically cut."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from graphopt.context import Context
from graphopt.passes.masks.fold_masks import FoldMasks
from graphopt.rewrite.apply import apply
from graphopt.rewrite.cut import fold_gathered_constants


@dataclass(frozen=True)
class Narrow:
    """Cut weights, biases, norms and constants to the positions that are kept; dead inputs go into the bias.

    1. A gather of a constant becomes a smaller initializer.
    2. Whatever the other passes of this group have not done is done: alone, this pass does all of their work at once.

    Options:
        align: keep dead positions until their number is a multiple of this (1 keeps none).

    *Never* grows a weight, never cuts what a graph output or an unknown operator shows.

    *Needs* masks folded into the weights: runs ``fold-masks`` first.

    ``Conv(x, Gather(W, rows))`` -> ``Conv(x, W[rows])``
    """

    name: ClassVar[str] = "narrow"

    align: int = 1

    def __post_init__(self) -> None:
        """Check the options."""
        if self.align < 1:
            raise ValueError("align must be at least 1")

    def run(self, context: Context) -> bool:
        """Run on every graph."""
        folded = context.run(FoldMasks(context.may_grow))
        return context.everywhere(lambda: self._run(context)) or folded

    def _run(self, context: Context) -> bool:
        edit = apply(context.plan(align=self.align), "composed", cut_weights=True)
        changed = context.record(edit.counts)
        folded = fold_gathered_constants(edit)
        return context.record({"cut": folded}) or changed
