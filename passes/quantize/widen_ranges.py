"""Ranges between the one of least squared error and the whole one, by what comes out of the model."""

from __future__ import annotations

import functools
import operator
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from graphopt.calibrate.histogram import Histogram
from graphopt.calibrate.minmax import of_range
from graphopt.calibrate.parameters import Parameters
from graphopt.calibrate.solve import error_of
from graphopt.context import Context
from graphopt.quantization import steps
from graphopt.quantization.fidelity import Fidelity, worst
from graphopt.quantization.placement import Activation
from graphopt.quantization.qdq import in_type
from graphopt.quantization.state import State

COMPARED = 64
"""Samples of the calibration data that candidates are compared on."""


@dataclass(frozen=True)
class WidenRanges:
    """Give activations wider ranges where that leaves less error at the outputs of the model.

    The scale of least squared error clips what is rare and large. Those numbers are often the same positions of every
    sample and carry what the next layers look for, so that the least error of each tensor need not be the least of the
    model. The ranges of all activations are moved from the solved one towards the smallest and largest number that was
    seen, in ``steps`` equal parts, and the step with the least error at the outputs is kept; then one half of the
    network and the other by themselves, and so on as long as a half gains, ``depth`` times.

    1. ``range = solved + t (seen - solved)``, ``t`` from 0 to 1, for the tensors of a part of the network.

    *Never* a range that is wider than what was seen. Weights stay as they are.

    *Needs* scales, so that it runs behind calibration, before what corrects for them (``bias-correction``). The model
    runs on 64 samples for every candidate.

    ``Q(x, S=0.02)`` -> ``Q(x, S=0.03)``
    """

    name: ClassVar[str] = "widen-ranges"
    stage: ClassVar[str] = "repair"

    steps: int = 4
    depth: int = 2

    def __post_init__(self) -> None:
        if self.steps < 1 or self.depth < 0:
            raise ValueError(f"steps must be at least 1 and depth at least 0, not {self.steps} and {self.depth}")

    def run(self, context: Context) -> bool:
        """Run on the main graph."""
        state = context.quantization
        if state is None or not state.given or state.request.method == "minmax":
            return False
        tensors = _tensors(state)
        if not tensors:
            return False
        seen = Fidelity(context.model, state.batches(), COMPARED)
        if not seen.samples:
            return False
        chosen = np.zeros(len(tensors))
        best = worst(seen.of(steps.inserted(context)))
        parts, trials = [np.arange(len(tensors))], 0
        for _ in range(self.depth + 1):
            gained = []
            for part in parts:
                before = best
                for tried in self._candidates(chosen, part):
                    state.step(f"{self.name}: tried", trials := trials + 1, 0)
                    _set(state, tensors, tried)
                    reached = worst(seen.of(steps.inserted(context)))
                    if best is not None and (reached is None or reached > best):
                        best, chosen = reached, tried
                if best != before:
                    gained.append(part)
            parts = [half for part in gained for half in np.array_split(part, 2) if half.size]
        _set(state, tensors, chosen)
        for tensor in (tensor for tensor, part in zip(tensors, chosen, strict=True) if part):
            tensor.measure(state)
        return context.record({"widened ranges": int((chosen > 0).sum())})

    def _candidates(self, chosen: np.ndarray, part: np.ndarray) -> Iterator[np.ndarray]:
        """Yield what to try next: the tensors of a part at every step but the one they are at."""
        at = chosen[part].copy()
        for step in range(self.steps + 1):
            tried = chosen.copy()
            tried[part] = step / self.steps
            if (tried[part] != at).any():
                yield tried


@dataclass(frozen=True)
class _Tensor:
    """Activations that share a scale, with what they held and the parameters that were solved for them."""

    values: list[ir.Value]
    histogram: Histogram
    solved: list[Parameters]

    def at(self, part: float, state: State) -> list[Parameters]:
        """Return the parameters for a range so far between the solved one and the seen one."""
        if not part:
            return self.solved
        return [
            self._widened(state.placement.activations[v], p, part)
            for v, p in zip(self.values, self.solved, strict=True)
        ]

    def _widened(self, row: Activation, solved: Parameters, part: float) -> Parameters:
        scale, zero = float(solved.scale), float(solved.zero_point)
        low, high = scale * (row.grid.low - zero), scale * (row.grid.high - zero)
        low += part * min(self.histogram.minimum - low, 0.0)
        high += part * max(self.histogram.maximum - high, 0.0)
        wider, offset = of_range(np.array(low), np.array(high), row.grid, row.constraint)
        found = replace(solved, scale=wider, zero_point=offset, method=f"{solved.method}, widened")
        return in_type(found, row.value, above=row.constraint.upper is None)

    def measure(self, state: State) -> None:
        """Put the squared error of the parameters that were chosen in the place of that of the solved ones."""
        for value in self.values:
            found, grid = state.parameters[value], state.placement.activations[value].grid
            mse = error_of(self.histogram, grid, found.scale.reshape(1).astype(np.float32), found.zero_point.reshape(1))
            state.parameters[value] = replace(found, mse=mse.reshape(()))


def _tensors(state: State) -> list[_Tensor]:
    """Return the activations in the order of the graph, those that share a scale together."""
    groups: dict[str, list[ir.Value]] = {}
    for value, row in state.placement.activations.items():
        if not row.grid.floating:
            groups.setdefault(row.share or str(value.name), []).append(value)
    return [
        _Tensor(
            values,
            functools.reduce(operator.add, (state.histograms[str(value.name)] for value in values)),
            [state.parameters[value] for value in values],
        )
        for values in groups.values()
    ]


def _set(state: State, tensors: list[_Tensor], chosen: np.ndarray) -> None:
    for tensor, part in zip(tensors, chosen, strict=True):
        state.parameters.update(zip(tensor.values, tensor.at(float(part), state), strict=True))
