"""Keeps a change of the float model only if the quantized model comes nearer to it, on the calibration data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from graphopt.context import Context
from graphopt.quantization import steps
from graphopt.quantization.fidelity import Fidelity, worst

MARGIN = 0.25
"""Decibels that a change must win: less is the luck of rounding, and may be lost on other data."""

_FOUND = ("histograms", "parameters", "asked", "codes", "floats", "why")
"""What a state holds because of calibration; names of its fields."""


def helps(context: Context, change: Callable[[], Callable[[], None]]) -> bool:
    """Carry a change out; undo it, and return False, where the outputs of the quantized model come no nearer.

    ``change`` returns what undoes it, and keeps the function of the float model. Where there is no data, or the target
    quantizes nothing, it stays.
    """
    state = context.quantization
    if state is None or not state.placement.nodes or state.request.weight_only:
        change()
        return True
    seen = Fidelity(context.model, state.batches())
    if not seen.samples:
        change()
        return True
    request = state.request
    state.request = replace(request, resume=None)  # the calibration that can be resumed is that of the final model
    kept = {name: getattr(state, name).copy() for name in _FOUND}
    try:
        steps.settle(context)
        before = worst(seen.of(steps.inserted(context)))
        calibrated = {name: getattr(state, name) for name in _FOUND}
        _restart(context, {name: found.copy() for name, found in kept.items()})
        undo = change()
        context.changed()
        steps.place(context)
        steps.settle(context)
        after = worst(seen.of(steps.inserted(context)))
        if after is None or (before is not None and after > before + MARGIN):
            return True
        undo()
        context.changed()
        _restart(context, calibrated)
        return False
    finally:
        state.request = request


def _restart(context: Context, found: dict[str, object]) -> None:
    for name, each in found.items():
        setattr(context.quantization, name, each)
    steps.place(context)
