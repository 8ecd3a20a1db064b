"""SQNR of each output of a quantized model beside the float one: ``10 log10(sum a^2 / sum (a - b)^2)`` decibels."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from graphopt import runtime
from graphopt.quantization.data import first, size_of
from graphopt.report.quantized import FidelityRow

SAMPLES = 64
"""As many samples of the data tell the SQNR to a tenth of a decibel in the nets that were tried."""


@dataclass
class _Sums:
    signal: float = 0.0
    noise: float = 0.0
    equal: int = 0
    count: int = 0
    spoiled: int = 0
    """Numbers that are not finite although the float model's are."""


class Fidelity:
    """A float model that others are compared with on the same batches; it runs once, its outputs are kept."""

    def __init__(self, model: ir.Model, batches: Iterable[Mapping[str, Any]], samples: int = SAMPLES) -> None:
        """Run the model on at least so many samples, or all there are; it is not even loaded where there are none.

        Raises:
            ModelError: It cannot be run, or the data does not fit.
        """
        session = None
        self.names = [str(value.name) for value in model.graph.outputs]
        self.batches: list[Mapping[str, Any]] = []
        self.expected: list[list[Any]] = []
        self.samples = 0
        for batch in first(batches, samples):
            session = session or runtime.session(model)
            self.batches.append(batch)
            self.expected.append(runtime.run(session, batch))
            self.samples += size_of(batch)

    def of(self, model: ir.Model) -> list[FidelityRow]:
        """Return a row for each output of a model that has the same inputs and outputs.

        Raises:
            ModelError: onnxruntime refuses the model.
        """
        session = runtime.session(model)
        sums = {name: _Sums() for name in self.names}
        for batch, expected in zip(self.batches, self.expected, strict=True):
            for name, a, b in zip(self.names, expected, runtime.run(session, batch), strict=True):
                if isinstance(a, np.ndarray) and isinstance(b, np.ndarray) and a.shape == b.shape:
                    _add(sums[name], a, b)
        return [_row(name, one) for name, one in sums.items()]


def worst(rows: Iterable[FidelityRow]) -> float | None:
    """Return the smallest SQNR of all outputs, in decibels; None where nothing differs."""
    return min((row.sqnr_db for row in rows if row.sqnr_db is not None), default=None)


def _add(sums: _Sums, a: np.ndarray, b: np.ndarray) -> None:
    sums.count += a.size
    sums.equal += int((a == b).sum())
    if a.dtype.kind not in "fV":
        return
    exact, other = a.astype(np.float64), b.astype(np.float64)
    real = np.isfinite(exact)
    sums.spoiled += int((real & ~np.isfinite(other)).sum())
    real &= np.isfinite(other)
    sums.signal += float((exact[real] ** 2).sum())
    sums.noise += float(((exact[real] - other[real]) ** 2).sum())


def _row(name: str, sums: _Sums) -> FidelityRow:
    sqnr = None
    if sums.noise:
        sqnr = 10 * math.log10(sums.signal / sums.noise) if sums.signal else -math.inf
    return FidelityRow(name, sqnr, sums.equal / sums.count if sums.count else 1.0, sums.spoiled)
