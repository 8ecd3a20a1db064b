"""How a net is quantized while it is trained."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

from graphopt.train.settings import Settings

Strategy = Literal["direct", "layer", "filter", "neuron"]
STRATEGIES: tuple[Strategy, ...] = get_args(Strategy)

Order = Literal["index", "error", "importance"]
ORDERS: tuple[Order, ...] = get_args(Order)

EIGHT_BITS = 256
"""Levels of what runtimes compute with in any case."""


@dataclass(frozen=True)
class QuantizeSettings:
    """The ``quantize-train`` part of a recipe.

    All strategies get the same number of re-training steps, so that they can be compared: those of ``retrain`` are
    shared out evenly to the subsets, whatever their number.

    Attributes:
        strategy: ``neuron``: subsets of filters, each with its channels of what the next layer reads; ``filter``:
            subsets of filters; ``layer``: layer by layer; ``direct``: everything at once.
        levels: So many levels have the weights: 3, 4, 8, 16, 23, 256 or any number from 2 to 256.
        activations: So many levels has what a layer reads; None: as many as the weights; 0: it stays in float.
        first_last: So many levels have the weights of the first and of the last layer, and what they read; 0: as many
            as others.
        per_filter: Each filter has a scale of its own; else each weight has one.
        iterations: So many subsets has a layer, more than 4 (Mathematics 2023, 11(9) 2112), but none is empty; 0: one
            component at a time. ``direct`` and ``layer`` have no subsets.
        order: Of the filters of a layer: ``index``; ``error``: first what quantizing hurts most (squared error over
            squared weights); ``importance``: first where the loss hangs most on the weights (sum of ``abs(g w)``).
        samples: Histograms of activations and gradients for ``importance`` are of so many training samples.
        zeros: Weights that are exactly zero to begin with (pruned ones) stay zero.
        retrain: How the net is trained while there are weights to freeze. Its ``steps`` (or else its ``epochs``) are
            those of all subsets together. Each subset has the schedule for itself; where it is short, a constant rate
            learns more than one that rises and falls.
        final: How it is trained when all weights are frozen: biases, and norms that could not be folded.
    """

    strategy: Strategy = "neuron"
    levels: int = 16
    activations: int | None = None
    first_last: int = EIGHT_BITS
    per_filter: bool = True
    iterations: int = 5
    order: Order = "index"
    samples: int = 256
    zeros: bool = True
    retrain: Settings = field(default_factory=lambda: Settings(epochs=10, schedule="constant"))
    final: Settings = field(default_factory=lambda: Settings(epochs=1, schedule="cosine"))

    def __post_init__(self) -> None:
        for name, known in (("strategy", STRATEGIES), ("order", ORDERS)):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} {getattr(self, name)!r}: one of {', '.join(known)}")
        for name, other in (("levels", None), ("activations", 0), ("first_last", 0)):
            number = getattr(self, name)
            if number is not None and number != other and not 2 <= number <= EIGHT_BITS:
                raise ValueError(f"{name} {number}: from 2 to {EIGHT_BITS}" + (", or 0" if other == 0 else ""))
        if self.iterations < 0 or 0 < self.iterations < 5:
            raise ValueError(f"iterations {self.iterations}: more than 4, or 0 for one component at a time")
        if self.samples < 1:
            raise ValueError(f"samples {self.samples}: at least 1")

    def of_weights(self, end: bool) -> int:
        """Return the levels of a layer's weights; ``end``: it is the first or the last one."""
        return self.first_last if end and self.first_last else self.levels

    def of_inputs(self, end: bool) -> int:
        """Return the levels of what a layer reads; 0: float."""
        if self.activations == 0:
            return 0
        if end and self.first_last:
            return self.first_last
        return self.levels if self.activations is None else self.activations
