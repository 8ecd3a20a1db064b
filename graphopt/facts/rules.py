"""The table of operator rules, and the two walks' behaviour that follows from links alone.

A rule says how axes belong together (``spec``) and, where links do not say it all, how dead positions travel forward
and demands backward. Operators without a rule need everything and prove nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
import onnx_ir as ir

from graphopt import dims
from graphopt.facts.constants import MICROSOFT as MICROSOFT
from graphopt.facts.constants import is_constant
from graphopt.facts.store import Dead, Facts, Link, Mask, Partial, Spec

ELEMENTWISE_JOINS = frozenset(
    "Add Sub Mul Div Pow Max Min Mean Sum Mod Where PRelu And Or Xor Equal Greater Less GreaterOrEqual LessOrEqual "
    "BitwiseAnd BitwiseOr BitwiseXor BitShift "
    "QLinearAdd QLinearMul".split()
)
"""Operators of which each live operand may come in a layout of its own and be scattered in front of them."""


class Rule:
    """Facts of one operator. ``spec`` returns ``None`` when this node is to be treated as unknown."""

    def spec(self, node: ir.Node, facts: Facts) -> Spec | None:
        """Return the node's links."""
        raise NotImplementedError

    def forward(self, node: ir.Node, spec: Spec, facts: Facts) -> None:
        """Record which output positions are dead."""

    def backward(self, node: ir.Node, spec: Spec, facts: Facts) -> None:
        """Record which input positions are demanded, given the outputs' demands."""
        through_links(node, spec, facts)

    def finite(self, node: ir.Node, facts: Facts) -> bool:
        """Tell whether finite inputs (already checked by the caller) give finite outputs."""
        return False


_RULES: dict[tuple[str, str], Rule] = {}


def domain_of(node: ir.Node) -> str:
    """Return a node's domain; the standard one, which has two names, as the empty string."""
    return "" if node.domain == "ai.onnx" else node.domain


_SomeRule = TypeVar("_SomeRule", bound=Rule)


def rule(*op_types: str, domain: str = "") -> Callable[[type[_SomeRule]], type[_SomeRule]]:
    """Register a rule for operators of a domain (default: the standard one)."""

    def register(cls: type[_SomeRule]) -> type[_SomeRule]:
        for op_type in op_types:
            _RULES[domain, op_type] = cls()
        return cls

    return register


def register(op_type: str, instance: Rule, domain: str = "") -> None:
    """Register one rule object for one operator of a domain (default: the standard one)."""
    _RULES[domain, op_type] = instance


def find(node: ir.Node) -> Rule | None:
    """Return the rule of a node's operator, or ``None``."""
    return _RULES.get((domain_of(node), node.op_type))


def identity_links(rank: int, axes: Sequence[int] | None = None, *, operand: int = 0, out: int = 0) -> list[Link]:
    """Return identity links for the given axes (default: all) of equally ranked input and output."""
    return [Link(operand, axis, out, axis) for axis in (range(rank) if axes is None else axes)]


def through_links(node: ir.Node, spec: Spec, facts: Facts, more: dict[int, Partial] | None = None) -> None:
    """Pass the outputs' demands to the inputs: ``D_in = D_out and (not dead_out or dead_in)`` along every link.

    Where an output position is dead, an input that is dead there too must still hold its constant if the position is
    present; an input that is not dead there was absorbed and does not matter. Axes without a link are demanded whole.
    ``more`` holds, by operand, the demands on contracted axes that the operator's own rule found.
    """
    demands = [facts.demand.get(out) for out in node.outputs]
    if all(demand is None for demand in demands):
        return
    quiet = not any(demands) and not any(out in facts.dead for out in node.outputs)
    for operand, value in enumerate(node.inputs):
        if value is None or operand in spec.unread or is_constant(value):
            continue
        known = dims.static(value)
        links = spec.of_operand(operand)
        own = {} if more is None else more.get(operand, {})
        if known is None or not links or (quiet and len(demands) == 1 and all(link.index is None for link in links)):
            facts.contribute(value, own)
            continue
        partial: Partial = dict(own)
        by_axis: dict[int, list[Link]] = {}
        for link in links:
            by_axis.setdefault(link.axis, []).append(link)
        for axis, group in by_axis.items():
            size = known[axis]
            if size is None:
                continue
            mask = _demand_of_axis(node, group, facts, facts.dead_axes(value).get(axis), size)
            if mask is not None and axis in own:
                mask = mask & own[axis]
            if mask is not None and not mask.all():
                partial[axis] = mask
        facts.contribute(value, partial)
        _planes(node, value, links, known, facts)


