"""A factor that a value lacks is made up for by constants behind it.

``scale * x / sqrt(share * mean + eps)`` is ``scale / sqrt(share) * x / sqrt(mean + eps / share)``: no node more than
without the factor, so that a runtime that recognises RMSNorm in its parts still does.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from graphopt.rewrite import weights
from graphopt.rewrite.edit import Edit

LENGTH = 8
"""Nodes that a factor may pass."""

_MOVES = frozenset("Identity Expand Unsqueeze Squeeze Reshape Cast".split())


def absorbed(value: ir.Value, factor: float, edit: Edit) -> bool:
    """Multiply ``value`` by a positive factor by changing constants behind it; false, and nothing done, if none can."""
    changes: list[tuple[ir.Node, int, float]] = []
    for _ in range(LENGTH):
        uses = list(value.uses())
        if len(uses) != 1 or value.is_graph_output() or not _only_zeros(value, edit):
            return False
        node, position = uses[0].node, uses[0].idx
        if node.domain not in ("", "ai.onnx") or node.graph is not edit.graph or len(node.outputs) != 1:
            return False
        other = 1 - position
        constant = len(node.inputs) == 2 and edit.facts.constants.known(node.inputs[other])
        if node.op_type == "Add" and constant:
            changes.append((node, other, 1 / factor))
        elif node.op_type in ("Mul", "Div") and constant:
            changes.append((node, other, factor if node.op_type == "Mul" else 1 / factor))
            return _change(changes, edit)
        elif node.op_type == "Div" and position == 1:
            factor = 1 / factor
        elif node.op_type == "Sqrt":
            factor = factor**0.5
        elif node.op_type == "Reciprocal":
            factor = 1 / factor
        elif node.op_type not in ("Mul", "Div") and (node.op_type not in _MOVES or position):
            return False
        value = node.outputs[0]
        if value.dtype is None or not value.dtype.is_floating_point():
            return False
    return False


def _only_zeros(value: ir.Value, edit: Edit) -> bool:
    """Tell whether no constant of a value changes with a factor."""
    return all(not dead.fill[dead.mask].any() for dead in edit.facts.dead_axes(edit.origin(value)).values())


def _change(changes: list[tuple[ir.Node, int, float]], edit: Edit) -> bool:
    results = []
    for node, position, factor in changes:
        value = node.inputs[position]
        assert value is not None
        result = scaled(value, factor, edit)
        if result is None:
            return False
        results.append(result)
    for (node, position, _), result in zip(changes, results, strict=True):
        node.replace_input_with(position, result)
    return True


def scaled(
    value: ir.Value, factor: float, edit: Edit, *, dtype: ir.DataType | None = None, zeros: int = 0
) -> ir.Value | None:
    """Return a constant multiplied by a factor, in another type, with zeros appended to its last axis.

    Small ones are computed at once: ``None`` where the result is not finite.
    """
    tensor = edit.facts.constants.tensor(value)
    dtype = tensor.dtype if dtype is None else dtype
    if factor == 1.0 and dtype == tensor.dtype and not zeros:
        return value
    key = ("scaled", value, factor, dtype, zeros)
    if key in edit.constants:
        return edit.constants[key]
    kind = dtype.numpy()
    shape = list(tensor.shape.numpy())
    if zeros:
        shape[-1] += zeros

    def compute(array: np.ndarray) -> np.ndarray:
        wide = array.astype(np.float64) * factor
        if zeros:
            wide = np.pad(wide, [(0, 0)] * (wide.ndim - 1) + [(0, zeros)])
        return wide.astype(kind)

    result = weights.derived(tensor, compute, shape, dtype=dtype)
    if not isinstance(result, ir.LazyTensor):
        with np.errstate(over="ignore"):
            if not np.isfinite(result.numpy().astype(np.float64)).all():
                return None
    edit.constants[key] = edit.initializer(result, f"{value.name}_dense")
    return edit.constants[key]
