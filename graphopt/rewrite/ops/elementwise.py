"""Elementwise rewrites that links alone do not give."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from graphopt import dims
from graphopt.facts import rules as facts_rules
from graphopt.facts.constants import is_constant
from graphopt.facts.ops.contraction import geometry
from graphopt.facts.ops.elementwise import Elementwise, own_axis
from graphopt.facts.store import Spec
from graphopt.rewrite.edit import Cursor, Edit
from graphopt.rewrite.rules import by_links, patch_shape, rewrites, wanted_by_links


@rewrites("Expand")
def expand(node: ir.Node, spec: Spec, edit: Edit) -> None:
    """Narrow the input; the shape operand asks for one (= "as the input") where the axis was cut."""
    out = node.outputs[0]
    edit.operand(node, 0, wanted_by_links(node, 0, spec, edit))
    layout = edit.planned(out)
    rank = dims.rank(out) or 0
    if layout:
        # The shape operand may be shorter than the rank of the output; entries align at the right.
        length = (dims.static(node.inputs[1]) or (rank,))[0] or rank
        entries = {axis - (rank - length): int(kept.size) for axis, kept in layout.items() if axis >= rank - length}
        patch_shape(node, 1, edit, entries)
    edit.narrow_value(out, layout)


@rewrites("Mul", "Where")
def mask(node: ir.Node, spec: Spec, edit: Edit) -> None:
    """A mask in front of contractions that read none of what it hides is absorbed by their weights."""
    masked = _masked(node)
    if edit.form != "composed" or masked is None or not _only_hides(node, masked, edit):
        by_links(node, spec, edit)
        return
    out = node.outputs[0]
    edit.operand(node, masked, wanted_by_links(node, masked, spec, edit))
    value = node.inputs[masked]
    assert value is not None
    edit.narrow_value(out, edit.planned(out))
    users = list(out.uses())
    place = Cursor(edit.graph, after=node)
    edit.counts["masks absorbed"] += 1
    edit.stand_in(out, edit.node("Identity", [value], place, f"{out.name}_same", dims.sizes(value), value), users)


def _masked(node: ir.Node) -> int | None:
    """Return the position of what a constant mask is applied to, or ``None``."""
    first, second = node.inputs[0], node.inputs[1]
    if node.op_type == "Where":
        return 1 if is_constant(first) and not is_constant(second) else None
    if is_constant(first) == is_constant(second):
        return None
    return 1 if is_constant(first) else 0


def _only_hides(node: ir.Node, masked: int, edit: Edit) -> bool:
    """Tell whether the mask is one wherever anybody reads, and every reader is a contraction over the masked axis."""
    out, value = node.outputs[0], node.inputs[masked]
    own = node.inputs[1 - masked]
    sizes = edit.sizes(out)
    if value is None or own is None or sizes is None or out.is_graph_output() or not out.uses():
        return False
    others = [v for place, v in enumerate(node.inputs) if place != masked and v is not None]
    if dims.rank(value) != len(sizes) or not all(dims.stretches(dims.sizes(v), edit.sizes(value)) for v in others):
        return False
    facts = edit.facts
    for axis, demanded in facts.demand.get(out, {}).items():
        known = dims.static(own)
        place = own_axis(own, axis, len(sizes))
        if place is None or known is None or known[place] != demanded.size:
            continue
        found = facts.constants.uniform(own, place)
        if found is None or not (found[0] & (found[1].astype(np.float64) == 1))[demanded].all():
            continue
        if _read_by_contractions(out, axis, edit):
            return facts.is_finite(edit.origin(value))
    return False


def _read_by_contractions(value: ir.Value, axis: int, edit: Edit) -> bool:
    """Tell whether all that reads a value contracts over the axis, behind functions that keep finite values finite."""
    if value.is_graph_output() or not value.uses():
        return False
    for use in value.uses():
        if _contracts(use.node, use.idx, axis, edit):
            continue
        rule = facts_rules.find(use.node)
        live = [v for v in use.node.inputs if v is not None and not is_constant(v)]
        if not isinstance(rule, Elementwise) or len(live) != 1 or not rule.finite(use.node, edit.facts):
            return False
        if dims.rank(use.node.outputs[0]) != dims.rank(value):
            return False
        if not _read_by_contractions(use.node.outputs[0], axis, edit):
            return False
    return True


def _contracts(node: ir.Node, operand: int, axis: int, edit: Edit) -> bool:
    spec = edit.facts.specs.get(node)
    geo = None if spec is None else geometry(spec)
    return geo is not None and (geo.x, geo.x_axis, geo.groups) == (operand, axis, 1)
