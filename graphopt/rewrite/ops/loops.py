"""Loop and Scan on narrowed states and slices: the body scatters what it is given and selects what it hands on."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from graphopt import dims
from graphopt.facts.ops.loops import Iterated
from graphopt.facts.store import Spec
from graphopt.plan.classes import Layout
from graphopt.rewrite import moves
from graphopt.rewrite.edit import Cursor, Edit
from graphopt.rewrite.ops.control import inside, select_output
from graphopt.rewrite.rules import rewrites


@rewrites("Loop", "Scan")
def iterate(node: ir.Node, spec: Spec, edit: Edit) -> None:
    """Narrow the initial value, the body's input and output and the result of every state alike."""
    parts = spec.extra
    assert isinstance(parts, Iterated)
    body = parts.body.graph
    states = {state.operand: state for state in parts.states}
    read = {part.place: part for part in parts.read}
    for operand, value in enumerate(node.inputs):
        if value is None:
            continue
        if operand in states:
            state = states[operand]
            layout = edit.planned(node.outputs[state.out])
            edit.operand(node, operand, layout)
            if layout:
                give(body, operand, layout, parts, edit)
                select_output(body, state.made, layout, edit)
            continue
        wanted = {axis: kept for axis, kept in edit.layout(value).items() if (operand, axis) in spec.contracted}
        edit.operand(node, operand, wanted)
        if wanted:
            own = {axis: own for axis, own, _ in read[operand].axes}
            give(body, read[operand].inner, {own[axis]: kept for axis, kept in wanted.items()}, parts, edit)
    for part in parts.collected:
        own = {axis: own for axis, own, _ in part.axes}
        layout = edit.planned(node.outputs[part.place])
        if layout:
            select_output(body, part.inner, {own[axis]: kept for axis, kept in layout.items()}, edit)
    for out in node.outputs:
        edit.narrow_value(out, edit.planned(out))


def give(body: ir.Graph, place: int, layout: Layout, parts: Iterated, edit: Edit) -> None:
    """Let a body's input hold the kept positions only (axis → positions); a scatter behind it restores the others."""
    inner, old = inside(body, edit), body.inputs[place]
    sizes = list(dims.sizes(old) or ())
    dense = ir.Value(name=edit.name(f"{old.name}_dense"), type=old.type, shape=ir.Shape(list(sizes)))
    for axis, kept in layout.items():
        dims.resize(dense, axis, int(kept.size))
    uses, results = list(old.uses()), [at for at, output in enumerate(body.outputs) if output is old]
    body.inputs[place] = dense
    cursor, result = Cursor(body, before=next(iter(body), None)), dense
    dtype = old.dtype.numpy() if old.dtype is not None else np.float32
    for axis, kept in sorted(layout.items()):
        size = sizes[axis]
        assert isinstance(size, int)
        dead = parts.dead.get(old, {}).get(axis)
        zeros = np.zeros(size, dtype)
        fill = zeros if dead is None else np.where(dead.mask, dead.fill, zeros).astype(dtype)
        result = moves.scatter(inner, result, axis, kept, size, fill, cursor, dense)
    for use in uses:
        use.node.replace_input_with(use.idx, result)
    for at in results:
        body.outputs[at] = result
    edit.counts.update(inner.counts)
