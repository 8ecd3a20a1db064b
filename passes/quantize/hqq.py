"""Scales of blocks that let outliers be far off, without data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from graphopt.context import Context
from graphopt.quantization.weight_only.hqq import refined
from graphopt.quantization.weight_only.layout import blocked, to_rows
from graphopt.quantization.weight_only.solve import measured


@dataclass(frozen=True)
class Hqq:
    """Let the error of few weights be large where that makes the error of most smaller (HQQ).

    1. Scales or zero points of blocks are changed so that ``sum |w - w'|^norm`` falls (Badri and Shaji 2023, "Half-
       quadratic quantization of large machine learning models"): no data is needed.
    2. A block keeps what it had where that is better by the same measure.

    *Options* ``norm``: below 1; smaller ones care less about outliers. ``rounds``: of the alternation.

    *Never* a weight without blocks, or one whose integers another pass has chosen.

    *Needs* weights in blocks: ``activations="none"``. The squared error of the weights rises; measure whether the
    output's falls. ``gptq``, which takes data, is better where there is any.

    ``S (q - O)`` -> the same with another S and O
    """

    norm: float = 0.7
    rounds: int = 20

    name: ClassVar[str] = "hqq"
    stage: ClassVar[str] = "repair"

    def __post_init__(self) -> None:
        if not 0 < self.norm <= 1:
            raise ValueError(f"norm cannot be {self.norm}; above 0, at most 1")
        if self.rounds < 1:
            raise ValueError(f"rounds cannot be {self.rounds}; at least 1")

    def run(self, context: Context) -> bool:
        """Change ``state.parameters`` of weights in blocks."""
        state = context.quantization
        if state is None:
            return False
        changed = 0
        for value, weight in state.placement.weights.items():
            found, array = state.parameters.get(value), context.constants.array(value)
            if found is None or array is None or not weight.block or weight.axis is None or value in state.codes:
                continue
            rows = to_rows(array, weight.axis).astype(np.float32)
            flat = blocked(rows, weight.block).reshape(-1, weight.block)
            scale, zero = refined(
                flat,
                found.scale.reshape(-1),
                found.zero_point.reshape(-1),
                weight.grid,
                symmetric=weight.grid.signed,
                norm=self.norm,
                rounds=self.rounds,
            )
            scale = scale.astype(array.dtype).astype(np.float32).reshape(found.scale.shape)
            zero = zero.astype(found.zero_point.dtype).reshape(found.zero_point.shape)
            if not np.array_equal(scale, found.scale) or not np.array_equal(zero, found.zero_point):
                state.parameters[value] = measured(rows, scale, zero, weight, "hqq")
                changed += 1
            context.constants.release(value)
        return context.record({"weights refined by hqq": changed})
