"""Passes in order, a journal of what each did, and the proof at the end.

The default pipeline repeats its passes until nothing changes. The result is compared with the original in onnxruntime;
where they differ, the passes are run again one at a time to name the one that broke it, and nothing is returned.
"""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import onnx_ir as ir
import yaml

from graphopt import __version__
from graphopt import model as models
from graphopt.context import Context
from graphopt.errors import ModelError, UsageError, VerificationError, nearest
from graphopt.facts.constants import Constants
from graphopt.facts.expressions import Expressions
from graphopt.facts.masks import Mask, find_masks
from graphopt.facts.stats import parameters, stats
from graphopt.model_check import source_line
from graphopt.model_shapes import infer_shapes
from graphopt.passes.shrink.coalesce import Coalesce
from graphopt.passes.shrink.demask import Demask
from graphopt.passes.shrink.fold_dead import FoldDead
from graphopt.passes.shrink.narrow import Narrow
from graphopt.passes.shrink.propagate import Propagate
from graphopt.plan.classes import Kind
from graphopt.registry import Pass, make, parse, passes
from graphopt.report.axes import axis_rows
from graphopt.report.schema import FileInfo, ForcedRow, MaskRow, Moves, PassRow, Report
from graphopt.rewrite.moves import ROLE

if TYPE_CHECKING:
    from graphopt.verify import VerifyReport

Progress = Callable[[str, int, int], None]

TARGETS = ("cpu", "cuda", "portable")
ROUNDS = 100
"""A default pipeline that still changes something after so many rounds stops there; two or three suffice."""


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
    samples: int = 4,
    rtol: float | None = None,
    atol: float | None = None,
    seed: int = 0,
    shapes: Mapping[str, Sequence[int]] | None = None,
    keep_failed: bool = False,
    progress: Progress | None = None,
) -> Result:
    """Remove masks, shrink, coalesce, and prove the result equal to the original.

    Args:
        model: a path, an ``onnx.ModelProto`` or an ``onnx_ir.Model``; never changed.
        target: ``cpu``, ``cuda`` or ``portable``.
        plan: ``smallest`` (fewest parameters) or ``fastest``.
        passes: passes to run once, in order, instead of the default pipeline: ``"fold-masks,narrow{align=16}"``.
        recipe: a YAML file with a list of passes instead: ``passes: [fold-masks, {narrow: {align: 16}}]``.
        assume_finite: take ``x * 0 = 0`` for activations.
        verify: compare with the original in onnxruntime (see ``graphopt.verify``).
        samples: number of inputs drawn for that.
        rtol: relative tolerance of the comparison; by default that of the type.
        atol: absolute tolerance of the comparison; by default relative to the output's scale.
        seed: of the drawn inputs.
        shapes: sizes of inputs whose axes are symbolic.
        keep_failed: return the model although the comparison failed (``report.verify`` says so).
        progress: called with (name of the step, done, total).

    Raises:
        ModelError: the model is at fault, or it cannot be run for the comparison.
        UsageError: an unknown target, plan, pass or option.
        VerificationError: the result differs; names the pass that broke it.
    """
    _one_of("target", target, TARGETS)
    _one_of("plan", plan, get_args(Kind))
    selected, repeat = _select(passes, recipe)
    started = time.perf_counter()
    report = Report(graphopt_version=__version__, target=target, plan=plan)
    step = progress or (lambda name, done, total: None)
    step("load", 0, 1)
    with _quiet_collector():
        original = models.load(model)
        if isinstance(model, (str, os.PathLike)):
            report.input = FileInfo(**models.file_info(model))
        # Without a comparison and without functions to restore, the copy that was loaded may be edited itself.
        copied = verify or bool(original.functions)
        context = _prepare(models.clone(original) if copied else original, plan, target, assume_finite)
        report.before = before = stats(context.model)
        masks = _masks(context)
        _run(context, selected, repeat, report, step)
        report.after = stats(context.model)
        if repeat and report.after.parameters > before.parameters:
            # A weight that is masked here and whole there became two: leave such masks where they are.
            selected = [make(item.name, {"grow": False}) if item.name == "fold-masks" else item for item in selected]
            context = _prepare(models.load(model), plan, target, assume_finite)
            context.may_grow = False
            report.passes.clear()
            report.axes.clear()
            _run(context, selected, repeat, report, step)
            report.after = stats(context.model)
        result = context.model
        grown = repeat and report.after.parameters > before.parameters
        if grown:
            context.warn("nothing-to-gain", "the constants of its dead positions would be larger than what they save")
        if grown or (original.functions and not _gained(report)):
            result = models.load(model)
            report.after = report.before
        report.masks = _mask_rows(masks, result, context)
        report.scatters, report.gathers = _moves(result, context, "scatter"), _moves(result, context, "gather")
        report.warnings = context.warnings
    if verify:
        step("verify", 0, 1)
        _prove(original, result, selected, repeat, report, context, keep_failed,
               {"samples": samples, "rtol": rtol, "atol": atol, "seed": seed, "shapes": shapes})  # fmt: skip
        step("verify", 1, 1)
    report.seconds = time.perf_counter() - started
    return Result(result, report)


