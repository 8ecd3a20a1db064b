"""Is the result slower than the input? Measured before anything is written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx_ir as ir

from graphopt.bench import BenchReport, bench
from graphopt.report.schema import Measure

GLANCE = 0.1
"""Seconds of measuring each model; where that does not tell, it is measured again for ``LOOK``."""

LOOK = 0.4

CLEAR = (0.97, 1.15)
"""A ratio outside of this needs no second look."""

NOISE = 1.02
"""A ratio up to this is no difference: two measurements of one model are as far apart."""

NOTICEABLE_MS = 0.01
"""A few operators more or less in a model that takes microseconds are no reason to leave its masks in."""

LARGEST = 1 << 30
"""Bytes of weights up to which both models are held in memory at once to be measured."""


def measure(
    original: ir.Model,
    candidate: ir.Model,
    *,
    provider: str = "cpu",
    shapes: Mapping[str, Sequence[int]] | None = None,
    seed: int = 0,
) -> Measure:
    """Return the latencies of both, taking turns in one process on one thread.

    Raises:
        ModelError: one of them cannot be run.
        DependencyError: the provider is not available.
    """

    def look(seconds: float) -> BenchReport:
        return bench(original, candidate, provider=provider, shapes=shapes, seconds=seconds, seed=seed)

    found = look(GLANCE)
    if CLEAR[0] < found.rows[1].paired_ratio < CLEAR[1]:
        found = look(LOOK)
    before, after = found.rows
    return Measure(before.median_ms, after.median_ms, after.paired_ratio, "")


def slower(found: Measure) -> bool:
    """Tell whether the result is slower than the input by more than two measurements of one model differ."""
    return found.ratio > NOISE and found.output_ms - found.input_ms > NOTICEABLE_MS


def weight_bytes(model: ir.Model) -> int:
    """Return how many bytes the initializers of the main graph hold."""
    tensors = [value.const_value for value in model.graph.initializers.values()]
    return sum(int(tensor.nbytes) for tensor in tensors if tensor is not None)
