"""From a float model and data to a quantized model: prepare, place, calibrate, solve, insert, measure."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import onnx_ir as ir

from graphopt import __version__, rounds, samples
from graphopt import model as models
from graphopt.calibrate.collect import collect
from graphopt.calibrate.histogram import Histogram
from graphopt.calibrate.solve import Parameters, solve, solve_rows
from graphopt.context import Context
from graphopt.facts.stats import stats
from graphopt.pipeline import Result
from graphopt.quantization import place_cpu
from graphopt.quantization.placement import Placement, Weight
from graphopt.quantization.qdq import insert
from graphopt.quantization.request import Request
from graphopt.quantization.state import State
from graphopt.report.schema import FileInfo, Report
from graphopt.rounds import Settings

Progress = Callable[[str, int, int], None]


def quantize(
    model: Any,
    data: Any,
    *,
    target: str = "cpu",
    weights: str | None = None,
    activations: str | None = None,
    method: str = "mse",
    levels: int | None = None,
    per_channel: bool = True,
    exclude: Sequence[str] = (),
    progress: Progress | None = None,
) -> Result:
    """Insert QuantizeLinear and DequantizeLinear with the scales that lose least, where the target has integer kernels.

    Args:
        model: A path, ``onnx.ModelProto`` or ``onnx_ir.Model``; never changed.
        data: Calibration data, in any form of ``samples.feeds``.
        target: ``cpu``, ``cuda``, ``tensorrt`` or ``portable``.
        weights: Type of weights; by default that of the target.
        activations: Type of activations; ``none`` for weight-only.
        method: ``mse``, ``minmax``, ``percentile`` or ``entropy``.
        levels: Number of levels instead of a whole type.
        per_channel: A scale for each output channel of a weight.
        exclude: Names or globs of nodes that stay in float.
        progress: Called with (what, done, total).

    Raises:
        ModelError: The model or the data is at fault.
        UsageError: An unknown target, type, method or node.
    """
    request = Request(target, weights, activations, method, levels, per_channel, exclude=tuple(exclude))  # type: ignore[arg-type]
    started = time.perf_counter()
    original = models.load(model)
    report = Report(graphopt_version=__version__, target=target)
    report.input = FileInfo(**models.file_info(model)) if isinstance(model, (str, os.PathLike)) else FileInfo()
    report.before = stats(original)
    context = rounds.prepare(models.clone(original), Settings((), target="cpu"))
    context.model.opset_imports[""] = max(context.opset, 13)
    placement = place_cpu.place(context.model, request)
    context.quantization = state = State(request, lambda: samples.feeds(data, original), placement)
    names = [str(row.value.name) for row in placement.activations.values()]
    state.histograms = collect(context.model, names, state.batches(), progress=progress)
    state.parameters = solved(context, placement, state.histograms, request)
    insert(context, placement, state.parameters, state.codes)
    report.after = stats(context.model)
    report.seconds = time.perf_counter() - started
    return Result(context.model, report)


def solved(
    context: Context, placement: Placement, histograms: Mapping[str, Histogram], request: Request
) -> dict[ir.Value, Parameters]:
    """Return the parameters of every activation and weight of a placement."""
    shared: dict[str, Histogram] = {}
    for row in placement.activations.values():
        key = row.share or str(row.value.name)
        shared[key] = shared.get(key, Histogram()) + histograms[str(row.value.name)]
    found = {
        row.value: solve(shared[row.share or str(row.value.name)], row.grid, row.constraint, method=request.method)
        for row in placement.activations.values()
    }
    for row in placement.weights.values():
        array = context.constants.array(row.value)
        assert array is not None
        found[row.value] = of_weight(array, row, request)
    return found


def of_weight(array: np.ndarray, row: Weight, request: Request) -> Parameters:
    """Return the parameters of one weight."""
    rows = (
        array.reshape(1, -1) if row.axis is None else np.moveaxis(array, row.axis, 0).reshape(array.shape[row.axis], -1)
    )
    found = solve_rows(rows, row.grid, row.constraint, method=request.method)
    if row.axis is not None:
        return found
    first = {name: getattr(found, name)[0] for name in ("scale", "zero_point", "mse", "power")}
    return replace(found, **{name: np.asarray(one) for name, one in first.items()})