def prepared(model: Any, *, plan: str = "fastest", assume_finite: bool = True) -> Context:
    """Load a model and make it ready for passes: a copy, with inferred shapes and functions inlined.

    Raises:
        ModelError: the model is at fault.
    """
    return _prepare(models.load(model), plan, "cpu", assume_finite)


def fold(context: Context) -> None:
    """Fold masks, so that the facts behind them can be seen."""
    make("fold-masks", {}).run(context)


def default() -> list[Pass]:
    """Return the passes of the default pipeline."""
    return [make(name, {}) for name in passes()]


def _select(text: str | None, recipe: str | os.PathLike[str] | None) -> tuple[list[Pass], bool]:
    if text is not None and recipe is not None:
        raise UsageError("both passes and a recipe are given", help="give one of them")
    if recipe is not None:
        return _from_recipe(Path(recipe)), False
    if text is not None:
        return parse(text), False
    return default(), True


def _from_recipe(path: Path) -> list[Pass]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"the recipe cannot be read: {error.strerror}", where=str(path)) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError("the recipe is not YAML", where=str(path), help=str(error).splitlines()[0]) from error
    entries = content.get("passes") if isinstance(content, dict) else content
    if not isinstance(entries, list) or not entries:
        raise UsageError(
            "the recipe lists no passes", where=str(path), help="passes: [fold-masks, {narrow: {align: 16}}]"
        )
    selected: list[Pass] = []
    for entry in entries:
        if isinstance(entry, str):
            selected += parse(entry)
        elif isinstance(entry, dict) and len(entry) == 1:
            ((name, options),) = entry.items()
            selected.append(make(str(name), options or {}))
        else:
            raise UsageError(
                f"cannot read {entry!r} in the recipe", where=str(path), help="a name, or {name: {option: value}}"
            )
    return selected


def _one_of(what: str, given: str, known: Sequence[str]) -> None:
    if given not in known:
        close = nearest(given, known)
        hint = f"did you mean {close!r}? " if close else ""
        raise UsageError(f"unknown {what} {given!r}", help=f"{hint}one of {', '.join(known)}")


def _prepare(model: ir.Model, plan: str, target: str, assume_finite: bool) -> Context:
    infer_shapes(model)
    if model.functions:
        model = _inlined(model)
    # What is only faster on some machines (wider branches, zero columns instead of gathers) is no portable choice.
    kind: Kind = "fastest" if plan == "fastest" and target != "portable" else "smallest"
    return Context(model, Constants(), kind, target, assume_finite)


