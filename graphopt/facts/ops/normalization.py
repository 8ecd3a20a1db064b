"""Softmax and its relatives, normalization over the pixels of a channel, of a group of channels, over a window.

What is normalized over the last axes is in ``layer_norm``. An axis that is normalized over is needed whole, but for two
cases: a group of channels leaves as a whole, and zeros add nothing to a norm.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from graphopt import dims
from graphopt.facts.rules import Rule, identity_links, rule, through_links
from graphopt.facts.store import Facts, Group, Link, Mask, Spec

ROUNDING = 2.0**-21
"""By how much, relative to it, the mean of equal numbers may differ from that number."""

SMALL_NOISE = 1e-6
"""Noise below this share of what is left is not seen."""


def _shown(node: ir.Node, first: int) -> bool:
    return any(out.uses() or out.is_graph_output() for out in node.outputs[first:])


def _record(value: ir.Value, axis: int, mask: Mask, fill: np.ndarray, facts: Facts) -> None:
    facts.set_dead(value, axis, mask, fill if value.dtype is None else fill.astype(value.dtype.numpy()))


class Barrier(Rule):
    """Every position of some axes influences every other there; along the other axes nothing is mixed."""

    def over(self, node: ir.Node, rank: int, facts: Facts) -> list[int]:
        """Return the axes that are needed whole."""
        raise NotImplementedError

    def spec(self, node: ir.Node, facts: Facts) -> Spec | None:
        rank = dims.rank(node.inputs[0])
        if rank is None or _shown(node, 1):
            return None
        over = self.over(node, rank, facts)
        free = [axis for axis in range(rank) if axis not in over]
        return Spec(identity_links(rank, free), reason=f"{node.op_type} normalizes over this axis", extra=over)


@rule("Softmax", "LogSoftmax", "Hardmax")
class Softmax(Barrier):
    """``f' = 1/n`` (``-log n``) along the other axes: equal numbers share equally. Hardmax chooses the first."""

    def over(self, node: ir.Node, rank: int, facts: Facts) -> list[int]:
        axis = node.attributes.get_int("axis", -1 if facts.opset >= 13 else 1)
        axis += rank if axis < 0 else 0
        return [axis] if facts.opset >= 13 else list(range(axis, rank))

    def forward(self, node: ir.Node, spec: Spec, facts: Facts) -> None:
        known = dims.static(node.inputs[0])
        over: list[int] = spec.extra  # type: ignore[assignment]
        sizes = [None if known is None else known[axis] for axis in over]
        if node.op_type == "Hardmax" or not all(sizes):
            return
        count = math.prod(size or 1 for size in sizes)
        share = 1 / count if node.op_type == "Softmax" else -math.log(count)
        for axis, dead in facts.dead_axes(node.inputs[0]).items():
            if axis not in over:
                _record(node.outputs[0], axis, dead.mask, np.full(dead.mask.size, share), facts)

    def finite(self, node: ir.Node, facts: Facts) -> bool:
        return True


@rule("LRN")
class LocalResponse(Barrier):
    """``f' = 0`` for ``f = 0``: a zero channel stays zero, but its neighbours keep their distance."""

    def over(self, node: ir.Node, rank: int, facts: Facts) -> list[int]:
        return [1]

    def forward(self, node: ir.Node, spec: Spec, facts: Facts) -> None:
        if not facts.is_finite(node.inputs[0]) or node.attributes.get_float("bias", 1.0) <= 0:
            return
        for axis, dead in facts.dead_axes(node.inputs[0]).items():
            _record(node.outputs[0], axis, dead.mask & (dead.fill == 0), np.zeros(dead.mask.size), facts)


@rule("MeanVarianceNormalization")
class MeanVariance(Barrier):
    """Nothing is constant behind it: what zeros divided by a deviation of zero are is the runtime's choice."""

    def over(self, node: ir.Node, rank: int, facts: Facts) -> list[int]:
        return [axis % rank for axis in node.attributes.get_ints("axes", (0, 2, 3))]


@rule("LpNormalization")
class LpNorm(Rule):
    """``x / |x|``: zeros add nothing to the norm, stay zeros, and leave. Other constants are needed."""

    def spec(self, node: ir.Node, facts: Facts) -> Spec | None:
        rank = dims.rank(node.inputs[0])
        if rank is None:
            return None
        axis = node.attributes.get_int("axis", -1)
        axis += rank if axis < 0 else 0
        dead = facts.dead_axes(node.inputs[0]).get(axis)
        zeros = dead is not None and not dead.fill[dead.mask].any() and facts.is_finite(node.inputs[0])
        free = [other for other in range(rank) if other != axis or zeros]
        return Spec(identity_links(rank, free), reason="LpNormalization normalizes over this axis", extra=axis)

    def forward(self, node: ir.Node, spec: Spec, facts: Facts) -> None:
        if not facts.is_finite(node.inputs[0]):
            return
        # Of a whole row of zeros the norm is zero, and what that gives is the runtime's choice.
        dead = facts.dead_axes(node.inputs[0]).get(spec.extra)  # type: ignore[call-overload]
        if dead is not None:
            _record(node.outputs[0], spec.extra, dead.mask & (dead.fill == 0), np.zeros(dead.mask.size), facts)  # type: ignore[arg-type]

    def backward(self, node: ir.Node, spec: Spec, facts: Facts) -> None:
        # Whatever is there counts in the norm.
        through_links(node, Spec([link for link in spec.links if link.axis != spec.extra]), facts)
        planes = facts.physical.get(node.outputs[0], {}).get(spec.extra)  # type: ignore[call-overload]
        dead = facts.dead_axes(node.inputs[0]).get(spec.extra)  # type: ignore[call-overload]
        if planes is not None and dead is not None and node.inputs[0] is not None:
            facts.need_physically(node.inputs[0], spec.extra, planes & dead.mask)  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class Channels:
    """Normalization of the channels (axis 1) of each of ``groups`` groups over all of their pixels."""

    groups: int
    each: int
    """Channels of a group."""
    per_group: bool
    """Scale and shift have an element for a group, not for a channel (GroupNormalization before opset 21)."""
    epsilon: float

    @property
    def numbers(self) -> np.ndarray:
        """``[channels]``: the group of each channel."""
        return np.repeat(np.arange(self.groups), self.each)


