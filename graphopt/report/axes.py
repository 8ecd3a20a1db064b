"""Rows of the report about axes with dead positions: how many stay, and who decided."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from graphopt import dims
from graphopt.facts.store import Dead, Facts, Mask
from graphopt.plan.classes import Plan
from graphopt.report.culprits import Culprit, called, culprits, unforced
from graphopt.report.schema import AxisRow, FillKind

SOURCES = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul", "Gather"})


def axis_rows(facts: Facts, chosen: Plan) -> list[AxisRow]:
    """Return one row for every axis, made by weights, of which some position is dead or unread."""
    rows = []
    plain = unforced(facts)
    for node in facts.graph:
        if node.op_type not in SOURCES or node not in facts.specs:
            continue
        value = node.outputs[0]
        for axis, size in enumerate(dims.static(value) or ()):
            if size is None or (value, axis) not in chosen.tracks:
                continue
            idle = unneeded(plain, value, axis, size)
            if idle.any():
                rows.append(_row(node, value, axis, idle, plain, chosen))
    return rows


def unneeded(facts: Facts, value: ir.Value, axis: int, size: int) -> Mask:
    """Return ``[n]`` (bool): positions that are dead or that nobody reads."""
    dead = facts.dead_axes(value).get(axis)
    idle = ~facts.demanded(value, axis, size)
    return idle if dead is None else idle | dead.mask


def staying(value: ir.Value, axis: int, idle: Mask, plan: Plan) -> Mask:
    """Return which of some positions the plan keeps."""
    kept = plan.layout(value).get(axis)
    return idle if kept is None else idle & np.isin(np.arange(idle.size), kept)


def _row(node: ir.Node, value: ir.Value, axis: int, idle: Mask, facts: Facts, plan: Plan) -> AxisRow:
    dead = facts.dead_axes(value).get(axis)
    unread = ~facts.demanded(value, axis, idle.size)
    stay = staying(value, axis, idle, plan)
    kept = plan.layout(value).get(axis)
    forced = culprits(facts, plan, value, axis, stay) if stay.any() else []
    parts = [f"{int(dead.mask.sum())} constant"] if dead is not None else []
    if dead is None or (unread & ~dead.mask).any():
        parts.append(f"{int(unread.sum())} unread")
    if stay.any():
        parts.append(f"{int(stay.sum())} stay: {because(forced)}")
    decided = next((one.node for one in forced if one.node is not None), node)
    return AxisRow(
        str(value.name), axis, idle.size, idle.size if kept is None else int(kept.size), _fill(dead),
        decided.name or called(decided), ", ".join(parts), int(stay.sum()),
    )  # fmt: skip


def because(found: list[Culprit]) -> str:
    """Say who forces positions to stay."""
    if not found:
        return "the plan computes them along with others, which is cheaper than to move what is left"
    return "; ".join(str(one) for one in found)


def _fill(dead: Dead | None) -> FillKind:
    if dead is None:
        return "zero"
    fills = dead.fill[dead.mask]
    zeros = fills == 0
    return "zero" if zeros.all() else "mixed" if zeros.any() else "constant"
