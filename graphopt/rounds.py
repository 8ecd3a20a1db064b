"""Passes in order, round after round until nothing changes, with a journal of what each did."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import onnx_ir as ir

from graphopt import dims
from graphopt.context import Context
from graphopt.facts.constants import Constants
from graphopt.facts.stats import parameters, stats
from graphopt.model_shapes import infer_shapes
from graphopt.passes.shrink.coalesce import Coalesce
from graphopt.passes.shrink.demask import Demask
from graphopt.passes.shrink.fold_dead import FoldDead
from graphopt.passes.shrink.narrow import Narrow
from graphopt.passes.shrink.propagate import Propagate
from graphopt.plan.classes import Kind
from graphopt.plan.cost import CostModel
from graphopt.registry import Pass
from graphopt.report.axes import axis_rows
from graphopt.report.schema import PassRow, Report
from graphopt.rewrite.functions import inline_functions
from graphopt.rewrite.operators import remove_unused_functions
from graphopt.rewrite.unused import remove_unused

Progress = Callable[[str, int, int], None]

ROUNDS = 100
"""A default pipeline that still changes something after so many rounds stops there; two or three suffice."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What shall be done to a model."""

    passes: tuple[Pass, ...]
    repeat: bool = True
    """Whether the passes run until nothing changes."""
    target: str = "cpu"
    plan: str = "fastest"
    assume_finite: bool = True
    costs: CostModel = field(default_factory=CostModel)
    operators: bool | None = None
    """Whether runtime operators may be inserted; None: no, but calls that are there stay; False: those are inlined."""
    lowerings: tuple[Pass, ...] = ()
    """Passes that insert them, once, when all others are done."""


def prepare(model: ir.Model, settings: Settings) -> Context:
    """Infer shapes and inline functions, in place; return what passes work on.

    Raises:
        ModelError: its functions cannot be inlined, or its shapes contradict each other.
    """
    infer_shapes(model)
    if model.functions:
        model = inline_functions(model, calls=without_calls(settings))
        infer_shapes(model)
    # What is only faster on some machines (wider branches, zero columns instead of gathers) is no portable choice.
    kind: Kind = "fastest" if settings.plan == "fastest" and settings.target != "portable" else "smallest"
    context = Context(model, Constants(), kind, settings.target, settings.assume_finite)
    context.costs = settings.costs
    context.runtime_operators = bool(settings.operators)
    return context


def without_calls(settings: Settings) -> bool:
    """Tell whether calls of runtime operators that the model has are to be written in standard operators."""
    return settings.operators is False or settings.target in ("portable", "tensorrt")


def run(context: Context, settings: Settings, report: Report, step: Progress) -> None:
    """Run the passes; ``report`` gets a row for each run of each pass, and the axes as they were after folding."""
    selected, repeat = settings.passes, settings.repeat
    total = len(selected)
    seen: set[object] = set()
    for round_number in range(ROUNDS if repeat else 1):
        first = len(report.passes)
        for position, item in enumerate(selected):
            step(item.name, position, total)
            if isinstance(item, NARROWING) and not report.axes:
                for _ in context.graphs():
                    if context.facts().anything():
                        report.axes = axis_rows(context.facts(), context.plan()) + report.axes
            if repeat and isinstance(item, DELAYED):
                _delay(context, item, report)
            else:
                _run_one(context, item, report)
        step(f"round {round_number + 1}", total, total)
        if not repeat:
            break
        if not any(row.changed for row in report.passes[first:]) and not _sees_more(context):
            break
        if round_number > 2:  # most are done: only what goes on is worth looking at whether it goes in a circle
            now = fingerprint(context.model)
            if now in seen:
                break
            seen.add(now)
    if repeat:  # what a pass wrote before it changed its mind, and ``tidy`` did not see any more
        for graph in context.graphs():
            remove_unused(graph)


def lower(context: Context, lowerings: Iterable[Pass], report: Report, step: Progress) -> bool:
    """Write work as runtime operators: once and last, for facts do not see through their calls.

    Each pass runs on what the ones before it left. Definitions that nothing calls (any more) are removed.

    Returns:
        Whether anything was lowered.
    """
    first = len(report.passes)
    for item in lowerings:
        step(item.name, 0, 0)
        _run_one(context, item, report)
    if remove_unused_functions(context.model):
        context.changed()
    return any(row.changed for row in report.passes[first:])


def _sees_more(context: Context) -> bool:
    """Infer shapes again in a model with bodies; return whether sizes became known.

    What a Loop hands out depends on its body: the size may be one that only a body without its masks shows.
    """
    bodies = list(context.model.graph.subgraphs())
    if not bodies:
        return False
    values = [out for graph in (context.model.graph, *bodies) for node in graph for out in node.outputs]
    before = [dims.sizes(value) for value in values]
    infer_shapes(context.model)
    if before == [dims.sizes(value) for value in values]:
        return False
    context.changed()
    return True


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
    changed = context.run(item)
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


def fingerprint(model: ir.Model) -> tuple[object, ...]:
    """Return what tells two stages of one model apart."""
    found = stats(model)
    return found.parameters, found.nodes, found.initializer_bytes, tuple(sorted(found.ops.items()))


@contextmanager
def quiet_collector() -> Iterator[None]:
    """Passes create many small objects and few cycles: half of their time would be the garbage collector's."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
