"""Rows of the report about axes with dead positions: how many stay, and who decided."""

from __future__ import annotations

import onnx_ir as ir

from graphopt import dims
from graphopt.facts.store import Dead, Facts
from graphopt.plan.classes import Plan
from graphopt.report.schema import AxisRow, FillKind

SOURCES = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul", "Gather"})


def axis_rows(facts: Facts, chosen: Plan) -> list[AxisRow]:
    """Return one row for every axis, made by weights, of which some position is dead or unread."""
    rows = []
    for node in facts.graph:
        if node.op_type not in SOURCES or node not in facts.specs:
            continue
        value = node.outputs[0]
        for axis, size in enumerate(dims.static(value) or ()):
            if size is None or (value, axis) not in chosen.tracks:
                continue
            needed = facts.needed(value, axis, size)
            if needed.all():
                continue
            kept = chosen.layout(value).get(axis)
            count = size if kept is None else int(kept.size)
            dead = facts.dead_axes(value).get(axis)
            rows.append(AxisRow(str(value.name), axis, size, count, _fill(dead), str(node.name), _reason(
                value, axis, count, int(needed.sum()), facts)))  # fmt: skip
    return rows


def _fill(dead: Dead | None) -> FillKind:
    if dead is None:
        return "zero"
    fills = dead.fill[dead.mask]
    zeros = fills == 0
    return "zero" if zeros.all() else "mixed" if zeros.any() else "constant"


def _reason(value: ir.Value, axis: int, kept: int, needed: int, facts: Facts) -> str:
    planes = facts.physical.get(value, {}).get(axis)
    demanded = facts.demand.get(value)
    dead = facts.dead_axes(value).get(axis)
    parts = []
    if dead is not None:
        parts.append(f"{int(dead.mask.sum())} constant")
    if demanded and axis in demanded:
        parts.append(f"{int((~demanded[axis]).sum())} unread")
    if planes is not None:
        parts.append(f"{int(planes.sum())} nonzero constants stay in front of zero padding")
    if kept > needed:
        parts.append(f"{kept - needed} kept for a stream it is added to")
    return ", ".join(parts)
