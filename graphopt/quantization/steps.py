"""The steps of a quantization, each a function over the context; ``context.model`` stays the float model throughout.

``inserted`` makes a quantized model of what is known, as often as somebody wants another choice of nodes in
``State.placement``. ``calibrate`` and ``solve`` only do what has not been done yet.
"""

from __future__ import annotations

import copy
import functools
import operator
import os
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any

import numpy as np
import onnx_ir as ir

from graphopt import model as models
from graphopt import registry, rounds
from graphopt.calibrate.collect import collect
from graphopt.calibrate.solve import Parameters, solve, solve_rows
from graphopt.context import Context
from graphopt.errors import UsageError, about, nearest
from graphopt.facts.constants import Constants
from graphopt.quantization import biases, corrections, weight_only
from graphopt.quantization.fidelity import Fidelity, worst
from graphopt.quantization.place import RETURNED, placed
from graphopt.quantization.placement import Placement, Weight
from graphopt.quantization.qdq import in_type, insert
from graphopt.quantization.reduce import without
from graphopt.quantization.request import Request
from graphopt.quantization.state import STAGES, State
from graphopt.quantization.types import weight_grid
from graphopt.quantization.unfit import unfit
from graphopt.report.schema import Report
from graphopt.rewrite.unused import remove_unused
from graphopt.rounds import Settings
from graphopt.subgraphs import within

Progress = Callable[[str, int, int], None]

FEW_LEVELS = 16
"""Weights of so many levels are rounded with care unless the user says otherwise."""

FIRST = ("fold-masks", "fold-batch-norm", "tidy")
"""Passes of ``optimize`` that run before placement: a weight is quantized as it will be multiplied."""


def state_of(context: Context) -> State:
    """Return the state of the quantization that a context belongs to."""
    assert context.quantization is not None, "not inside a quantization"
    return context.quantization


def preparing() -> list[registry.Pass]:
    """Return the passes that bring a model into the form that targets have integer kernels for."""
    named = [registry.make(name, {}) for name in FIRST]
    return named + [
        registry.make(name, {}) for name, cls in registry.passes().items() if registry.stage(cls) == "prepare"
    ]


def recovering(request: Request, given: bool = True) -> list[registry.Pass]:
    """Return the passes that recover accuracy, in the order of their stages: those that the user named, or the usual.

    Clipping takes from the same positions of every sample and moves means: ranges are widened where that helps at the
    outputs, and biases are corrected. Weights of few levels are rounded by what comes out of them, not each to its
    nearest level; weights alone, too, where data is ``given``.

    Raises:
        UsageError: a name or option that there is not, or a pass that does something else.
    """
    text = request.recover
    if text is None:
        text = "" if request.weight_only else "widen-ranges,bias-correction"
        if not text:
            text = "gptq" if given and weight_only.asked(request).levels <= FEW_LEVELS else ""
        elif weight_grid(request).levels <= FEW_LEVELS:
            text = "widen-ranges,gptq,bias-correction"
    if not text.strip() or text.strip() == "none":
        return []
    known = [name for name, cls in registry.passes().items() if registry.stage(cls) in STAGES[1:]]
    with about("recover"):
        found = registry.parse(text)
    for item in found:
        if registry.stage(item) not in STAGES[1:]:
            close = nearest(item.name, known)
            hint = f"did you mean {close!r}? " if close else ""
            raise UsageError(
                f"pass {item.name!r} recovers no accuracy", where="recover", help=f"{hint}one of {', '.join(known)}"
            )
    return sorted(found, key=lambda item: STAGES.index(registry.stage(item)))


def place(context: Context) -> None:
    """Decide anew which tensors are quantized; parameters of those that still are stay as they are."""
    state = state_of(context)
    if state.request.weight_only:
        state.placement = without(weight_only.place(context, state.request), state.floats, RETURNED)
    else:
        state.placement = placed(context, state.request)
    for row in (*state.placement.weights.values(), *state.placement.activations.values()):
        row.grid = state.grids.get(row.value, row.grid)
    for kept in state.placement.kept:
        kept.reason = state.why.get(kept.node, kept.reason)


def smooth(context: Context, recovery: list[registry.Pass], report: Report, step: Progress) -> None:
    """Run the passes that change the float model and keep its function, and place anew on what they left."""
    if _run(context, recovery, "smooth", report, step):
        place(context)


