"""Reductions over a narrowed axis: zeros drop out of sums, other constants are added; a mean keeps its divisor."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from graphopt import dims
from graphopt.facts.ops.reduction import absorbs_constants
from graphopt.facts.store import Spec
from graphopt.rewrite.edit import Cursor, Edit
from graphopt.rewrite.rules import outputs_narrowed, rewrites, wanted_by_links
from graphopt.rewrite.scales import absorbed


@rewrites("ReduceSum", "ReduceL1", "ReduceL2", "ReduceSumSquare", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd",
          "ReduceLogSum", "ReduceLogSumExp")  # fmt: skip
def reduction(node: ir.Node, spec: Spec, edit: Edit) -> None:
    """Reduce the dense value where what is missing can be accounted for, the whole one otherwise."""
    value = node.inputs[0]
    assert value is not None
    wanted = wanted_by_links(node, 0, spec, edit)
    original = edit.sizes(value)
    assert original is not None
    share, constant = 1.0, 0.0
    for _, axis in spec.contracted:
        kept = edit.layout(value).get(axis)
        size = original[axis]
        if kept is None or not isinstance(size, int):
            continue
        missing = np.ones(size, bool)
        missing[kept] = False
        dead = edit.facts.dead_axes(edit.origin(value)).get(axis)
        if dead is None or not dead.mask[missing].all():
            continue
        fills = dead.fill[missing].astype(np.float64)
        if fills.any():
            if not absorbs_constants(node, spec, value, axis, edit.facts):
                continue
            constant += _total(node.op_type, fills, [original[other] for _, other in spec.contracted if other != axis])
            constant /= size if node.op_type == "ReduceMean" else 1
        wanted[axis] = kept
        share *= kept.size / size
    edit.operand(node, 0, wanted)
    outputs_narrowed(node, edit)
    if node.op_type == "ReduceMean" and share != 1.0:
        if absorbed(edit.current(node.outputs[0]), share, edit):
            edit.counts["reduced"] += 1
            constant /= share
        else:
            _append(node, "Mul", share, edit)
    if constant:
        _append(node, "Add", constant, edit)


def _total(op_type: str, fills: np.ndarray, others: list[dims.Size]) -> float:
    """Return what constants add to a sum over their axis and ``others`` (for a mean: over their axis alone)."""
    terms = {"ReduceL1": np.abs(fills), "ReduceSumSquare": fills * fills}.get(op_type, fills)
    count = 1
    if op_type != "ReduceMean":
        for size in others:
            assert isinstance(size, int)
            count *= size
    return float(terms.sum()) * count


def _append(node: ir.Node, op_type: str, number: float, edit: Edit) -> None:
    """Put ``op_type`` with a scalar behind the node (behind what stands for its output by now)."""
    out = edit.current(node.outputs[0])
    users = list(out.uses())
    dtype = out.dtype.numpy() if out.dtype is not None else np.float32
    scalar = edit.constant(np.array(number, dtype), f"{out.name}_{op_type.lower()}", out.dtype)
    place = Cursor.behind(out, edit.graph)
    result = edit.node(op_type, [out, scalar], place, f"{out.name}_dense", dims.sizes(out), out)
    edit.counts["reduced"] += 1
    edit.stand_in(out, result, users)
