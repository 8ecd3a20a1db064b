"""From a float model and data to a quantized model: prepare, place, calibrate, solve, insert, compare, measure.

The result runs in onnxruntime, is compared with the float model on the user's data, and is measured: where it is slower
than the input, fewer nodes are quantized, and at last the input is returned as it is.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir

from graphopt import __version__, registry, rounds
from graphopt import model as models
from graphopt.calibrate.percentile import USUAL
from graphopt.calibrate.solve import Method
from graphopt.context import Context
from graphopt.errors import ModelError, VerificationError
from graphopt.facts.stats import stats
from graphopt.journal import operator_calls
from graphopt.pipeline import Result
from graphopt.quantization import lowered, slower, steps
from graphopt.quantization.data import NO_DATA, Data, drawn
from graphopt.quantization.describe import described, drawings, node_rows
from graphopt.quantization.fidelity import Fidelity, worst
from graphopt.quantization.kernels import confirmed, kernels
from graphopt.quantization.placement import Kept, Placement
from graphopt.quantization.request import Request, requested
from graphopt.quantization.state import State
from graphopt.quantization.steps import Progress
from graphopt.report import plots as pictures
from graphopt.report.quantized import QuantizeReport
from graphopt.report.schema import FileInfo, Report
from graphopt.rounds import Settings

RUNNABLE = ("cpu", "portable")
"""Targets whose kernels are read from the graph that onnxruntime makes of the result."""

POOR = 10.0
"""Decibels of SQNR below which a warning is due: a tenth of the signal's power is noise."""


