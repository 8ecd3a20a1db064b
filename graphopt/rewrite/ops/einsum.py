"""Einsum of dense operands; constants of a summed axis are added behind it."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from graphopt import dims
from graphopt.facts.ops.einsum import Equation, contribution, equation_of
from graphopt.facts.store import Spec
from graphopt.plan.classes import Layout
from graphopt.rewrite.edit import Cursor, Edit
from graphopt.rewrite.rules import outputs_narrowed, rewrites, wanted_by_links


@rewrites("Einsum")
def einsum(node: ir.Node, spec: Spec, edit: Edit) -> None:
    """The live operands of a summed letter have one layout, or are whole; constants are cut to fit."""
    found = equation_of(spec)
    assert found is not None
    wanted = [wanted_by_links(node, operand, spec, edit) for operand in range(len(node.inputs))]
    for letter in found.summed():
        places = [place for place in found.axes(letter) if place in spec.contracted]
        kept = _common(node, places, edit)
        for operand, axis in places:
            if kept is not None:
                wanted[operand][axis] = kept
    added = _constants(node, found, wanted, edit)
    for operand, layout in enumerate(wanted):
        edit.operand(node, operand, layout)
    planned = edit.planned(node.outputs[0])
    outputs_narrowed(node, edit)
    if added is not None:
        for axis, kept in planned.items():
            added = added if added.shape[axis] == 1 else added.take(kept, axis)
        _add(node, added, edit)


def _common(node: ir.Node, places: list[tuple[int, int]], edit: Edit) -> np.ndarray | None:
    """Return the layout that all live operands of a letter have; ``None`` for the whole."""
    layouts = []
    for operand, axis in places:
        value = node.inputs[operand]
        assert value is not None
        if not edit.facts.constants.known(value):
            layouts.append(edit.layout(value).get(axis))
    first = layouts[0] if layouts else None
    if first is None or any(other is None or not np.array_equal(first, other) for other in layouts):
        return None
    return first


def _constants(node: ir.Node, found: Equation, wanted: list[Layout], edit: Edit) -> np.ndarray | None:
    """Return what the constants that are left out would add."""
    absorbed = found.absorbed
    if absorbed is None:
        return None
    value = node.inputs[absorbed.operand]
    kept = wanted[absorbed.operand].get(absorbed.axis)
    dead = None if value is None else edit.facts.dead_axes(edit.origin(value)).get(absorbed.axis)
    if kept is None or dead is None:
        return None
    fill = np.where(dead.mask, dead.fill, 0).astype(np.float64)
    fill[kept] = 0
    return contribution(node, found, absorbed, fill, edit.facts) if fill.any() else None


def _add(node: ir.Node, added: np.ndarray, edit: Edit) -> None:
    out = node.outputs[0]
    users = list(out.uses())
    dtype = out.dtype.numpy() if out.dtype is not None else np.float32
    constant = edit.constant(added.astype(dtype), f"{out.name}_bias", out.dtype)
    result = edit.node(
        "Add", [out, constant], Cursor(edit.graph, after=node), f"{out.name}_biased", dims.sizes(out), out
    )
    edit.counts["bias"] += 1
    edit.stand_in(out, result, users)
