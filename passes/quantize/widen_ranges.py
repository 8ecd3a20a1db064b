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
        solved = dict(state.parameters)
        chosen = np.zeros(len(tensors))
        best = worst(seen.of(steps.inserted(context)))
        parts = [np.arange(len(tensors))]
        for _ in range(self.depth + 1):
            gained = []
            for part in parts:
                before = best
                for tried in self._candidates(chosen, part):
                    _set(state, tensors, tried, solved)
                    reached = worst(seen.of(steps.inserted(context)))
                    if best is not None and (reached is None or reached > best):
                        best, chosen = reached, tried
                if best != before:
                    gained.append(part)
            parts = [half for part in gained for half in np.array_split(part, 2) if half.size]
        _set(state, tensors, chosen, solved)
        return context.record({"widened ranges": int((chosen > 0).sum())})

    def _candidates(self, chosen: np.ndarray, part: np.ndarray) -> Iterator[np.ndarray]:
        """Yield what to try next: the tensors of a part at every step but the one they are at."""
        at = chosen[part].copy()
        for step in range(self.steps + 1):
            tried = chosen.copy()
            tried[part] = step / self.steps
            if (tried[part] != at).any():
                yield tried


def _tensors(state: State) -> list[list[ir.Value]]:
    """Return the activations in the order of the graph, those that share a scale together."""
    groups: dict[str, list[ir.Value]] = {}
    for value, row in state.placement.activations.items():
        if not row.grid.floating:
            groups.setdefault(row.share or str(value.name), []).append(value)
    return list(groups.values())


def _set(state: State, tensors: list[list[ir.Value]], chosen: np.ndarray, solved: dict[ir.Value, Parameters]) -> None:
    for values, part in zip(tensors, chosen, strict=True):
        if not part:
            state.parameters.update((value, solved[value]) for value in values)
            continue
        histogram = functools.reduce(operator.add, (state.histograms[str(value.name)] for value in values))
        for value in values:
            state.parameters[value] = _widened(state, value, solved[value], histogram, float(part))


def _widened(state: State, value: ir.Value, solved: Parameters, histogram: Histogram, part: float) -> Parameters:
    row = state.placement.activations[value]
    grid, scale, zero = row.grid, float(solved.scale), float(solved.zero_point)
    low, high = scale * (grid.low - zero), scale * (grid.high - zero)
    low += part * min(histogram.minimum - low, 0.0)
    high += part * max(histogram.maximum - high, 0.0)
    wider, offset = of_range(np.array(low), np.array(high), grid, row.constraint)
    mse = error_of(histogram, grid, wider.reshape(1), offset.reshape(1))
    return in_type(
        replace(solved, scale=wider, zero_point=offset, mse=mse.reshape(()), method=f"{solved.method}, widened"),
        value,
        above=row.constraint.upper is None,
    )