def quantize(
    model: Any,
    data: Any = None,
    *,
    target: str = "cpu",
    weights: str | None = None,
    activations: str | None = None,
    method: Method = "mse",
    percent: float = USUAL,
    levels: int | None = None,
    per_channel: bool = True,
    block: int = 32,
    exclude: Sequence[str] = (),
    operators: bool | None = None,
    everything: bool = False,
    recover: str | None = None,
    target_sqnr: float | None = None,
    target_accuracy: float | None = None,
    evaluate: Callable[..., float] | str | None = None,
    workers: int = 1,
    ray: str | None = None,
    resume: str | os.PathLike[str] | None = None,
    samples: int | None = None,
    seed: int = 0,
    random_data: bool = False,
    shapes: Mapping[str, Sequence[int]] | None = None,
    verify: bool = True,
    measure: bool = True,
    plots: str | os.PathLike[str] | None = None,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> Result:
    """Insert QuantizeLinear and DequantizeLinear with the scales that lose least, where the target has integer kernels.

    Args:
        model: A path, ``onnx.ModelProto`` or ``onnx_ir.Model``; never changed.
        data: Calibration data: a ``.npz`` file, a directory of them, ``PKG.MODULE:ITERABLE``, or an iterable of batches
            (dictionaries of arrays, or tuples in the order of the inputs, as a ``DataLoader`` yields them).
        target: ``cpu``, ``cuda``, ``tensorrt`` or ``portable``.
        weights: Type of weights; by default that of the target.
        activations: Type of activations; ``none`` for weight-only, which needs no data.
        method: ``mse``, ``minmax``, ``percentile`` or ``entropy``.
        percent: With ``percentile``: this part of the numbers is not clipped, in percent.
        levels: Number of levels instead of a whole type.
        per_channel: A scale for each output channel of a weight.
        block: Weight-only: so many inputs share a scale.
        exclude: Names or globs of nodes that stay in float.
        operators: Whether runtime operators (``graphopt.runtime_ops``) may be inserted; None: for ``cuda`` only, where
            ``activations="int8"`` needs them.
        everything: Quantize also what costs more than it gains, for a small file; implies that nothing is declined.
        recover: Passes that recover accuracy: ``"equalize,bias-correction"``. By default ``bias-correction``, and
            ``gptq`` before it for weights of up to 4 bits; ``none`` for none. One that does not help is undone.
        target_sqnr: Return operators to more bits until the outputs have this SQNR, in decibels.
        target_accuracy: Return operators to more bits until ``evaluate`` says so much.
        evaluate: Tells the accuracy of a model; a callable or ``PKG.MODULE:FUNCTION``.
        workers: Processes that run the model for calibration.
        ray: Address of a Ray cluster to do so, or ``local``.
        resume: A directory in which an interrupted calibration is found again.
        samples: Calibrate with at most so many samples; those behind them are held out for the comparison.
        seed: Of everything that is drawn.
        random_data: Draw random inputs where no data is given.
        shapes: Sizes of inputs whose axes are symbolic, for drawn inputs and measuring.
        verify: Compare with the float model on the data.
        measure: Time the result against the input and quantize less where it is slower.
        plots: A directory for a picture of each tensor's histogram.
        dry_run: Only place: the model of the result is the float model, and no data is needed.
        progress: Called with (what, done, total); total is 0 where it is not known.

    Raises:
        ModelError: The model or the data is at fault.
        UsageError: An unknown target, type, method, node or pass.
        VerificationError: The quantized model does not run, or computes NaN.
    """
    request = requested(
        {
            "target": target, "weights": weights, "activations": activations, "method": method,
            "percent": percent, "levels": levels, "per_channel": per_channel, "block": block, "exclude": exclude,
            "everything": everything, "operators": operators, "recover": recover,
            "target_sqnr": target_sqnr, "target_accuracy": target_accuracy, "evaluate": evaluate,
            "workers": workers, "ray": ray, "resume": None if resume is None else os.fspath(resume),
            "samples": samples, "seed": seed, "random_data": random_data,
        }
    )  # fmt: skip
    started = time.perf_counter()
    step = progress or (lambda what, done, total: None)
    step("load", 0, 1)
    original = models.load(model)
    report = Report(graphopt_version=__version__, target=target)
    report.input = FileInfo(**models.file_info(model)) if isinstance(model, (str, os.PathLike)) else FileInfo()
    report.before = stats(original)
    way = Way(request, shapes, verify, measure, plots, dry_run, step)
    way.require(data)
    result = run(original, original, data, way, report)
    report.operators = operator_calls(result)
    report.seconds = time.perf_counter() - started
    return Result(result, report)


@dataclass(frozen=True)
class Way:
    """How to go about it: the request, and what the result does not depend on; see ``quantize``."""

    request: Request
    shapes: Mapping[str, Sequence[int]] | None = None
    verify: bool = True
    measure: bool = True
    plots: str | os.PathLike[str] | None = None
    dry_run: bool = False
    step: Progress = lambda what, done, total: None

    @classmethod
    def of(cls, options: Request | Mapping[str, Any], usual: Mapping[str, Any], **others: Any) -> Way:
        """Make one of what ``optimize(quantize=...)`` is given: options of ``quantize`` by name.

        ``usual`` has those of ``optimize`` itself, which hold where no others are given.

        Raises:
            UsageError: an option that there is not, or a value that makes no sense.
        """
        if isinstance(options, Request):
            return cls(options, **others)
        given = {**usual, **options}
        return cls(
            request=requested({k: v for k, v in given.items() if k != "plots"}), plots=given.get("plots"), **others
        )

    def require(self, data: Any) -> None:
        """Refuse to begin without data where it will be needed.

        Raises:
            ModelError: there is none.
        """
        if data is None and not (self.request.random_data or self.request.weight_only or self.dry_run):
            raise ModelError("no calibration data", help=NO_DATA)


def run(original: ir.Model, float_model: ir.Model, data: Any, way: Way, report: Report) -> ir.Model:
    """Return a quantized model; everything is written down in ``report``.

    Args:
        original: What the result is compared with; not changed.
        float_model: What is quantized, of the same function; not changed.
        data: Calibration data.
        way: What to do.
        report: Gets passes, tensors, comparison, measurement and warnings.
    """
    request, step = way.request, way.step
    recovery = steps.recovering(request, data is not None)
    context = _started(original, float_model, data, way, report)
    state = steps.state_of(context)
    steps.place(context)
    if way.dry_run:
        report.quantize = QuantizeReport(method=request.method, nodes=node_rows(state.placement))
        result = float_model
    else:
        steps.smooth(context, recovery, report, step)
        steps.settle(context, step)
        outcomes = steps.repair(context, recovery, report, step) + steps.meet(context, step)
        result = _built(original, float_model, context, way, report)
        smoothed = [item.name for item in recovery if registry.stage(item) == "smooth"]
        assert report.quantize is not None
        report.quantize.recovery = smoothed + outcomes
    assert report.quantize is not None
    report.quantize.integer_nodes = len(state.placement.nodes)
    report.quantize.float_nodes = len(state.placement.kept)
    report.after = stats(result)
    report.warnings += [row for row in context.warnings if row not in report.warnings]
    return result


def _started(original: ir.Model, model: ir.Model, data: Any, way: Way, report: Report) -> Context:
    """Return the context of a copy of the model, prepared for the target."""
    request = way.request
    settings = Settings((), target=request.target, plan="smallest", operators=request.operators)
    context = rounds.prepare(models.clone(model), settings)
    if data is None and request.random_data and not request.weight_only and not way.dry_run:
        context.warn("random-data", "calibrated with random inputs: the scales fit those, not what the model will meet")
        data = drawn(model, seed=request.seed, samples=request.samples, shapes=way.shapes)
    given = data is not None
    source = Data(model, data if given else (), samples=request.samples)
    context.quantization = State(request, source.calibration, source.held_out, source.total, given, original)
    preparing = Settings(tuple(steps.preparing()), repeat=False)
    rounds.run(context, preparing, report, lambda what, done, total: way.step(what, 0, 0))
    return context


def _built(original: ir.Model, float_model: ir.Model, context: Context, way: Way, report: Report) -> ir.Model:
    """Carry the placement out; compare the result, and take a smaller placement where it is slower."""
    state = steps.state_of(context)
    result, declined = float_model, None
    if state.placement.nodes:
        result = lowered.finished(context, steps.inserted(context, way.step), report)
    if not state.placement.nodes:
        result, declined = float_model, "no operator gains from integers on this target"
        context.warn("nothing-quantized", f"{declined}: the model is returned as it is")
    else:
        if way.measure:
            way.step("measure", 0, 1)
            result = slower.not_slower(float_model, result, context, way.shapes, report)
        if result is float_model:
            declined = "whatever was tried measured slower than the input"
            context.warn("nothing-faster", f"{declined}, which is returned as it is")
            kept = [Kept(node, declined) for node, kernel in state.placement.nodes.items() if kernel != "move"]
            state.placement = Placement(kept=[*state.placement.kept, *kept])
    if declined is None and state.request.operators and not state.request.weight_only:
        state.placement = lowered.confirmed(state.placement, result)
    runs = declined is None and state.request.target in RUNNABLE and not state.request.weight_only
    if runs:
        state.placement = confirmed(state.placement, kernels(result))
    report.quantize = found = described(context)
    found.declined, found.measured_kernels = declined, runs
    if way.plots is not None:
        pictures.write(drawings(context), way.plots)
    if declined is None and way.verify and not state.request.weight_only:
        way.step("verify", 0, 1)
        _compare(original, result, state, found, context)
    return result


def _compare(original: ir.Model, result: ir.Model, state: State, found: QuantizeReport, context: Context) -> None:
    """Write down how near the outputs are, on the calibration data and on what was held out.

    Raises:
        VerificationError: the result does not run, or its outputs are not finite where the float model's are.
    """
    seen = Fidelity(original, state.batches())
    try:
        found.outputs = seen.of(result)
    except ModelError as error:
        raise VerificationError(f"the quantized model does not run: {error.what}", error.where) from error
    spoiled = [row for row in found.outputs if row.spoiled]
    if spoiled:
        raise VerificationError(
            f"output {spoiled[0].name!r} of the quantized model holds {spoiled[0].spoiled} numbers that are not finite",
            help="leave the nodes that compute them in float: --exclude",
        )
    found.output_sqnr_db = worst(found.outputs)
    held_out = Fidelity(original, state.held_out())
    if held_out.samples:
        found.held_out_sqnr_db = worst(held_out.of(result))
    if found.output_sqnr_db is not None and found.output_sqnr_db < POOR:
        context.warn(
            "poor-accuracy",
            f"the outputs have an SQNR of {found.output_sqnr_db:.1f} dB only; "
            '--recover "equalize,bias-correction", --target-sqnr or --exclude may help',
        )
