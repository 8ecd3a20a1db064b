"""Operators that need one axis (or two) whole and treat the others alike: CumSum, TopK, ArgMax, Trilu and their kin."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from graphopt import dims
from graphopt.facts.ops.movement import Mover, normal
from graphopt.facts.rules import Rule, identity_links, rule
from graphopt.facts.store import Facts, Link, Spec


class Along(Rule):
    """``f' = f`` along the axes that the operator does not run along, for ``f = 0`` or for every ``f``."""

    zero_only = True

    def axes(self, node: ir.Node, rank: int, facts: Facts) -> list[int] | None:
        """Return the axes that the operator needs whole; ``None`` when they are not constant."""
        raise NotImplementedError

    def spec(self, node: ir.Node, facts: Facts) -> Spec | None:
        rank = dims.rank(node.inputs[0])
        axes = None if rank is None else self.axes(node, rank, facts)
        if rank is None or axes is None:
            return None
        free = [axis for axis in range(rank) if axis not in axes]
        return Spec(identity_links(rank, free), reason=f"{node.op_type} runs along this axis")

    def forward(self, node: ir.Node, spec: Spec, facts: Facts) -> None:
        for link in spec.links:
            dead = facts.dead_axes(node.inputs[0]).get(link.axis) if link.out == 0 else None
            if dead is not None:
                mask = dead.mask & (dead.fill == 0) if self.zero_only else dead.mask
                facts.set_dead(node.outputs[0], link.out_axis, mask, dead.fill)

    def finite(self, node: ir.Node, facts: Facts) -> bool:
        return True


@rule("CumSum")
class CumSum(Along):
    """A running sum of zeros is zero; that of another constant is none."""

    def axes(self, node: ir.Node, rank: int, facts: Facts) -> list[int] | None:
        axis = facts.constants.ints(node.inputs[1])
        return None if axis is None else [normal(axis[0], rank)]

    def finite(self, node: ir.Node, facts: Facts) -> bool:
        return False


@rule("Trilu")
class Trilu(Along):
    """Zeros are written into the matrices of the last two axes."""

    def axes(self, node: ir.Node, rank: int, facts: Facts) -> list[int] | None:
        return [rank - 2, rank - 1]


@rule("ReverseSequence")
class ReverseSequence(Along):
    """The samples of one axis are turned round along another."""

    zero_only = False

    def axes(self, node: ir.Node, rank: int, facts: Facts) -> list[int] | None:
        batch, time = node.attributes.get_int("batch_axis", 1), node.attributes.get_int("time_axis", 0)
        return [normal(batch, rank), normal(time, rank)]


@rule("Compress")
class Compress(Along):
    """Positions of one axis, chosen at run time; all elements in a row where there is no axis."""

    zero_only = False

    def axes(self, node: ir.Node, rank: int, facts: Facts) -> list[int] | None:
        return [normal(node.attributes.get_int("axis", 0), rank)] if "axis" in node.attributes else None


@rule("TopK")
class TopK(Along):
    """The largest of equal numbers is that number; which of them it is, nobody says."""

    zero_only = False

    def axes(self, node: ir.Node, rank: int, facts: Facts) -> list[int] | None:
        return [normal(node.attributes.get_int("axis", -1), rank)]

    def spec(self, node: ir.Node, facts: Facts) -> Spec | None:
        spec = super().spec(node, facts)
        if spec is not None and len(node.outputs) > 1:
            spec.links += [Link(0, link.axis, 1, link.out_axis) for link in spec.links]
        return spec


@rule("ArgMax", "ArgMin")
class Argument(Mover):
    """The first of equal numbers is number 0; the last is not asked for here."""

    def spec(self, node: ir.Node, facts: Facts) -> Spec | None:
        rank = dims.rank(node.inputs[0])
        if rank is None:
            return None
        axis = normal(node.attributes.get_int("axis", 0), rank)
        kept = node.attributes.get_int("keepdims", 1)
        links = [Link(0, i, 0, i - (not kept and i > axis)) for i in range(rank) if i != axis]
        return Spec(links, reason=f"{node.op_type} runs along this axis")

    def forward(self, node: ir.Node, spec: Spec, facts: Facts) -> None:
        if node.attributes.get_int("select_last_index", 0):
            return
        for link in spec.links:
            dead = facts.dead_axes(node.inputs[0]).get(link.axis)
            if dead is not None:
                facts.set_dead(node.outputs[0], link.out_axis, dead.mask, np.zeros(dead.mask.size, np.int64))