def _inlined(model: ir.Model) -> ir.Model:
    """Inline model-local functions, so that masks inside them can be seen; runtime operators stay calls."""
    from onnx_ir.passes.common import InlinePass

    try:
        result = InlinePass(criteria=lambda function: function.domain != "graphopt")(model).model
    except Exception as error:  # a recursive or malformed function: leave the model as it is
        raise ModelError(f"its functions cannot be inlined: {error}", help="check the model-local functions") from error
    infer_shapes(result)
    return result


def _run(context: Context, selected: list[Pass], repeat: bool, report: Report, step: Progress) -> None:
    total = len(selected)
    seen: set[object] = set()
    for round_number in range(ROUNDS if repeat else 1):
        first = len(report.passes)
        for position, item in enumerate(selected):
            step(item.name, position, total)
            if isinstance(item, NARROWING) and not report.axes and context.facts().anything():
                report.axes = axis_rows(context.facts(), context.plan())
            if repeat and isinstance(item, DELAYED):
                _delay(context, item, report)
            else:
                _run_one(context, item, report)
        step(f"round {round_number + 1}", total, total)
        if not repeat or not any(row.changed for row in report.passes[first:]):
            return
        if round_number > 2:  # most are done: only what goes on is worth looking at whether it goes in a circle
            now = _fingerprint(context.model)
            if now in seen:
                return
            seen.add(now)


NARROWING = (FoldDead, Demask, Propagate, Coalesce, Narrow)
"""Passes before which the report looks at the axes: masks are folded by then."""

DELAYED = (Demask, Propagate, Coalesce)
"""Passes whose scatters the default pipeline never emits: ``narrow``, which follows them, carries out their plan.

A scatter of the local form alone is seven nodes, all of which the next passes take out again.
Named in ``-p`` they run one by one, and leave the same model (see docs/decisions).
"""


def _delay(context: Context, item: Pass, report: Report) -> None:
    nodes = context.model.graph.num_nodes()
    left = report.passes[-1].parameters_after if report.passes else report.before.parameters
    report.passes.append(PassRow(item.name, 0.0, False, nodes, nodes, left))


def _run_one(context: Context, item: Pass, report: Report) -> None:
    nodes, started = context.model.graph.num_nodes(), time.perf_counter()
    changed = item.run(context)
    seconds = time.perf_counter() - started
    before = report.passes[-1].parameters_after if report.passes else report.before.parameters
    left = parameters(context.model, context.sizes) if changed else before
    row = PassRow(item.name, seconds, changed, nodes, context.model.graph.num_nodes(), left)
    report.passes.append(row)
    if changed and item.name == "narrow":
        # What the passes before it only planned was carried out here.
        for delayed in reversed(report.passes[:-1]):
            if delayed.name not in [cls.name for cls in DELAYED]:
                break
            delayed.changed = True


def _fingerprint(model: ir.Model) -> tuple[object, ...]:
    found = stats(model)
    return found.parameters, found.nodes, found.initializer_bytes, tuple(sorted(found.ops.items()))


