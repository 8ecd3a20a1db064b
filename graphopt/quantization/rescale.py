"""Multiplies what classes of scales (``scaling.py``) say, by changing constants: the edit behind equalisation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from graphopt.context import Context
from graphopt.quantization.scaling import Change, Scaling
from graphopt.quantization.trial import helps
from graphopt.rewrite import weights
from graphopt.rewrite.edit import Edit


@dataclass
class Rescaling:
    """Constants that were changed, and how to put them back.

    Attributes:
        constants: How many changed.
        undo: What puts each of them back.
    """

    constants: int = 0
    undo: list[Callable[[], None]] = field(default_factory=list)

    def __call__(self) -> None:
        """Put everything back."""
        for each in reversed(self.undo):
            each()


def rescaled(context: Context, found: Scaling, exponents: np.ndarray) -> int:
    """Multiply classes; return how many constants changed: none where the quantized model did not come nearer."""
    done = Rescaling()

    def change() -> Rescaling:
        nonlocal done
        done = rescale(context, found, exponents)
        return done

    return done.constants if helps(context, change) else 0


def rescale(context: Context, found: Scaling, exponents: np.ndarray) -> Rescaling:
    """Multiply every class by ``2**exponent`` (``[classes]``, by root).

    Where an exponent is a whole number, no result of the model changes but by overflow and underflow of activations: a
    class that would make a weight leave the normal numbers stays as it is.
    """
    exponents = np.where(np.arange(exponents.size) == 0, 0.0, exponents)
    while (lost := _lost(found, exponents)).any():
        exponents = np.where(lost, 0.0, exponents)
    edit = Edit(context.bare(), "composed", cut_weights=True)
    done = Rescaling()
    for change in found.changes:
        by = _by(change, found, exponents)
        if by.any():
            done.undo.append(_replace(change, by, edit))
            done.constants += 1
    if done.constants and context.quantization is not None:
        for row in context.quantization.placement.biases:
            value = row.node.inputs[row.position]
            assert value is not None
            row.value = value
    return done


def _by(change: Change, found: Scaling, exponents: np.ndarray) -> np.ndarray:
    """Return the exponents that a constant is multiplied by, broadcasting against it."""
    return exponents[found.roots[change.up]] - exponents[found.roots[change.down]]


def scaled(array: np.ndarray, by: np.ndarray) -> np.ndarray:
    """Return ``array * 2**by``; exact for whole numbers."""
    if (by == np.rint(by)).all():
        return np.ldexp(array, by.astype(np.int32)).astype(array.dtype)
    return (array * np.exp2(by)).astype(array.dtype)


def _lost(found: Scaling, exponents: np.ndarray) -> np.ndarray:
    """Return which classes (bool, by root) make some constant inexact or infinite."""
    lost = np.zeros(exponents.size, bool)
    for change in found.changes:
        by = _by(change, found, exponents)
        value = change.node.inputs[change.position]
        array = found.constants.array(value) if by.any() else None
        if array is None or value is None:
            continue
        with np.errstate(over="ignore", under="ignore"):
            after = scaled(array, by)
        whole = by == np.rint(by)
        tiny = np.abs(after) < np.finfo(array.dtype).tiny
        bad = ~np.isfinite(after) | (whole & tiny & (after != array) & (array != 0))
        if bad.any():
            for ids in (change.up, change.down):
                lost[np.unique(np.broadcast_to(found.roots[ids], bad.shape)[bad])] = True
        found.constants.release(value)
    lost[0] = False
    return lost & (exponents != 0)


def _replace(change: Change, by: np.ndarray, edit: Edit) -> Callable[[], None]:
    """Give a node the constant that it needs: in place where it alone reads it, so that the value stays known."""
    node, position = change.node, change.position
    value = node.inputs[position]
    assert value is not None
    tensor = edit.facts.constants.tensor(value)

    def compute(array: np.ndarray) -> np.ndarray:
        return scaled(np.broadcast_to(array, change.shape), by)

    result = weights.derived(tensor, compute, change.shape, name=value.name)
    if not value.is_initializer() or len(value.uses()) > 1 or value.is_graph_output():
        node.replace_input_with(position, edit.initializer(result, f"{value.name}_scaled"))
        return lambda: node.replace_input_with(position, value)
    before = value.const_value, value.shape

    def undo() -> None:
        value.const_value, value.shape = before

    value.const_value, value.shape = result, ir.Shape(list(change.shape))
    return undo
