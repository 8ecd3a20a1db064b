"""Rows of the report: what became of each mask, which scatters and gathers are left and what forces them."""

from __future__ import annotations

import onnx_ir as ir

from graphopt.context import Context
from graphopt.facts.expressions import Expressions
from graphopt.facts.masks import Mask, find_masks
from graphopt.facts.store import Facts
from graphopt.model_check import source_line
from graphopt.report.axes import because
from graphopt.report.culprits import called, culprits, unforced
from graphopt.report.schema import ForcedRow, MaskRow, Moves, OperatorCalls
from graphopt.rewrite.moves import ROLE
from graphopt.rewrite.operators import calls
from graphopt.runtime_ops import library
from graphopt.subgraphs import within


def masks(context: Context) -> list[Mask]:
    """Return the masks of the model as it is."""
    found: list[Mask] = []
    for graph in context.graphs():
        found = find_masks(graph, Expressions(graph, context.constants)) + found
    return found


def mask_rows(found: list[Mask], result: ir.Model, context: Context) -> list[MaskRow]:
    """Return what became of each mask."""
    left = {node.name: node for graph in within(result.graph) for node in graph}
    rows = []
    for mask in found:
        names = [str(node.name) for node in mask.nodes]
        staying = [left[name] for name in names if name in left and left[name].op_type in ("Mul", "Where")]
        kept = [node for node in staying if _still_masks(node)]
        if not kept:
            action = "folded" if mask.kind == "weight" else "removed"
            reason = "multiplied into the weights" if mask.kind == "weight" else "its dead positions are gone"
        else:
            action, reason = "kept", _why_kept(mask, kept[0], result, context)
        rows.append(MaskRow(str(mask.value.name), mask.kind, names, mask.zeros, mask.size, action, reason))  # type: ignore[arg-type]
    return rows


def _still_masks(node: ir.Node) -> bool:
    return bool(node.outputs[0].uses()) or node.outputs[0].is_graph_output()


def _why_kept(mask: Mask, node: ir.Node, result: ir.Model, context: Context) -> str:
    line = source_line(node)
    at = f" ({line})" if line else ""
    if mask.kind == "dynamic":
        return f"a graph input decides it{at}"
    if mask.kind == "soft":
        return f"its values that are not zero scale what they meet{at}"
    if any(row.code == "mask-over-nan" and row.node in [each.name for each in mask.nodes] for row in context.warnings):
        return f"a weight under it is NaN or Inf, which its zero does not hide{at}"
    if not context.assume_finite and mask.kind == "activation" and not node.inputs[0].is_graph_input():  # type: ignore[union-attr]
        return f"the masked value is not provably finite (--no-assume-finite){at}"
    out, graph = node.outputs[0], node.graph
    nowhere = f"its zeros fill no whole position of an axis{at}"
    if result is not context.model or not isinstance(graph, ir.Graph):
        return nowhere
    with context.inside(graph):
        facts, plan = context.facts(), context.plan()
    dead = facts.dead_axes(out)
    if not dead:
        return nowhere
    found = [one for axis, which in dead.items() for one in culprits(facts, plan, out, axis, which.mask)]
    readers = ", ".join(sorted({called(use.node) for use in out.uses()})) or "a graph output"
    return because(found) if found else f"read whole by {readers}{at}"


def operator_calls(result: ir.Model) -> OperatorCalls | None:
    """Return which runtime operators a result calls; None where it calls none."""
    found = calls(result)
    return OperatorCalls(found, library() is not None) if found else None


def moves(model: ir.Model, context: Context, role: str) -> Moves:
    """Return how many scatters (or gathers) were inserted, and what forces those that are left."""
    remaining = []
    facts: dict[ir.Graph, Facts] = {}
    for graph, node in [(each, node) for each in within(model.graph) for node in each]:
        if node.metadata_props.get(ROLE) != role:
            continue
        if model is context.model and graph not in facts:
            with context.inside(graph):
                facts[graph] = unforced(context.facts())
        out = last = node.outputs[0]
        fills = [use.node for use in out.uses() if use.node.metadata_props.get(ROLE) == "fill"]
        if fills:  # what reads the scatter is what reads it with its constants
            last = fills[0].outputs[0]
        remaining.append(ForcedRow(str(out.name), _forced_by(last, facts.get(graph))))
    return Moves(context.counts[f"{role}s"], remaining)


def _forced_by(value: ir.Value, facts: Facts | None) -> str:
    """Name what reads a scattered value, and why that needs the positions which were filled in."""
    readers = sorted({called(use.node) for use in value.uses()})
    if value.is_graph_output():
        readers.append("graph output")
    found: list[str] = []
    if facts is not None:
        for axis, dead in facts.dead_axes(value).items():
            found += [str(one) for one in culprits(facts, None, value, axis, dead.mask)]
    unnamed = [name for name in readers if not any(one.startswith(name) for one in found)]
    return "; ".join(([", ".join(unnamed)] if unnamed else []) + found)