@rule("InstanceNormalization", "GroupNormalization")
class ChannelNorm(Rule):
    """``f' = (f - mean) / sqrt(variance + eps) * scale + shift`` where all of a group is constant.

    A scale of zero leaves the shift. A constant channel among living ones is not constant behind them.
    """

    def spec(self, node: ir.Node, facts: Facts) -> Spec | None:
        known = dims.static(node.inputs[0])
        scale = dims.static(node.inputs[1])
        if known is None or len(known) < 3:
            return None
        links = identity_links(len(known), [0])
        epsilon = node.attributes.get_float("epsilon", 1e-5)
        reason = "InstanceNormalization normalizes over the pixels"
        if node.op_type == "InstanceNormalization":
            links += identity_links(len(known), [1])
            links += [Link(operand, 0, 0, 1) for operand in (1, 2)]
            extra = None if known[1] is None else Channels(known[1], 1, False, epsilon)
            return Spec(links, reason=reason, extra=extra)
        reason = "a group of GroupNormalization is kept or dropped as a whole"
        count = node.attributes.get_int("num_groups", 0)
        channels = known[1]
        if channels is None or count < 1 or channels % count or scale is None or None in scale:
            return Spec(links, reason=reason)
        if not all(facts.constants.known(node.inputs[operand]) for operand in (1, 2)):
            return Spec(links, reason=reason)
        per_group = facts.opset < 21
        if scale != ((count if per_group else channels),):
            return Spec(links, reason=reason)
        extra = Channels(count, channels // count, per_group, epsilon)
        return Spec(links, reason=reason, groups=(Group(count, outputs=((0, 1, extra.numbers),)),), extra=extra)

    def forward(self, node: ir.Node, spec: Spec, facts: Facts) -> None:
        x, (scale, shift) = node.inputs[0], node.inputs[1:3]
        form = spec.extra
        if not isinstance(form, Channels) or x is None or scale is None or shift is None:
            return
        arrays = [facts.constants.array(value) for value in (scale, shift)]
        if any(array is None or array.ndim != 1 for array in arrays):
            return
        gamma, beta = (np.asarray(array, np.float64) for array in arrays)
        if form.per_group:
            gamma, beta = np.repeat(gamma, form.each), np.repeat(beta, form.each)
        if gamma.size != form.groups * form.each or beta.size != gamma.size:
            return
        mask, fill = np.zeros(gamma.size, bool), beta.copy()
        found = facts.along(x, 1, gamma.size)
        if found is not None:
            fills = np.where(found[0], found[1], 0).astype(np.float64).reshape(form.groups, form.each)
            whole = found[0].reshape(fills.shape).all(axis=1)
            with np.errstate(all="ignore"):
                deviation = np.sqrt(fills.var(axis=1, keepdims=True) + form.epsilon)
                normalized = (fills - fills.mean(axis=1, keepdims=True)) / deviation
            mask = np.repeat(whole, form.each)
            fill = np.where(mask, normalized.ravel() * gamma, 0) + beta
            # The mean of equal numbers is rounded: where nothing but that is left, the original computes its noise.
            noise = ROUNDING * np.abs(fills).max(axis=1, keepdims=True) / deviation * np.abs(gamma.reshape(fills.shape))
            if mask.all() and noise.max(initial=0.0) > np.abs(fill).max(initial=0.0) * SMALL_NOISE:
                mask = mask & (noise.ravel() == 0)
        if facts.assume_finite and form.epsilon > 0:
            fill = np.where(gamma == 0, beta, fill)
            mask = mask | (gamma == 0)
        _record(node.outputs[0], 1, mask, fill, facts)

    def backward(self, node: ir.Node, spec: Spec, facts: Facts) -> None:
        out, form = node.outputs[0], spec.extra
        if not spec.groups or not isinstance(form, Channels) or facts.demand.get(out) is None:
            through_links(node, spec, facts)
            return
        # A group that is there normalizes over all of its channels.
        size = form.groups * form.each
        read = facts.demanded(out, 1, size)
        dead_out, dead_in = facts.dead_axes(out).get(1), facts.dead_axes(node.inputs[0]).get(1)
        if dead_out is not None:
            read = read & (~dead_out.mask if dead_in is None else ~dead_out.mask | dead_in.mask)
        wanted = np.repeat(read.reshape(form.groups, form.each).any(axis=1), form.each)
        through_links(node, spec, facts, {0: {} if wanted.all() else {1: wanted}})
