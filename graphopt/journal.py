"""Rows of the report: what became of each mask, which scatters and gathers are left and what forces them."""

from __future__ import annotations

import onnx_ir as ir

from graphopt.context import Context
from graphopt.facts.expressions import Expressions
from graphopt.facts.masks import Mask, find_masks
from graphopt.model_check import source_line
from graphopt.report.schema import ForcedRow, MaskRow, Moves
from graphopt.rewrite.moves import ROLE


def masks(context: Context) -> list[Mask]:
    """Return the masks of the model as it is."""
    return find_masks(context.model.graph, Expressions(context.model.graph, context.constants))


def mask_rows(found: list[Mask], result: ir.Model, context: Context) -> list[MaskRow]:
    """Return what became of each mask."""
    left = {node.name: node for node in result.graph}
    rows = []
    for mask in found:
        names = [str(node.name) for node in mask.nodes]
        staying = [left[name] for name in names if name in left and left[name].op_type in ("Mul", "Where")]
        kept = [node for node in staying if _still_masks(node)]
        if not kept:
            action = "folded" if mask.kind == "weight" else "removed"
            reason = "multiplied into the weights" if mask.kind == "weight" else "its dead positions are gone"
        else:
            action, reason = "kept", _why_kept(mask, kept[0], context)
        rows.append(MaskRow(str(mask.value.name), mask.kind, names, mask.zeros, mask.size, action, reason))  # type: ignore[arg-type]
    return rows


def _still_masks(node: ir.Node) -> bool:
    return bool(node.outputs[0].uses()) or node.outputs[0].is_graph_output()


def _why_kept(mask: Mask, node: ir.Node, context: Context) -> str:
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
    readers = ", ".join(sorted({use.node.op_type for use in node.outputs[0].uses()})) or "a graph output"
    return f"read whole by {readers}{at}"


def moves(model: ir.Model, context: Context, role: str) -> Moves:
    """Return how many scatters (or gathers) were inserted, and what forces those that are left."""
    remaining = []
    for node in model.graph:
        if node.metadata_props.get(ROLE) != role:
            continue
        out = last = node.outputs[0]
        fills = [use.node for use in out.uses() if use.node.metadata_props.get(ROLE) == "fill"]
        if fills:  # what reads the scatter is what reads it with its constants
            last = fills[0].outputs[0]
        readers = sorted({f"{use.node.op_type} {use.node.name or ''}".strip() for use in last.uses()})
        if last.is_graph_output():
            readers.append("graph output")
        remaining.append(ForcedRow(str(out.name), ", ".join(readers)))
    return Moves(context.counts[f"{role}s"], remaining)
