"""Reductions: axes that stay are passed through; a reduced axis whose dead positions are zeros is contracted."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from graphopt import dims
from graphopt.facts.rules import Rule, rule, through_links
from graphopt.facts.store import Facts, Link, Partial, Spec

ABSORBING_ZERO = ("ReduceSum", "ReduceL1", "ReduceL2", "ReduceSumSquare", "ReduceMean")
"""Reductions to which a zero adds nothing (a mean keeps its original divisor)."""


def reduced_axes(node: ir.Node, rank: int, facts: Facts) -> list[int] | None:
    """Return the sorted, non-negative axes a reduction removes, or ``None`` when they are not constant."""
    if "axes" in node.attributes:
        axes: list[int] | None = list(node.attributes.get_ints("axes", ()))
    elif len(node.inputs) > 1 and node.inputs[1] is not None:
        axes = facts.constants.ints(node.inputs[1])
    else:
        axes = []
    if axes is None:
        return None
    if not axes:
        return [] if node.attributes.get_int("noop_with_empty_axes", 0) else list(range(rank))
    return sorted({axis + rank if axis < 0 else axis for axis in axes})


@rule("ReduceSum", "ReduceL1", "ReduceL2", "ReduceSumSquare", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd",
      "ReduceLogSum", "ReduceLogSumExp")  # fmt: skip
class Reduction(Rule):
    """A constant slice reduces to a constant; zeros along a reduced axis drop out of a sum."""

    def spec(self, node: ir.Node, facts: Facts) -> Spec | None:
        rank = dims.rank(node.inputs[0])
        if rank is None:
            return None
        axes = reduced_axes(node, rank, facts)
        if axes is None:
            return None
        keep = node.attributes.get_int("keepdims", 1)
        links = []
        target = 0
        for axis in range(rank):
            if axis in axes:
                target += 1 if keep else 0
                continue
            links.append(Link(0, axis, 0, target))
            target += 1
        absorbs = node.op_type in ABSORBING_ZERO
        if node.op_type == "ReduceMean":  # the dense mean is rescaled, which integers do not survive
            dtype = node.outputs[0].dtype
            absorbs = dtype is not None and dtype.is_floating_point()
        contracted = tuple((0, axis) for axis in axes) if absorbs else ()
        return Spec(links, contracted, reason=f"{node.op_type} covers this axis", extra=axes)

    def forward(self, node: ir.Node, spec: Spec, facts: Facts) -> None:
        dead = facts.dead_axes(node.inputs[0])
        if not dead:
            return
        known = dims.static(node.inputs[0])
        assert known is not None
        axes: list[int] = spec.extra  # type: ignore[assignment]
        sizes = [known[axis] for axis in axes]
        count = None if any(size is None for size in sizes) else int(np.prod([size or 0 for size in sizes]))
        for link in spec.links:
            found = dead.get(link.axis)
            if found is None:
                continue
            mask, fill = found.mask, found.fill
            values = _reduce(node.op_type, fill, count)
            if values is None:
                mask = mask & (fill == 0) if node.op_type in ABSORBING_ZERO else np.zeros_like(mask)
                values = np.zeros_like(fill)
            if count == 0:
                continue
            facts.set_dead(node.outputs[0], link.out_axis, mask, values.astype(fill.dtype))

    def backward(self, node: ir.Node, spec: Spec, facts: Facts) -> None:
        more: Partial = {}
        value = node.inputs[0]
        if spec.contracted and value is not None and facts.demand.get(node.outputs[0]) is not None:
            for _, axis in spec.contracted:
                found = facts.dead_axes(value).get(axis)
                if found is None:
                    continue
                if absorbs_constants(node, spec, value, axis, facts):
                    wanted = ~found.mask
                else:
                    wanted = ~(found.mask & (found.fill == 0))
                    facts.need_physically(value, axis, found.mask & wanted)
                if not wanted.all():
                    more[axis] = wanted
        through_links(node, spec, facts, {0: more})


def absorbs_constants(node: ir.Node, spec: Spec, value: ir.Value, axis: int, facts: Facts) -> bool:
    """Tell whether constants along a reduced axis may leave a sum as one: it must be known how many they are."""
    if node.op_type not in ("ReduceSum", "ReduceMean", "ReduceL1", "ReduceSumSquare"):
        return False
    known = dims.static(value)
    dtype = value.dtype
    others = [other for _, other in spec.contracted if other != axis]
    if known is None or dtype is None or not dtype.is_floating_point():
        return False
    if any(other in facts.dead_axes(value) for other in others):
        return False
    return node.op_type == "ReduceMean" or all(known[other] is not None for other in others)


def _reduce(op_type: str, fill: np.ndarray, count: int | None) -> np.ndarray | None:
    """Reduce ``count`` equal values; ``None`` when that needs an unknown count."""
    wide = fill.astype(np.float64)
    if op_type in ("ReduceMax", "ReduceMin", "ReduceMean"):
        return fill
    if count is None:
        return None
    with np.errstate(all="ignore"):
        return {
            "ReduceSum": lambda: wide * count,
            "ReduceL1": lambda: np.abs(wide) * count,
            "ReduceL2": lambda: np.sqrt(wide * wide * count),
            "ReduceSumSquare": lambda: wide * wide * count,
            "ReduceProd": lambda: wide**count,
            "ReduceLogSum": lambda: np.log(wide * count),
            "ReduceLogSumExp": lambda: wide + np.log(count),
        }[op_type]()
