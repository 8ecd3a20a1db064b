"""Channels of activations that are much larger than others hand a part of it to the weights that read them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from graphopt.calibrate.balance import smoothing
from graphopt.calibrate.channels import Channels, measure
from graphopt.context import Context
from graphopt.quantization.balancing import Balancing, Channel, watched
from graphopt.quantization.rescale import rescaled
from graphopt.quantization.scaling import scaling

STRENGTHS = tuple(step / 10 for step in range(11))


@dataclass(frozen=True)
class SmoothQuant:
    """Divide outlying channels of an activation, and multiply the weights that read them.

    1. Channel c of what a product reads is divided by ``max|x_c|^alpha / max|W_c|^(1 - alpha)``, the columns of its
       weight are multiplied by that. The division goes into what writes the channel: scale and shift of a norm, a
       constant with a number for each channel, the rows and bias of a layer.
    2. ``alpha=auto`` takes, for each activation by itself, the strength with the least expected noise of quantization,
       from the ranges and powers of every channel in the calibration data, or leaves it alone. All stays as it was if
       the outputs of the quantized model come no nearer to the float ones.
    3. Factors are powers of two, so that every result of the float model is the same number as before.

    *Options*: ``alpha``: ``auto``, or one strength from 0 to 1 for all; ``exact=false`` uses any factors (same function
    up to rounding); ``gain``: decibels that an activation must gain to be touched at all.

    *Never* by a node more: where nothing can take the division up (a Gelu, a graph input, an activation that something
    else reads too), the activation stays as it is. Nor a weight that two nodes share, nor half precision.

    *Needs* quantized activations and calibration data, which are read once more for their channels, and
    once to see whether it helps.

    ``MatMul(LayerNorm(x; g, b), W)`` -> ``MatMul(LayerNorm(x; g / s, b / s), s W)``
    """

    name: ClassVar[str] = "smooth-quant"
    stage: ClassVar[str] = "smooth"

    alpha: str = "auto"
    exact: bool = True
    gain: float = 1.0

    def __post_init__(self) -> None:
        if self.alpha != "auto":
            try:
                known = 0 <= float(self.alpha) <= 1
            except ValueError:
                known = False
            if not known:
                raise ValueError(f"alpha must be auto or a number from 0 to 1, not {self.alpha!r}")
        if not 0 <= self.gain < 100:
            raise ValueError(f"gain must be from 0 to 100 dB, not {self.gain}")

    def run(self, context: Context) -> bool:
        """Run on the main graph."""
        state = context.quantization
        if state is None or not state.placement.activations:
            return False
        found = scaling(context.facts())
        rows = [row for row in watched(found, state) if row.value.name]
        if not rows:
            return False
        seen = measure(context.model, {str(row.value.name): row.axis for row in rows}, state.batches())
        measured = {row.value: _channel(seen[str(row.value.name)]) for row in rows if str(row.value.name) in seen}
        balancing = Balancing(found, state, measured)
        free = self.alpha == "auto"
        strengths = STRENGTHS if free else (float(self.alpha),)
        choices = lambda one: smoothing(one, strengths)  # noqa: E731
        if not balancing.sweep(choices, whole=self.exact, decibels=self.gain, search=free):
            return False
        return context.record({"smoothed constants": rescaled(context, found, balancing.exponents)})


def _channel(seen: Channels) -> Channel:
    return Channel(seen.power, np.minimum(seen.low, 0), np.maximum(seen.high, 0))