def _demand_of_axis(node: ir.Node, links: list[Link], facts: Facts, dead_in: Dead | None, size: int) -> Mask | None:
    mask = np.zeros(size, bool)
    for link in links:
        out = node.outputs[link.out]
        demand = facts.demand.get(out)
        if demand is None and (out, link.out_axis) not in facts.forced:
            continue
        out_sizes = dims.static(out)
        width = None if out_sizes is None else out_sizes[link.out_axis]
        if width is None:
            return None
        wanted = facts.demanded(out, link.out_axis, width)
        dead_out = facts.dead_axes(out).get(link.out_axis)
        if link.index is None:
            if dead_out is not None:
                wanted = wanted & (~dead_out.mask if dead_in is None else ~dead_out.mask | dead_in.mask)
            mask |= wanted
        else:
            here = wanted & (link.index >= 0)
            if dead_out is not None:
                kept = ~dead_out.mask
                if dead_in is not None:
                    kept = kept | dead_in.mask[np.maximum(link.index, 0)]
                here = here & kept
            mask[link.index[here]] = True
    return mask


def _planes(node: ir.Node, value: ir.Value, links: list[Link], known: tuple[int | None, ...], facts: Facts) -> None:
    """Hand the outputs' physical needs on to the inputs that are dead at the same positions.

    Not at a join: its trunk shares the output's positions, and the scatter of a branch writes the constants.
    """
    if node.op_type in ELEMENTWISE_JOINS and sum(v is not None and not is_constant(v) for v in node.inputs) > 1:
        return
    for link in links:
        planes = facts.physical.get(node.outputs[link.out], {}).get(link.out_axis)
        dead_in = facts.dead_axes(value).get(link.axis)
        size = known[link.axis]
        if planes is None or dead_in is None or size is None:
            continue
        mask = np.zeros(size, bool)
        if link.index is None:
            mask |= planes
        else:
            mask[link.index[planes & (link.index >= 0)]] = True
        facts.need_physically(value, link.axis, mask & dead_in.mask)


def select_forward(
    node: ir.Node, spec: Spec, facts: Facts, constants: Sequence[tuple[int, int, Mask, np.ndarray]] = ()
) -> None:
    """Dead positions of an operator that only moves data: ``out[j] = in[index[j]]``, fills travel with positions.

    ``constants`` lists (output, axis, mask, fill) of positions that the operator itself fills. An output axis that is
    fed by several inputs (``Concat``) is dead position by position.
    """
    grouped: dict[tuple[int, int], list[Link]] = {}
    for link in spec.links:
        grouped.setdefault((link.out, link.out_axis), []).append(link)
    for (out, axis), links in grouped.items():
        value = node.outputs[out]
        known = dims.static(value)
        size = None if known is None else known[axis]
        if size is None:
            continue
        identity = [link for link in links if link.index is None]
        mask = np.zeros(size, bool)
        fill: np.ndarray | None = None
        if identity:
            # Several inputs that all hold the position must agree on the constant (Concat along another axis).
            found = []
            for link in identity:
                source = node.inputs[link.operand]
                assert source is not None
                along = facts.along(source, link.axis, size)
                if along is None:
                    break
                found.append(along)
            else:
                mask = found[0][0].copy()
                fill = found[0][1]
                for other_mask, other_fill in found[1:]:
                    mask &= other_mask & (other_fill == fill)
        else:
            for link in links:
                source = node.inputs[link.operand]
                assert source is not None and link.index is not None
                source_sizes = dims.static(source)
                source_size = None if source_sizes is None else source_sizes[link.axis]
                if source_size is None:
                    continue
                along = facts.along(source, link.axis, source_size)
                if along is None:
                    continue
                here = link.index >= 0
                taken = np.zeros(size, bool)
                taken[here] = along[0][link.index[here]]
                if fill is None:
                    fill = np.zeros(size, along[1].dtype)
                fill[taken] = along[1][link.index[taken]]
                mask |= taken
        for const_out, const_axis, const_mask, const_fill in constants:
            if (const_out, const_axis) == (out, axis):
                if fill is None:
                    fill = np.zeros(size, const_fill.dtype)
                fill = np.where(const_mask, const_fill, fill).astype(const_fill.dtype)
                mask = mask | const_mask
        if fill is not None:
            facts.set_dead(value, axis, mask, fill)
