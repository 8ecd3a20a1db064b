"""Narrowed results of operators with bodies: a body selects what is kept, and its own narrowing does the rest."""

from __future__ import annotations

import onnx_ir as ir

from graphopt.facts.ops.control import Bodies
from graphopt.facts.store import Facts, Spec
from graphopt.plan.classes import Layout, Plan
from graphopt.rewrite import moves
from graphopt.rewrite.edit import Cursor, Edit
from graphopt.rewrite.rules import rewrites
from graphopt.subgraphs import subgraphs, within


def inside(body: ir.Graph, edit: Edit) -> Edit:
    """Return an edit of a body that knows nothing: it only inserts what the edit around it asks for."""
    facts = edit.facts
    bare = Facts(body, facts.opset, facts.constants, names=edit.names)
    return Edit(Plan(bare, edit.plan.kind), "composed", cut_weights=True)


def select_output(body: ir.Graph, place: int, layout: Layout, edit: Edit) -> None:
    """Let a body's output hold the kept positions only (axis → positions), by gathers at its end."""
    inner = inside(body, edit)
    value = result = body.outputs[place]
    for axis, kept in sorted(layout.items()):
        result = moves.gather(inner, result, axis, kept, Cursor(body), value)
    body.outputs[place] = result
    edit.counts.update(inner.counts)


def whole_inside(edit: Edit) -> None:
    """Scatter narrowed values at the front of the bodies that read them; what the bodies need of it, they show."""
    for node in edit.graph:
        for body in subgraphs(node):
            restored: dict[ir.Value, ir.Value] = {}
            readers = [reader for graph in within(body) for reader in graph]
            for reader in readers:
                for position, value in enumerate(reader.inputs):
                    if value is None or value.graph is not edit.graph or not edit.layout(value):
                        continue
                    if value not in restored:
                        restored[value] = _restored(value, body, edit)
                    reader.replace_input_with(position, restored[value])


def _restored(value: ir.Value, body: ir.Graph, edit: Edit) -> ir.Value:
    inner, result = inside(body, edit), value
    place = Cursor(body, before=next(iter(body)))
    sizes = edit.sizes(value)
    assert sizes is not None
    for axis, kept in sorted(edit.layout(value).items()):
        size = sizes[axis]
        assert isinstance(size, int)
        result = moves.scatter(inner, result, axis, kept, size, edit.fill(value, axis, size), place, value)
    edit.counts.update(inner.counts)
    return result


@rewrites("If")
def branches(node: ir.Node, spec: Spec, edit: Edit) -> None:
    """Both branches give the kept positions of an output."""
    assert isinstance(spec.extra, Bodies)
    for place, out in enumerate(node.outputs):
        layout = edit.planned(out)
        if not layout:
            continue
        for known in spec.extra.facts:
            select_output(known.graph, place, layout, edit)
        edit.narrow_value(out, layout)
