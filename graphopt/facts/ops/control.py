"""Operators that run graphs of their own: what is known of their bodies is known of their results."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from graphopt import dims
from graphopt.facts.rules import Rule, rule
from graphopt.facts.store import Facts, Group, Spec, sizes_only


@dataclass(frozen=True, slots=True)
class Bodies:
    """The facts of a node's bodies, found on the way to its own."""

    facts: tuple[Facts, ...]


def is_read(value: ir.Value) -> bool:
    """Tell whether anybody reads a value."""
    return bool(value.uses()) or value.is_graph_output()


def source(out: int, axis: int, size: int) -> Group:
    """Return the group of an output axis of which every position is made here, and may be left out by itself."""
    return Group(size, outputs=((out, axis, np.arange(size)),))


@rule("If")
class If(Rule):
    """A position of an output is dead where all branches hold the same constant: ``f = f_then = f_else``.

    What nobody reads of an output leaves every branch. Not narrowed: an axis of which the size is unknown, or is not
    the same in all branches.
    """

    def spec(self, node: ir.Node, facts: Facts) -> Spec | None:
        """Analyse the branches; every output axis of one known size is a source of positions."""
        from graphopt.facts.walk import analyse_body

        branches = [
            node.attributes[name].as_graph() for name in ("then_branch", "else_branch") if name in node.attributes
        ]
        if len(branches) != 2 or any(len(branch.outputs) != len(node.outputs) for branch in branches):
            return None
        for branch in branches:
            facts.bodies[branch] = analyse_body(branch, facts)
        groups = [
            source(place, axis, size)
            for place, out in enumerate(node.outputs)
            if is_read(out) and not sizes_only(out)
            for axis, size in enumerate(dims.static(out) or ())
            if size and all(_agrees(out, branch.outputs[place], axis) for branch in branches)
        ]
        return Spec([], groups=tuple(groups), extra=Bodies(tuple(facts.bodies[branch] for branch in branches)))

    def forward(self, node: ir.Node, spec: Spec, facts: Facts) -> None:
        """Compare the branches' constants."""
        assert isinstance(spec.extra, Bodies)
        for group in spec.groups:
            ((place, axis, _),) = group.outputs
            found = [inner.along(inner.graph.outputs[place], axis, group.size) for inner in spec.extra.facts]
            if found[0] is None or found[1] is None:
                continue
            (mask, fill), (other_mask, other_fill) = found[0], found[1]
            facts.set_dead(node.outputs[place], axis, mask & other_mask & (fill == other_fill), fill)

    def finite(self, node: ir.Node, facts: Facts) -> bool:
        """Tell whether both branches give finite results."""
        bodies = facts.specs[node].extra
        assert isinstance(bodies, Bodies)
        return all(inner.is_finite(value) for inner in bodies.facts for value in inner.graph.outputs)


def _agrees(out: ir.Value, made: ir.Value, axis: int) -> bool:
    """Tell whether a branch's output certainly has the size of the node's output along an axis."""
    first, second = dims.static(out), dims.static(made)
    return (
        first is not None
        and second is not None
        and len(first) == len(second)
        and first[axis] == second[axis]
        and out.dtype == made.dtype
    )