@contextmanager
def _quiet_collector() -> Iterator[None]:
    """Passes create many small objects and few cycles: half of their time would be the garbage collector's."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _gained(report: Report) -> bool:
    before, after = report.before, report.after
    return after.parameters < before.parameters or after.macs < before.macs


# -- the proof -----------------------------------------------------------------------------------------------------


def _prove(
    original: ir.Model,
    result: ir.Model,
    selected: list[Pass],
    repeat: bool,
    report: Report,
    context: Context,
    keep_failed: bool,
    options: dict[str, Any],
) -> None:
    from graphopt.verify import Reference

    reference = Reference(original, **options)
    report.verify = reference.compare(result)
    if report.verify.passed or keep_failed:
        return
    culprit = _culprit(original, reference, selected, repeat, context)
    raise VerificationError(
        f"the optimized model differs from the original after pass {culprit!r}: {_worst(report.verify)}",
        where=culprit,
        help="nothing was written; run with -p without this pass, and report the model",
        report=report.verify,
        pass_name=culprit,
    )


def _culprit(original: ir.Model, reference: Any, selected: list[Pass], repeat: bool, context: Context) -> str:
    """Run the passes again, comparing after each, and return the name of the first that broke the model."""
    again = _prepare(models.clone(original), context.kind, context.target, context.assume_finite)
    again.may_grow = context.may_grow
    for _ in range(ROUNDS if repeat else 1):
        before = _fingerprint(again.model)
        for item in selected:
            item.run(again)
            if not reference.compare(again.model).passed:
                return item.name
        if _fingerprint(again.model) == before:
            break
    return selected[-1].name


def _worst(verdict: VerifyReport) -> str:
    if verdict.reason:
        return verdict.reason
    rows = [row for row in verdict.outputs if row.where]
    worst = max(rows or verdict.outputs, key=lambda row: row.max_abs)
    return f"output {worst.name!r} by {worst.max_abs:.3g} (allowed {worst.tolerance:.3g}) {worst.where or ''}"


# -- the report ----------------------------------------------------------------------------------------------------


def _masks(context: Context) -> list[Mask]:
    return find_masks(context.model.graph, Expressions(context.model.graph, context.constants))


def _mask_rows(masks: list[Mask], result: ir.Model, context: Context) -> list[MaskRow]:
    left = {node.name: node for node in result.graph}
    rows = []
    for mask in masks:
        names = [str(node.name) for node in mask.nodes]
        staying = [left[name] for name in names if name in left and left[name].op_type in ("Mul", "Where")]
        kept = [node for node in staying if _still_masks(node)]
        if not kept:
            action = "folded" if mask.kind == "weight" else "removed"
            reason = "multiplied into the weights" if mask.kind == "weight" else "its dead positions are gone"
        else:
            action, reason = "kept", _why_kept(mask, kept[0], context)
        rows.append(MaskRow(str(mask.value.name), mask.kind, names, mask.zeros, mask.size, action, reason))  # type: ignore[arg-type]
    return rows


def _still_masks(node: ir.Node) -> bool:
    return bool(node.outputs[0].uses()) or node.outputs[0].is_graph_output()


def _why_kept(mask: Mask, node: ir.Node, context: Context) -> str:
    line = source_line(node)
    at = f" ({line})" if line else ""
    if mask.kind == "dynamic":
        return f"a graph input decides it{at}"
    if mask.kind == "soft":
        return f"its values that are not zero scale what they meet{at}"
    if any(row.code == "mask-over-nan" and row.node in [each.name for each in mask.nodes] for row in context.warnings):
        return f"a weight under it is NaN or Inf, which its zero does not hide{at}"
    if not context.assume_finite and mask.kind == "activation" and not node.inputs[0].is_graph_input():  # type: ignore[union-attr]
        return f"the masked value is not provably finite (--no-assume-finite){at}"
    readers = ", ".join(sorted({use.node.op_type for use in node.outputs[0].uses()})) or "a graph output"
    return f"read whole by {readers}{at}"


def _moves(model: ir.Model, context: Context, role: str) -> Moves:
    remaining = []
    for node in model.graph:
        if node.metadata_props.get(ROLE) != role:
            continue
        out = last = node.outputs[0]
        fills = [use.node for use in out.uses() if use.node.metadata_props.get(ROLE) == "fill"]
        if fills:  # what reads the scatter is what reads it with its constants
            last = fills[0].outputs[0]
        readers = sorted({f"{use.node.op_type} {use.node.name or ''}".strip() for use in last.uses()})
        if last.is_graph_output():
            readers.append("graph output")
        remaining.append(ForcedRow(str(out.name), ", ".join(readers)))
    return Moves(context.counts[f"{role}s"], remaining)


__all__ = ["Result", "default", "optimize"]
