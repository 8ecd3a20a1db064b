"""Channels whose weights are large before a value and small behind it are made even."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from graphopt.calibrate.balance import equalizing
from graphopt.context import Context
from graphopt.quantization.balancing import Balancing
from graphopt.quantization.rescale import rescaled
from graphopt.quantization.scaling import scaling


@dataclass(frozen=True)
class Equalize:
    """Make the ranges of a weight's channels even by moving factors from one layer to the next.

    1. Channel c of a value is multiplied by ``s_c = sqrt(columns_c / rows_c)``: what the largest weight that reads it
       is to the largest that writes it. Rows and bias before it are multiplied by ``s_c``, columns behind it divided.
    2. Between them may be whatever has ``f(s x) = s f(x)``: Relu, LeakyRelu, PRelu, pooling, moves, sums, residual
       streams whose writers and readers all take part, heads; depthwise convolutions do both at once.
    3. Layers are visited until nothing is gained. A factor is used only where the expected noise of quantization, by
       the ranges and the powers that follow from the weights, falls; and, where there is calibration data, only if the
       outputs of the quantized model come nearer to the float ones on it.
    4. Factors are powers of two, so that every result of the float model is the same number as before.

    *Options*: ``exact=false`` uses any factors (same function up to rounding); ``gain``: decibels that a value must
    gain to be touched at all.

    *Never* across anything else (Clip as in Relu6, Sigmoid, HardSwish, a norm's input), a graph output, a weight that
    two nodes share, constants in half precision or with NaN. Where weights have a scale for each channel, rows are even
    already and most is left to ``smooth-quant``.

    *Needs* batch norms folded. No data.

    ``Conv(W2, Relu(Conv(W1, x)))`` -> ``Conv(W2 / s, Relu(Conv(s W1, x)))``
    """

    name: ClassVar[str] = "equalize"
    stage: ClassVar[str] = "smooth"

    exact: bool = True
    gain: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.gain < 100:
            raise ValueError(f"gain must be from 0 to 100 dB, not {self.gain}")

    def run(self, context: Context) -> bool:
        """Run on every graph."""
        return context.everywhere(lambda: self._run(context))

    def _run(self, context: Context) -> bool:
        found = scaling(context.facts())
        if not found.layers:
            return False
        balancing = Balancing(found, context.quantization)
        if not balancing.sweep(equalizing, whole=self.exact, decibels=self.gain):
            return False
        return context.record({"equalized constants": rescaled(context, found, balancing.exponents)})
