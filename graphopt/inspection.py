"""Looking at a model without changing it: what is masked and dead, what could be saved, and why not more."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import onnx_ir as ir

from graphopt import dims, pipeline
from graphopt.errors import UsageError, nearest
from graphopt.facts.constants import Constants, is_constant
from graphopt.facts.sparsity import SparsityRow, sparse_weights
from graphopt.facts.store import Facts
from graphopt.facts.walk import unknown
from graphopt.model_check import source_line
from graphopt.plan.classes import Plan, make_plan
from graphopt.report.axes import because, staying, unneeded
from graphopt.report.culprits import called, culprits, unforced
from graphopt.report.schema import AxisRow, MaskRow, Stats, WarningRow


@dataclass
class Inspection:
    """What is masked, dead and constant, what optimizing would save, and what prevents the rest."""

    before: Stats
    masks: list[MaskRow]
    axes: list[AxisRow]
    savings: dict[str, dict[str, int]]
    """``parameters``, ``macs``, ``nodes``: {``before``, ``after``}."""
    sparsity: list[SparsityRow] = field(default_factory=list)
    """Weights that hold zeros after masks are folded and dead positions gone, those with a usable pattern first."""
    blockers: list[str] = field(default_factory=list)
    warnings: list[WarningRow] = field(default_factory=list)


@dataclass
class Explanation:
    """The facts that hold at a node or a value, and the rules that declined there."""

    kind: str
    name: str
    facts: list[str]
    declined: list[str]
    source_line: str | None = None


def inspect(model: Any, *, assume_finite: bool = True) -> Inspection:
    """Tell what optimizing would do, by doing it on a copy (``plan="smallest"``, without verification).

    Raises:
        ModelError: the model is at fault.
    """
    result = pipeline.optimize(model, plan="smallest", verify=False, assume_finite=assume_finite)
    report = result.report
    savings = {
        name: {"before": getattr(report.before, name), "after": getattr(report.after, name)}
        for name in ("parameters", "macs", "nodes")
    }
    blockers = [f"{row.value}: mask kept, {row.reason}" for row in report.masks if row.action == "kept"]
    blockers += [f"{row.value}: scattered back for {row.forced_by}" for row in report.scatters.remaining]
    blockers += [
        f"{row.value} axis {row.axis}: {row.kept} of {row.size} kept, {row.reason}" for row in report.axes if row.stays
    ]
    zeros = sorted(sparse_weights(result.model, Constants()), key=lambda row: (not row.patterns, row.density))
    return Inspection(report.before, report.masks, report.axes, savings, zeros, blockers, report.warnings)


def explain(model: Any, name: str, *, assume_finite: bool = True) -> Explanation:
    """Tell which facts hold at a node or a value, which rule declined, and why.

    Raises:
        UsageError: there is no such node or value; names the nearest one.
        ModelError: the model is at fault.
    """
    context = pipeline.prepared(model, assume_finite=assume_finite)
    # Before: what is computed from constants alone goes.
    folded = {known: what for graph in context.graphs() for known, what in _names(graph).items()}
    pipeline.fold(context)
    for _ in context.graphs():
        plan = make_plan(context.facts(), "smallest")
        found = _explained(name, unforced(context.facts()), plan)
        if found is not None:
            return found
    if name in folded:
        return Explanation(folded[name], name, ["computed from constants alone: folded into one by fold-masks"], [])
    close = nearest(name, list(folded))
    raise UsageError(f"no node or value is named {name!r}", help=f"did you mean {close!r}?" if close else "see inspect")


def _explained(name: str, facts: Facts, plan: Plan) -> Explanation | None:
    """Look for a node or a value in one graph."""
    graph = facts.graph
    for node in graph:
        if node.name == name:
            lines = [line for value in node.outputs for line in _about(value, facts, plan)]
            return Explanation("node", name, [_signature(node), *lines], _declined(node, facts), source_line(node))
    for value in [*graph.inputs, *(out for node in graph for out in node.outputs), *graph.initializers.values()]:
        if value.name == name:
            producer = value.producer()
            declined = [line for use in value.uses() for line in _declined(use.node, facts)]
            if producer is not None:
                declined = _declined(producer, facts) + declined
            return Explanation(
                "value", name, _about(value, facts, plan), declined, None if producer is None else source_line(producer)
            )
    return None


def _names(graph: ir.Graph) -> dict[str, str]:
    """Return every name in a graph with what it names."""
    names = {str(value.name): "value" for value in [*graph.inputs, *graph.initializers.values()]}
    for node in graph:
        names.update({str(value.name): "value" for value in node.outputs})
        if node.name:
            names[node.name] = "node"
    return names


def _signature(node: ir.Node) -> str:
    ins = ", ".join(_typed(value) for value in node.inputs if value is not None)
    return f"{node.op_type}({ins}) -> {', '.join(_typed(value) for value in node.outputs)}"


def _typed(value: ir.Value) -> str:
    known = dims.sizes(value)
    sizes = "?" if known is None else ",".join("?" if size is None else str(size) for size in known)
    return f"{value.name}[{sizes}]"


def _about(value: ir.Value, facts: Facts, plan: Plan) -> list[str]:
    if is_constant(value):
        return [f"{_typed(value)} is a constant"]
    lines = []
    for axis, size in enumerate(dims.static(value) or ()):
        if size is None:
            continue
        dead = facts.dead_axes(value).get(axis)
        wanted = facts.demanded(value, axis, size)
        kept = plan.layout(value).get(axis)
        parts = []
        if dead is not None:
            fills = dead.fill[dead.mask]
            what = "zero" if (fills == 0).all() else f"constants from {fills.min():.4g} to {fills.max():.4g}"
            parts.append(f"{int(dead.mask.sum())} dead ({what})")
        if not wanted.all():
            parts.append(f"{int((~wanted).sum())} that nobody reads")
        if kept is not None:
            parts.append(f"{kept.size} kept")
        if not parts:
            continue
        lines.append(f"{_typed(value)} axis {axis}: of {size} positions " + ", ".join(parts))
        idle = unneeded(facts, value, axis, size)
        stay = staying(value, axis, idle, plan)
        if stay.any():
            forced = culprits(facts, plan, value, axis, stay)
            lines.append(f"  {int(stay.sum())} of these stay: {because(forced)}")
        elif dead is not None and (found := culprits(facts, None, value, axis, dead.mask)):
            lines.append(f"  they are put back for: {because(found)}")
    return lines or [f"{_typed(value)}: nothing dead, everything read"]


def _declined(node: ir.Node, facts: Facts) -> list[str]:
    """Say which input axes of a node are needed whole, and why."""
    at = called(node)
    line = source_line(node)
    where = f" ({line})" if line else ""
    if unknown(node, facts):
        return [f"{at}: no rule for this operator (or this use of it); it needs its inputs whole{where}"]
    spec = facts.specs[node]
    lines = []
    for operand, value in enumerate(node.inputs):
        if value is None or is_constant(value) or operand in spec.unread:
            continue
        passed = {link.axis for link in spec.of_operand(operand)}
        passed |= {axis for position, axis in spec.contracted if position == operand}
        passed |= {axis for block in spec.blocks if operand == 0 for axis in block.ins}
        passed |= {axis for group in spec.groups for position, axis, _ in group.inputs if position == operand}
        whole = [
            axis for axis, size in enumerate(dims.static(value) or ()) if axis not in passed and size not in (None, 1)
        ]
        if whole:
            why = spec.reason or "unrelated to its outputs"
            lines.append(f"{at}: needs axes {whole} of {value.name} whole: {why}{where}")
    return lines
