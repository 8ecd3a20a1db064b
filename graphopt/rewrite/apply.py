"""Carrying out a plan on a whole graph, in one walk."""

from __future__ import annotations

from dataclasses import replace

import onnx_ir as ir

import graphopt.rewrite.ops  # noqa: F401  (fills the table of rewrites)
from graphopt.facts.ops.contraction import Depthwise, geometry
from graphopt.facts.store import Spec
from graphopt.plan.classes import Plan
from graphopt.rewrite.edit import Edit, Form
from graphopt.rewrite.ops.control import whole_inside
from graphopt.rewrite.rules import find, whole
from graphopt.rewrite.unused import remove_unused


def apply(plan: Plan, form: Form, *, cut_weights: bool) -> Edit:
    """Rewrite the graph so that values have the plan's layouts; returns the edit with its counts."""
    if form == "local":
        return _apply_locally(plan)
    edit = Edit(plan, form, cut_weights)
    if not plan.facts.anything():
        return edit
    facts = plan.facts
    for node in list(facts.graph):
        spec = facts.specs.get(node)
        if spec is None:
            whole(node, edit)
            continue
        if not _concerned(node, spec, edit):
            continue
        find(node)(node, spec, edit)
    _outputs_whole(edit)
    if facts.sunk:
        whole_inside(edit)
    if edit.counts:
        remove_unused(facts.graph)
    return edit


def _concerned(node: ir.Node, spec: Spec, edit: Edit) -> bool:
    """Tell whether anything about the node's operands or results is narrowed or dead."""
    facts, plan = edit.facts, edit.plan
    if node in facts.skips or any(out in plan.layouts for out in node.outputs):
        return True
    contracts = geometry(spec) is not None or bool(spec.products)
    for value in node.inputs:
        if value is None:
            continue
        if edit.layouts.get(value):
            return True
        if contracts and (value in facts.dead or facts.demand.get(value)):
            return True
    return node.op_type in ("Mul", "Where") and bool(facts.demand.get(node.outputs[0]))


def _outputs_whole(edit: Edit) -> None:
    """Graph outputs have their original positions."""
    for value in list(edit.graph.outputs):
        if not edit.layout(value):
            continue
        result = edit.convert(value, {})
        edit.stand_in(value, result, [])
        edit.layouts[result] = {}


def _apply_locally(plan: Plan) -> Edit:
    """Every contraction gathers its inputs, computes densely and scatters its output; nothing else changes."""
    facts = plan.facts
    axes = {}
    for node in facts.graph:
        spec = facts.specs.get(node)
        if spec is None:
            continue
        geo = geometry(spec)
        if geo is not None:
            axes[node] = geo.out_axis
        elif isinstance(spec.extra, Depthwise):
            axes[node] = 1
    layouts = {}
    for node, axis in axes.items():
        kept = plan.layout(node.outputs[0]).get(axis)
        if kept is not None:
            layouts[node.outputs[0]] = {axis: kept}
    edit = Edit(replace(plan, layouts=layouts), "local", cut_weights=False)
    for node in axes:
        if not _concerned(node, facts.specs[node], edit):
            continue
        out = node.outputs[0]
        find(node)(node, facts.specs[node], edit)
        dense = edit.current(out)
        if edit.layout(dense):
            users = list(dense.uses())
            result = edit.convert(dense, {})
            edit.stand_in(dense, result, users)
            edit.layouts[result] = {}
    if edit.counts:
        remove_unused(facts.graph)
    return edit
