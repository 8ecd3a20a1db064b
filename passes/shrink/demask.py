"""The local form: Gather, dense operator, ScatterND."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from graphopt.context import Context
from graphopt.passes.masks.fold_masks import FoldMasks
from graphopt.rewrite.apply import apply


@dataclass(frozen=True)
class Demask:
    """Turn every masked contraction into Gather -> dense operator on gathered weights -> ScatterND.

    Values keep their original dimensionality between operators: the dense tensor is scattered to it right behind the
    operator that computes it, and gathered from it right before the next. This form is always right; the passes that
    follow move and merge what it inserts.

    1. A contraction (Conv, ConvTranspose, Gemm, MatMul) with dead outputs computes the live rows; the constants of the
       dead ones are written by the scatter.
    2. A contraction with dead or unread inputs gathers the live ones; constants that are not zero go into its bias.

    *Never* where a nonzero constant meets the zero padding of a convolution, where the weight is not a constant, or
    where nothing is dead.

    *Needs* masks folded into the weights: runs ``fold-masks`` first. Plain zeros in weights are masks, too.

    ``Conv(x, W)`` -> ``ScatterND(fill, rows, Conv(Gather(x, columns), Gather(Gather(W, rows), columns)))``
    """

    name: ClassVar[str] = "demask"

    def run(self, context: Context) -> bool:
        """Run on every graph."""
        folded = FoldMasks(context.may_grow).run(context)
        return context.everywhere(lambda: self._run(context)) or folded

    def _run(self, context: Context) -> bool:
        edit = apply(context.plan(), "local", cut_weights=False)
        return context.record(edit.counts)
