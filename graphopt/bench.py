"""How fast are models, side by side? Interleaved runs in one process.

A machine is never quiet: clocks move, neighbours come and go. Models that take turns (A B C, A B C, …) meet the same
disturbances, so their *ratio* is far steadier than either time. Two are given: the ratio of medians, and the median
of the ratios of neighbouring runs. Inputs are put in place before the clock starts, the garbage collector is off
while it runs.
"""

from __future__ import annotations

import gc
import os
import statistics
import sys
import time
import types
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graphopt import model as _model
from graphopt import runtime
from graphopt.errors import ModelError, UsageError
from graphopt.samples import Inputs, Shapes

_WARM_UP_RUNS = 3
_WARM_UP_SHARE = 0.1  # of the measuring time: caches, the allocator and the clock settle
_FEWEST_RUNS = 5
_MOST_RUNS = 20_000


@dataclass(frozen=True)
class BenchRow:
    """One model.

    Attributes:
        name: How the caller calls it.
        median_ms: Median latency of a run in milliseconds.
        p10_ms: A tenth of the runs are faster.
        p90_ms: A tenth of the runs are slower.
        runs: How many runs were measured.
        ratio: ``median_ms`` over that of the first model: below 1 is faster.
        paired_ratio: Median of the ratios to the first model's run of the same turn.
    """

    name: str
    median_ms: float
    p10_ms: float
    p90_ms: float
    runs: int
    ratio: float
    paired_ratio: float


@dataclass(frozen=True)
class BenchReport:
    """The rows, and the conditions under which they were measured.

    Attributes:
        rows: One per model, in the order given.
        provider: ``cpu`` or ``cuda``.
        threads: Threads inside an operator.
        shapes: The shape of every input.
    """

    rows: list[BenchRow]
    provider: str
    threads: int
    shapes: dict[str, list[int]]


def bench(
    *models: Any,
    provider: str = "cpu",
    threads: int = 1,
    shapes: Shapes | None = None,
    seconds: float = 2.0,
    seed: int = 0,
    names: Sequence[str] | None = None,
) -> BenchReport:
    """Measure models against each other, as their users run them (onnxruntime's default optimizations).

    All models get the same inputs, drawn at batch 1 and typical other sizes (or the given ones) at which the first
    runs.

    Args:
        models: Paths, ``onnx.ModelProto`` or ``onnx_ir.Model``; the first is what the others are compared with.
        provider: ``cpu`` or ``cuda``.
        threads: Threads inside an operator.
        shapes: Sizes for symbolic axes, by input name; -1 leaves one open.
        seconds: Measuring time per model; at least five runs each are made.
        seed: The same seed draws the same inputs.
        names: What to call the models; by default their file names, or ``A``, ``B``, …

    Raises:
        ModelError: A model cannot be loaded or run; the models want different inputs.
        UsageError: No model, unknown provider, shapes that do not fit.
        DependencyError: The provider is not available.
    """
    if not models:
        raise UsageError("no model to measure", help="give at least one")
    if names is not None and len(names) != len(models):
        raise UsageError(f"{len(names)} names for {len(models)} models")
    labels = list(names) if names is not None else _labels(models)
    sessions = [
        runtime.session(
            os.fspath(model) if isinstance(model, str | os.PathLike) else _model.load(model, clone=False),
            threads=threads,
            provider=provider,
            lean=False,
        )
        for model in models
    ]
    wanted = _inputs_of(sessions[0])
    for label, session in zip(labels, sessions, strict=True):
        if _inputs_of(session) != wanted:
            raise ModelError(
                f"{label} has the inputs {_inputs_of(session)}, {labels[0]} has {wanted}",
                help="only models with the same inputs can be compared",
            )
    inputs = Inputs(_model.load(models[0], clone=False), shapes)
    sizes, style = inputs.settle(lambda feeds: runtime.run(sessions[0], feeds), seed=(seed, 0), batches=(1, 2))
    feeds = inputs.draw(sizes, seed=(seed, 0), style=style)
    bound = [runtime.Bound(session, feeds, provider=provider) for session in sessions]
    times = _measure(bound, seconds)
    medians = [statistics.median(runs) for runs in times]
    rows = []
    for label, runs, median in zip(labels, times, medians, strict=True):
        low, high = _tenths(runs)
        paired = statistics.median(run / first for run, first in zip(runs, times[0], strict=True))
        rows.append(BenchRow(label, median / 1e6, low / 1e6, high / 1e6, len(runs), median / medians[0], paired))
    return BenchReport(rows, provider, threads, {name: list(array.shape) for name, array in feeds.items()})


def _measure(bound: Sequence[runtime.Bound], seconds: float) -> list[list[int]]:
    """Nanoseconds per run and model; every turn runs each model once."""
    budget = seconds * 1e9 * len(bound)
    clock = time.perf_counter_ns
    with _no_garbage_collection():
        start, turns = clock(), 0
        while turns < _WARM_UP_RUNS or clock() - start < budget * _WARM_UP_SHARE:
            for one in bound:
                one.run()
            turns += 1
        times: list[list[int]] = [[] for _ in bound]
        start = clock()
        while len(times[0]) < _FEWEST_RUNS or (clock() - start < budget and len(times[0]) < _MOST_RUNS):
            for one, runs in zip(bound, times, strict=True):
                before = clock()
                one.run()
                runs.append(max(clock() - before, 1))
    return times


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    was_on = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _inputs_of(session: Any) -> dict[str, str]:
    return {value.name: value.type for value in session.get_inputs()}


def _labels(models: Sequence[Any]) -> list[str]:
    labels = []
    for i, model in enumerate(models):
        path = isinstance(model, str | os.PathLike)
        labels.append(Path(model).name if path else chr(ord("A") + i) if i < 26 else f"model {i}")
    return (
        labels if len(set(labels)) == len(labels) else [f"{chr(65 + i % 26)} {label}" for i, label in enumerate(labels)]
    )


def _tenths(runs: Sequence[int]) -> tuple[float, float]:
    cuts = statistics.quantiles(runs, n=10, method="inclusive")
    return cuts[0], cuts[-1]


class _Callable(types.ModuleType):
    """``graphopt.bench(…)`` works whether the name was bound to the function or, by an import of it, to this module."""

    def __call__(self, *args: Any, **options: Any) -> Any:
        return bench(*args, **options)


sys.modules[__name__].__class__ = _Callable
