"""Narrowed results of operators with bodies: a body selects what is kept, and its own narrowing does the rest."""

from __future__ import annotations

import onnx_ir as ir

from graphopt.facts.ops.control import Bodies
from graphopt.facts.store import Facts, Spec
from graphopt.plan.classes import Layout, Plan
from graphopt.rewrite import moves
from graphopt.rewrite.edit import Cursor, Edit
from graphopt.rewrite.rules import rewrites


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
