"""Reductions over a narrowed axis: zeros drop out of sums; a mean keeps its original divisor."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from graphopt.facts.store import Spec
from graphopt.rewrite.edit import Cursor, Edit
from graphopt.rewrite.rules import outputs_narrowed, rewrites, wanted_by_links


@rewrites("ReduceSum", "ReduceL1", "ReduceL2", "ReduceSumSquare", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd",
          "ReduceLogSum", "ReduceLogSumExp")  # fmt: skip
def reduction(node: ir.Node, spec: Spec, edit: Edit) -> None:
    """Reduce the dense value where what is missing are zeros, the whole one otherwise."""
    value, out = node.inputs[0], node.outputs[0]
    assert value is not None
    wanted = wanted_by_links(node, 0, spec, edit)
    original = edit.sizes(value)
    assert original is not None
    scale = 1.0
    for _, axis in spec.contracted:
        kept = edit.layout(value).get(axis)
        size = original[axis]
        if kept is None or not isinstance(size, int):
            continue
        missing = np.ones(size, bool)
        missing[kept] = False
        dead = edit.facts.dead_axes(edit.origin(value)).get(axis)
        if dead is None or not (dead.mask & (dead.fill == 0))[missing].all():
            continue
        wanted[axis] = kept
        scale *= kept.size / size
    edit.operand(node, 0, wanted)
    outputs_narrowed(node, edit)
    if node.op_type == "ReduceMean" and scale != 1.0:
        users = list(out.uses())
        dtype = out.dtype.numpy() if out.dtype is not None else np.float32
        factor = edit.constant(np.array(scale, dtype), f"{out.name}_share", out.dtype)
        place = Cursor(edit.graph, after=node)
        result = edit.node("Mul", [out, factor], place, f"{out.name}_mean", list(out.shape or ()), out)
        edit.stand_in(out, result, users)
