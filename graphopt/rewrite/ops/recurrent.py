"""Recurrent operators with fewer units and fewer inputs: every gate's rows are cut alike."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from graphopt.facts.ops.recurrent import (
    INITIAL_C,
    INITIAL_H,
    PEEPHOLES,
    B,
    R,
    Recurrence,
    W,
    X,
    optional,
    read_columns,
    recurrence,
)
from graphopt.facts.store import Spec
from graphopt.rewrite.edit import Edit
from graphopt.rewrite.rules import outputs_narrowed, rewrites, wanted_by_links


@rewrites("LSTM", "GRU", "RNN")
def recurrent(node: ir.Node, spec: Spec, edit: Edit) -> None:
    """Cut W, R, the biases and the peepholes; initial states that are zero go."""
    found = recurrence(spec)
    assert found is not None
    position, axis, _ = spec.groups[0].outputs[0]
    units = edit.planned(node.outputs[position]).get(axis)
    kept = np.arange(found.hidden) if units is None else units
    for operand in found.idle:
        node.replace_input_with(operand, None)
    columns, extra = _inputs(node, spec, found, kept, edit)
    rows = _rows(kept, found.gates, found.hidden)
    weight = {} if columns is None else {2: columns}
    edit.operand(node, W, weight if units is None else {1: rows, **weight})
    if units is not None:
        edit.operand(node, R, {1: rows, 2: kept})
        for operand, count in ((B, 2 * found.gates), (PEEPHOLES, 3)):
            if optional(node, operand) is not None:
                edit.operand(node, operand, {1: _rows(kept, count, found.hidden)})
        node.attributes["hidden_size"] = ir.AttrInt64("hidden_size", int(kept.size))
    for operand in (INITIAL_H, INITIAL_C):
        if optional(node, operand) is not None:
            wanted = wanted_by_links(node, operand, spec, edit)
            if units is not None:
                wanted[2] = units
            edit.operand(node, operand, wanted)
    outputs_narrowed(node, edit)
    if extra is not None:
        _add_to_bias(node, extra[:, rows], edit)


def _rows(kept: np.ndarray, count: int, hidden: int) -> np.ndarray:
    """Return the rows of ``kept`` units in ``count`` blocks of ``hidden`` rows."""
    return (np.arange(count)[:, None] * hidden + kept).ravel()


def _inputs(
    node: ir.Node, spec: Spec, found: Recurrence, kept: np.ndarray, edit: Edit
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Narrow the inputs; return which (``None``: all), and what the constants among the others add to the gates.

    The latter is ``[directions, gates * units]``, or ``None`` for nothing.
    """
    x, w = node.inputs[X], node.inputs[W]
    assert x is not None and w is not None
    wanted = wanted_by_links(node, X, spec, edit)
    original = edit.sizes(x)
    size = None if original is None else original[2]
    assert isinstance(size, int)
    have = edit.layout(x).get(2)
    read = np.arange(size) if have is None else have
    if edit.plan.kind == "smallest" or edit.form != "composed":
        units = np.zeros((found.directions, found.hidden), bool)
        units[:, kept] = True
        columns = np.flatnonzero(read_columns(node, found, units & ~found.silent, edit.facts))
        columns = columns[np.isin(columns, read)]
        read = columns if columns.size else read[:1]
    left_out = np.ones(size, bool)
    left_out[read] = False
    if left_out.any():
        wanted[2] = read
    edit.operand(node, X, wanted)
    extra = None
    dead = edit.facts.dead_axes(edit.origin(x)).get(2)
    if dead is not None:
        fill = np.where(dead.mask & left_out, dead.fill, 0).astype(np.float64)
        weights = edit.facts.constants.array(w)
        if fill.any() and weights is not None:
            extra = weights.astype(np.float64) @ fill
            edit.facts.constants.release(w)
    return read if left_out.any() else None, extra


def _add_to_bias(node: ir.Node, extra: np.ndarray, edit: Edit) -> None:
    """Add ``extra`` (``[directions, gates * units]``) to the biases of the inputs."""
    bias = optional(node, B)
    out = node.outputs[0]
    dtype = node.inputs[W].dtype if node.inputs[W] is not None else None  # type: ignore[union-attr]
    array = np.zeros((extra.shape[0], 2 * extra.shape[1])) if bias is None else edit.facts.constants.array(bias)
    assert array is not None and dtype is not None
    summed = array.astype(np.float64)
    summed[:, : extra.shape[1]] += extra
    if len(node.inputs) <= B:
        node.resize_inputs(B + 1)
    node.replace_input_with(B, edit.constant(summed.astype(dtype.numpy()), f"{out.name or node.name}_bias", dtype))
    edit.counts["bias"] += 1
