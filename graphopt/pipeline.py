"""From a model to a smaller one that is proved equal and measured not to be slower.

The default passes are repeated until nothing changes. The result is compared with the original in onnxruntime; where
they differ, the passes are run again one at a time to name the one that broke it, and nothing is returned. A result of
plan ``fastest`` is then measured against the input. Where it is slower, a plan without gathers and scatters is tried,
then one that only folds, and at last the input is returned as it is.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, get_args

import onnx_ir as ir

from graphopt import __version__, journal, rounds
from graphopt import model as models
from graphopt.context import Context
from graphopt.errors import DependencyError, ModelError
from graphopt.facts.stats import stats
from graphopt.plan.classes import Kind
from graphopt.proof import Comparison, prove
from graphopt.registry import make, stage
from graphopt.report.schema import FileInfo, Report
from graphopt.rounds import Progress, Settings
from graphopt.runtime_ops.operator import DOMAIN
from graphopt.selection import default, lowerings, one_of, operators_on, select
from graphopt.targets import TARGETS, costs

if TYPE_CHECKING:
    from graphopt.quantization.pipeline import Way
    from graphopt.quantization.request import Request
    from graphopt.verify import Reference

INPUT, STANDARD = "input", "standard"

FOLDING = ("fold-masks", "fold-batch-norm", "fold-dead", "tidy")
"""Passes that only take operators away."""


@dataclass
class Result:
    """An optimized model and the report of how it came to be."""

    model: ir.Model
    report: Report

    def save(self, path: str | os.PathLike[str], external: bool | None = None) -> None:
        """Write the model (atomically) and complete ``report.output``.

        Raises:
            ModelError: the place cannot be written to.
        """
        models.save(self.model, path, external=external)
        self.report.output = FileInfo(**models.file_info(path))


def optimize(
    model: Any,
    *,
    target: str = "cpu",
    plan: str = "fastest",
    passes: str | None = None,
    recipe: str | os.PathLike[str] | None = None,
    assume_finite: bool = True,
    verify: bool = True,
    measure: bool = True,
    samples: int = 4,
    rtol: float | None = None,
    atol: float | None = None,
    seed: int = 0,
    shapes: Mapping[str, Sequence[int]] | None = None,
    keep_failed: bool = False,
    operators: bool | None = None,
    quantize: Mapping[str, Any] | Request | None = None,
    data: Any = None,
    progress: Progress | None = None,
) -> Result:
    """Remove masks, shrink, coalesce, prove the result equal to the original and measure that it is not slower.

    Args:
        model: a path, an ``onnx.ModelProto`` or an ``onnx_ir.Model``; never changed.
        target: ``cpu``, ``cuda`` or ``portable``.
        plan: ``smallest`` (fewest parameters; ignores cost and is not measured) or ``fastest``.
        passes: passes to run once, in order, instead of the default pipeline: ``"fold-masks,narrow{align=16}"``.
        recipe: a YAML file with a list of passes instead: ``passes: [fold-masks, {narrow: {align: 16}}]``.
        assume_finite: take ``x * 0 = 0`` for activations.
        verify: compare with the original in onnxruntime (see ``graphopt.verify``).
        measure: time the result of plan ``fastest`` against the input (``cpu`` and ``cuda``, up to 1 GB of weights),
            and fall back on a plan that is not slower. Needs a model that runs in onnxruntime.
        samples: number of inputs drawn for the comparison.
        rtol: relative tolerance of the comparison; by default that of the type.
        atol: absolute tolerance of the comparison; by default relative to the output's scale.
        seed: of the drawn inputs.
        shapes: sizes of inputs whose axes are symbolic.
        keep_failed: return the model although the comparison failed (``report.verify`` says so).
        operators: whether runtime operators (``graphopt.runtime_ops``) may be inserted: they are fast where their
            library is loaded and run as ONNX functions elsewhere. None: for ``cuda`` only. False: neither are those
            kept that the model calls already.
        quantize: quantize what is left, with these options of ``graphopt.quantize`` by name (``{}``: none but its own).
            Dead positions are gone before anything is calibrated.
        data: calibration data for that.
        progress: called with (name of the step, done, total).

    Raises:
        ModelError: the model is at fault, or it cannot be run for the comparison.
        UsageError: an unknown target, plan, pass or option; runtime operators for a target that has none.
        VerificationError: the result differs; names the pass that broke it.
    """
    one_of("target", target, TARGETS)
    one_of("plan", plan, get_args(Kind))
    selected, repeat = select(passes, recipe)
    allowed = operators_on(target, operators)
    settings = Settings(tuple(selected), repeat, target, plan, assume_finite, costs(target), allowed)
    usual = {"target": target, "operators": operators}
    way_of_quantizing = _quantization(quantize, data, usual, shapes, verify, measure, progress)
    if allowed and repeat and way_of_quantizing is None:  # else they come last, behind Q and DQ
        settings = replace(settings, lowerings=tuple(lowerings(target)))
    started = time.perf_counter()
    step = progress or (lambda name, done, total: None)
    step("load", 0, 1)
    original = models.load(model)
    info = FileInfo(**models.file_info(model)) if isinstance(model, (str, os.PathLike)) else FileInfo()
    comparison = Comparison(samples, rtol, atol, seed, shapes)
    reference: Reference | None = None
    inserted = False
    measured = measure and repeat and plan == "fastest" and target != "portable"
    ways = _ways(settings, measured)
    while True:
        way, chosen = next(ways)
        if way == STANDARD and not inserted:
            continue
        # Without a comparison and without functions to restore, the copy that was loaded may be edited itself.
        copied = verify or measured or quantize is not None or bool(original.functions)
        report, context, result = _attempt(original, model, chosen, copied, step)
        inserted = bool(chosen.lowerings) and journal.operator_calls(result) is not None
        if way == INPUT:
            context.warn(
                "nothing-faster", "whatever was tried measured slower than the input, which is returned as it is"
            )
            break
        if verify:
            step("verify", 0, 1)
            reference = reference or comparison.reference(original)
            report.verify = prove(original, result, reference, chosen, context, keep_failed)
            step("verify", 1, 1)
        if not measured or not _slower(original, result, report, way, target, comparison, step):
            break
    if way_of_quantizing is not None:
        from graphopt.quantization import pipeline as quantization

        result = quantization.run(original, result, data, way_of_quantizing, report)
        if allowed and repeat and report.quantize is not None and report.quantize.declined is not None:
            result = _lowered(result, settings, report)
    report.operators = journal.operator_calls(result)
    report.input = info
    report.seconds = time.perf_counter() - started
    return Result(result, report)


def _quantization(
    options: Mapping[str, Any] | Request | None,
    data: Any,
    usual: Mapping[str, Any],
    shapes: Mapping[str, Sequence[int]] | None,
    verify: bool,
    measure: bool,
    progress: Progress | None,
) -> Way | None:
    """Return how to quantize, checked before any work is done; None where nothing shall be quantized."""
    if options is None:
        return None
    from graphopt.quantization.pipeline import Way

    step = progress or (lambda name, done, total: None)
    way = Way.of(options, usual, shapes=shapes, verify=verify, measure=measure, step=step)
    way.require(data)
    return way


def prepared(model: Any, *, plan: str = "fastest", assume_finite: bool = True) -> Context:
    """Load a model and make it ready for passes: a copy, with inferred shapes and functions inlined.

    Raises:
        ModelError: the model is at fault.
    """
    return rounds.prepare(models.load(model), Settings((), plan=plan, assume_finite=assume_finite))


def fold(context: Context) -> None:
    """Fold masks, so that the facts behind them can be seen."""
    make("fold-masks", {}).run(context)


def _ways(settings: Settings, measured: bool) -> Iterator[tuple[str, Settings]]:
    """Yield what to try, the best first; all but the first only for results that turn out to be slow."""
    yield settings.plan, settings
    settings = replace(settings, lowerings=())
    if measured:
        yield STANDARD, settings
        yield "still", replace(settings, costs=settings.costs.still())
        yield "folded", replace(settings, passes=tuple(item for item in settings.passes if item.name in FOLDING))
        yield INPUT, replace(settings, passes=())


def _attempt(
    original: ir.Model, source: Any, settings: Settings, copied: bool, step: Progress
) -> tuple[Report, Context, ir.Model]:
    """Run the passes on a copy of the original; ``source`` is where it can be loaded from again."""
    report = Report(graphopt_version=__version__, target=settings.target, plan=settings.plan)
    with rounds.quiet_collector():
        context = rounds.prepare(models.clone(original) if copied else original, settings)
        # Weights of an operator that is inlined are counted as such only once its definition has been folded.
        inlined = rounds.without_calls(settings) and any(key[0] == DOMAIN for key in original.functions)
        report.before = before = stats(original if inlined else context.model)
        _say_what_is_off(context, settings)
        masks = journal.masks(context)
        rounds.run(context, settings, report, step)
        report.after = stats(context.model)
        repeat = settings.repeat
        if repeat and report.after.parameters > before.parameters:
            context = _without_growth(source, settings, report, step)
        result = context.model
        grown = repeat and report.after.parameters > before.parameters and not inlined
        if grown:
            context.warn("nothing-to-gain", "the constants of its dead positions would be larger than what they save")
        lowered = not grown and rounds.lower(context, settings.lowerings, report, step)
        if lowered:
            report.after = stats(context.model)
        if grown or (_restorable(original, settings) and not lowered and not _gained(report)):
            result = models.load(source)
            report.after = report.before
        report.masks = journal.mask_rows(masks, result, context)
        report.scatters = journal.moves(result, context, "scatter")
        report.gathers = journal.moves(result, context, "gather")
        report.warnings = context.warnings
    return report, context, result


def _say_what_is_off(context: Context, settings: Settings) -> None:
    """Warn of passes that were named and do nothing without runtime operators."""
    named = [item.name for item in settings.passes if stage(item) == "lower"]
    if named and not settings.operators:
        context.warn(
            "operators-off", f"{', '.join(named)} inserts runtime operators, which were not asked for: --operators"
        )


def _without_growth(source: Any, settings: Settings, report: Report, step: Progress) -> Context:
    """Run the passes on a model that had grown: a weight that is masked here and whole there became two.

    Such masks are left where they are, until the rest is narrow; then it is tried once more with them.
    """
    passes = tuple(make(item.name, {"grow": False}) if item.name == "fold-masks" else item for item in settings.passes)
    context = rounds.prepare(models.load(source), settings)
    context.may_grow = False
    report.passes.clear()
    report.axes.clear()
    rounds.run(context, replace(settings, passes=passes), report, step)
    report.after = stats(context.model)
    again = replace(report, passes=list(report.passes), axes=list(report.axes))
    other = rounds.prepare(models.clone(context.model), settings)
    rounds.run(other, settings, again, step)
    after = stats(other.model)
    if after.parameters >= report.after.parameters:
        return context
    report.passes, report.after = again.passes, after
    other.warnings[:0] = context.warnings
    return other


def _lowered(result: ir.Model, settings: Settings, report: Report) -> ir.Model:
    """Return the model with runtime operators where quantization, which would have inserted them, was declined."""
    context = rounds.prepare(models.clone(result), settings)
    if not rounds.lower(context, lowerings(settings.target), report, lambda name, done, total: None):
        return result
    report.after = stats(context.model)
    return context.model


def _restorable(original: ir.Model, settings: Settings) -> bool:
    """Tell whether functions of the user were inlined, and may be there again if that was for nothing."""
    domains = {key[0] for key in original.functions}
    return bool(domains - {DOMAIN}) and not (DOMAIN in domains and rounds.without_calls(settings))


def _gained(report: Report) -> bool:
    before, after = report.before, report.after
    return after.parameters < before.parameters or after.macs < before.macs


def _slower(
    original: ir.Model, result: ir.Model, report: Report, way: str, target: str, comparison: Comparison, step: Progress
) -> bool:
    """Measure the result and tell whether it is slower than the input; a model that cannot be measured is not."""
    if not any(row.changed for row in report.passes):
        return False
    from graphopt import measured

    if measured.weight_bytes(original) > measured.LARGEST:
        return False
    step("measure", 0, 1)
    try:
        found = measured.measure(original, result, provider=target, shapes=comparison.shapes, seed=comparison.seed)
    except (ModelError, DependencyError):  # not on this machine: whoever can run it may measure it
        return False
    step("measure", 1, 1)
    found.way = way
    report.measure = found
    return measured.slower(found)


__all__ = ["Result", "default", "optimize"]