def repair(context: Context, recovery: list[registry.Pass], report: Report, step: Progress) -> list[str]:
    """Run the passes that change scales, integers and biases; what they added is placed, too.

    A pass after which the outputs are further from the float model's (on the calibration data) is undone.

    Returns:
        For the report: the outcome of each pass.
    """
    state = state_of(context)
    chosen = [item for item in recovery if registry.stage(item) == "repair"]
    compared = chosen and state.given
    seen = Fidelity(context.model if state.original is None else state.original, state.batches()) if compared else None
    outcomes = []
    before = None if seen is None or not seen.samples else worst(seen.of(inserted(context)))
    for item in chosen:
        kept = _kept(context)
        if not _run(context, [item], "repair", report, step):
            outcomes.append(f"{item.name}: nothing to gain")
            continue
        place(context)
        settle(context, step)
        if seen is None or not seen.samples:
            outcomes.append(item.name)
            continue
        after = worst(seen.of(inserted(context)))
        said = f"{_decibels(before)} -> {_decibels(after)}"
        if before is None or (after is not None and after < before):
            undone = _undo(context, kept)
            outcomes.append(f"{item.name}: {said}, {'undone' if undone else 'kept: it changed the graph'}")
            before = before if undone else after
        else:
            outcomes.append(f"{item.name}: {said}")
            before = after
    return outcomes


_KEPT = ("floats", "why", "grids", "parameters", "asked", "corrections", "codes")


def _kept(context: Context) -> tuple[dict[str, Any], object]:
    """Return what a pass may change, as it is now."""
    state = state_of(context)
    return {name: copy.copy(getattr(state, name)) for name in _KEPT}, _shape_of(context.model.graph)


def _undo(context: Context, kept: tuple[dict[str, Any], object]) -> bool:
    """Put back what a pass changed; a changed graph cannot be put back, and then nothing is."""
    fields_before, shape = kept
    if shape != _shape_of(context.model.graph):
        return False
    state = state_of(context)
    for name, value in fields_before.items():
        setattr(state, name, value)
    place(context)
    settle(context)
    return True


def _shape_of(graph: ir.Graph) -> list[tuple[ir.Node, tuple[ir.Value | None, ...]]]:
    return [(node, tuple(node.inputs)) for node in graph]


def _decibels(sqnr: float | None) -> str:
    return "exact" if sqnr is None else f"{sqnr:.1f} dB"


def _run(context: Context, recovery: list[registry.Pass], stage: str, report: Report, step: Progress) -> bool:
    chosen = tuple(item for item in recovery if registry.stage(item) == stage)
    first = len(report.passes)
    state_of(context).step = step
    if chosen:
        rounds.run(context, Settings(chosen, repeat=False), report, lambda what, done, total: step(what, 0, 0))
    return any(row.changed for row in report.passes[first:])


def meet(context: Context, step: Progress) -> list[str]:
    """Return operators to more bits or to float until the user's SQNR or accuracy is met, if he asked for one.

    Returns:
        For the report: what it took.
    """
    request = state_of(context).request
    if request.target_sqnr is None and request.target_accuracy is None:
        return []
    from graphopt.quantization import mixed

    assert not isinstance(request.evaluate, str)
    outcome = mixed.meet(
        context,
        target_sqnr=request.target_sqnr,
        target_accuracy=request.target_accuracy,
        evaluate=request.evaluate,
        progress=step,
    )
    return outcome.lines


def calibrate(context: Context, progress: Progress | None = None) -> None:
    """Collect histograms of the activations that have none yet."""
    state = state_of(context)
    names = [str(value.name) for value in state.placement.activations if str(value.name) not in state.histograms]
    if not names:
        return
    request = state.request

    def count(what: str, done: int, total: int) -> None:
        state.calibrated = max(state.calibrated, done)
        if progress is not None:
            progress(what, done, total)

    state.histograms.update(
        collect(
            context.model,
            names,
            state.batches(),
            progress=count,
            workers=request.workers,
            ray=request.ray,
            total=state.total,
            resume=_folder(request.resume, state.calibrations),
            nonfinite="refuse nan",  # infinities are for `unfit`
        )
    )
    state.calibrations += 1


def _folder(resume: str | None, number: int) -> str | None:
    """Return where the checkpoints of one calibration are; later ones, of other values, have folders inside."""
    return resume if resume is None or not number else os.path.join(resume, str(number))


def settle(context: Context, progress: Progress | None = None) -> None:
    """Calibrate and solve; return to float what no scale fits, until all that is placed has one."""
    state = state_of(context)
    while True:
        calibrate(context, progress)
        find_parameters(context)
        found = {} if state.request.weight_only else unfit(state)
        if not found:
            return
        state.floats.update(found)
        state.why.update(found)
        place(context)


def find_parameters(context: Context) -> None:
    """Find the parameters of the activations and weights of the placement that have none yet."""
    state = state_of(context)
    request, placement, found = state.request, state.placement, state.parameters
    if request.weight_only:
        if recovering(
            request, state.given
        ):  # else each weight is solved while it is written, so that memory does not grow
            found.update(weight_only.solved(context, placement, request, known=found))
        return
    shared: dict[str, list[str]] = {}
    for value, row in placement.activations.items():
        shared.setdefault(row.share or str(value.name), []).append(str(value.name))
    for key, names in shared.items():  # the same object as before where nothing changed: long ones are compared once
        state.shared[key] = state.shared[key] if state.shared.get(key) == tuple(names) else tuple(names)
    solutions: dict[object, Parameters] = {}
    for value, row in placement.activations.items():
        key = row.share or str(value.name)
        if _asked_anew(state, value, (row.grid, row.constraint, state.shared[key])):
            wanted = (key, row.grid, row.constraint)
            if wanted not in solutions:
                seen = functools.reduce(operator.add, (state.histograms[name] for name in state.shared[key]))
                solutions[wanted] = solve(
                    seen, row.grid, row.constraint, method=request.method, percent=request.percent
                )
            found[value] = in_type(solutions[wanted], value, above=row.constraint.upper is None)
    for value, row in placement.weights.items():
        if _asked_anew(state, value, (row.grid, row.constraint, row.axis)):
            array = context.constants.array(value)
            assert array is not None
            found[value] = in_type(of_weight(array, row, request), value)
            state.codes.pop(value, None)
            context.constants.release(value)
    for value in biases.fit(placement, found, context.constants):
        state.codes.pop(value, None)


def _asked_anew(state: State, value: ir.Value, question: object) -> bool:
    """Tell whether a value has no parameters yet, or ones that were found for something else."""
    new = value not in state.parameters or state.asked.get(value, question) != question
    state.asked[value] = question
    return new


def of_weight(array: np.ndarray, row: Weight, request: Request) -> Parameters:
    """Return the parameters of one weight."""
    rows = (
        array.reshape(1, -1) if row.axis is None else np.moveaxis(array, row.axis, 0).reshape(array.shape[row.axis], -1)
    )
    found = solve_rows(rows, row.grid, row.constraint, method=request.method, percent=request.percent)
    if row.axis is not None:
        return found
    first = {name: getattr(found, name)[0] for name in ("scale", "zero_point", "mse", "power")}
    return replace(found, **{name: np.asarray(one) for name, one in first.items()})


def rebuilt(context: Context, progress: Progress | None = None) -> ir.Model:
    """Place without ``State.floats``, find what is missing, and return a quantized copy of the float model."""
    place(context)
    settle(context, progress)
    return inserted(context)


def inserted(context: Context, progress: Progress | None = None) -> ir.Model:
    """Return a copy of the float model with the placement carried out in it."""
    state = state_of(context)
    copied = models.clone(context.model)
    same = _twins(context.model.graph, copied.graph)
    twin = Context(copied, Constants(), target=context.target)
    twin.quantization = state
    placement: Placement = _translated(state.placement, same)
    parameters: Mapping[ir.Value, Parameters] = {same[v]: p for v, p in state.parameters.items() if v in same}
    codes = {same[v]: found for v, found in state.codes.items() if v in same}
    corrections.apply(twin, placement, {same[node]: by for node, by in state.corrections.items() if node in same})
    if state.request.weight_only:
        found = dict(parameters)
        weight_only.insert(twin, placement, found, codes, state.request, progress)
        back = {other: value for value, other in same.items()}
        state.parameters.update((back[value], each) for value, each in found.items())
    else:
        insert(twin, placement, parameters, codes)
    for graph in twin.graphs():
        remove_unused(graph)
    return copied


def _twins(graph: ir.Graph, copied: ir.Graph) -> dict[Any, Any]:
    """Return value → value and node → node, from a graph and the bodies in it to its copy."""
    same: dict[Any, Any] = {}
    for one, other in zip(within(graph), within(copied), strict=True):
        same.update(zip(one.inputs, other.inputs, strict=True))
        same.update((value, other.initializers[name]) for name, value in one.initializers.items())
        for node, twin in zip(one, other, strict=True):
            same[node] = twin
            same.update(zip(node.outputs, twin.outputs, strict=True))
    return same


def _translated(found: Any, same: Mapping[Any, Any]) -> Any:
    """Return a record with every value and node in it exchanged for its twin."""
    if isinstance(found, ir.Value | ir.Node):
        return same[found]
    if is_dataclass(found) and not isinstance(found, type):
        changed = {field.name: _translated(getattr(found, field.name), same) for field in fields(found) if field.init}
        return replace(found, **changed)
    if isinstance(found, dict):
        return {_translated(key, same): _translated(each, same) for key, each in found.items()}
    if isinstance(found, list | tuple):
        return type(found)(_translated(each, same) for each in found)
    return found
