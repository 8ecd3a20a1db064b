"""Normalization over the last axes, by the mean of squares (RMSNorm) or by mean and variance (LayerNorm).

Each position of a normalized axis counts in the statistics of all. A constant counts too, but what it adds is known
beforehand, so that it need not be there: the narrowed operator divides by the original number of positions
(``rewrite/ops/layer_norm.py``). It must be there, though, where somebody reads it *behind* the operator: a zero stays a
zero behind RMSNorm, and any other constant becomes ``(f - mean) / std * scale + shift``, which is none. If that
happens at one position, the whole axis is a barrier: the operator is given all of it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import ml_dtypes
import numpy as np
import onnx_ir as ir

from graphopt import dims
from graphopt.facts.constants import is_constant
from graphopt.facts.ops.elementwise import aligned_spec, own_axis
from graphopt.facts.rules import MICROSOFT, Rule, rule, through_links
from graphopt.facts.store import Facts, Link, Mask, Spec

FUSED_RMS = 23
"""The opset that has RMSNormalization."""


@dataclass(slots=True)
class Norm:
    """What one such node computes, and what is known about its axes.

    ``y = (x - mean) / sqrt(variance + epsilon) * scale + shift`` with ``x`` the sum of the operands ``addends``; where
    it is not ``centred``, ``y = x / sqrt(mean of squares + epsilon) * scale``.
    """

    centred: bool
    addends: tuple[int, ...]
    scale: int
    shift: int | None
    axes: tuple[int, ...]
    """Normalized axes, of static size."""
    epsilon: float
    total: int | None = None
    """The output that shows ``x``."""
    dead: dict[int, tuple[Mask, np.ndarray]] = field(default_factory=dict)
    """Axis → (mask, fill, float64) of ``x``."""
    settled: bool = False
    """It has been decided which axes may be narrowed: before a plan is made, and not again."""


class LastAxes(Rule):
    """Facts of both kinds; the classes below say where the operands are."""

    def norm(self, node: ir.Node, rank: int, facts: Facts) -> Norm | None:
        """Return what the node computes, ``axes`` not yet reduced to those of static size."""
        raise NotImplementedError

    def spec(self, node: ir.Node, facts: Facts) -> Spec | None:
        out = node.outputs[0]
        known, rank = dims.static(out), dims.rank(node.inputs[0])
        if known is None or rank is None or len(known) != rank:
            return None
        norm = self.norm(node, rank, facts)
        if norm is None:
            return None
        parameters = [norm.scale] if norm.shift is None else [norm.scale, norm.shift]
        spec = aligned_spec(node, [*norm.addends, *parameters])
        if spec is None:
            return None
        fixed = all(facts.constants.known(node.inputs[operand]) for operand in parameters)
        norm.axes = tuple(
            axis for axis in norm.axes if fixed and known[axis] is not None and (0, axis) not in spec.pinned
        )
        free = [link for link in spec.links if link.out_axis in norm.axes or not _normalized(node, link.out_axis, rank)]
        shown = [] if norm.total is None else [norm.total]
        links = [Link(v.operand, v.axis, out, v.out_axis) for out in (0, *shown) for v in free]
        links += [
            Link(v.operand, v.axis, position, v.out_axis)
            for position in (1, 2)
            if position < len(node.outputs) and not shown
            for v in free
            if v.operand == 0 and not _normalized(node, v.out_axis, rank)
        ]
        reason = f"{node.op_type} normalizes over this axis, and its constants are read behind it"
        links = [v for v in links if v.out == 0 or v.operand in norm.addends]
        pinned = frozenset((out, axis) for _, axis in spec.pinned for out in (0, *shown))
        return Spec(links, pinned=pinned, reason=reason, extra=norm)

    def forward(self, node: ir.Node, spec: Spec, facts: Facts) -> None:
        norm = norm_of(spec)
        known = dims.static(node.outputs[0])
        assert norm is not None and known is not None
        for axis, size in enumerate(known):
            if size is None:
                continue
            found = _sum(node, norm, axis, size, facts)
            if found is not None and norm.total is not None:
                _set(node.outputs[norm.total], axis, *found, facts)
            if found is not None and axis in norm.axes:
                norm.dead[axis] = found
            _set(node.outputs[0], axis, *_constant(node, norm, axis, size, found, facts), facts)

    def backward(self, node: ir.Node, spec: Spec, facts: Facts) -> None:
        norm = norm_of(spec)
        assert norm is not None
        if all(facts.demand.get(out) is None for out in node.outputs):
            return
        if not norm.settled:
            _settle(node, norm, spec, facts)
        # All that is there counts in the statistics: it must hold the right value.
        through = [v for v in spec.links if v.operand not in norm.addends or v.out_axis not in norm.axes]
        through_links(node, Spec(through), facts)
        for axis in norm.axes:
            planes = _read_behind(node, norm, axis, facts)
            for operand in norm.addends:
                value = node.inputs[operand]
                own = None if value is None else own_axis(value, axis, dims.rank(node.outputs[0]) or 0)
                dead = facts.dead_axes(value).get(-1 if own is None else own)
                if value is not None and own is not None and dead is not None and dead.mask.size == planes.size:
                    facts.need_physically(value, own, dead.mask & planes)

    def finite(self, node: ir.Node, facts: Facts) -> bool:
        spec = facts.specs.get(node)
        norm = None if spec is None else norm_of(spec)
        return norm is not None and not norm.centred and norm.epsilon > 0 and len(norm.addends) == 1


def norm_of(spec: Spec) -> Norm | None:
    """Return what the rule of such a node found, or ``None`` for other nodes."""
    return spec.extra if isinstance(spec.extra, Norm) else None


def _normalized(node: ir.Node, axis: int, rank: int) -> bool:
    return axis >= first_axis(node, rank)


def first_axis(node: ir.Node, rank: int) -> int:
    """Return the first of the normalized axes (``com.microsoft`` knows only the last one)."""
    axis = node.attributes.get_int("axis", -1)
    return axis + rank if axis < 0 else axis


def _sum(node: ir.Node, norm: Norm, axis: int, size: int, facts: Facts) -> tuple[Mask, np.ndarray] | None:
    """Return (mask, fill) of the sum of the addends along an axis; ``None`` where nothing is dead."""
    rank = dims.rank(node.outputs[0]) or 0
    mask, fill = np.ones(size, bool), np.zeros(size)
    for operand in norm.addends:
        value = node.inputs[operand]
        assert value is not None
        found = facts.along(value, own_axis(value, axis, rank), size)
        if found is None:
            return None
        mask = mask & found[0]
        fill = fill + np.where(found[0], found[1], 0).astype(np.float64)
    return (mask, np.where(mask, fill, 0)) if mask.any() else None


def _constant(
    node: ir.Node, norm: Norm, axis: int, size: int, found: tuple[Mask, np.ndarray] | None, facts: Facts
) -> tuple[Mask, np.ndarray]:
    """Return (mask, fill) of the result: zeros stay zeros without a mean; a scale of zero leaves the shift."""
    rank = dims.rank(node.outputs[0]) or 0
    mask, fill = np.zeros(size, bool), np.zeros(size)
    if norm.epsilon <= 0 or not (facts.assume_finite or (not norm.centred and _finite(node, norm, facts))):
        return mask, fill
    scale = node.inputs[norm.scale]
    shift = None if norm.shift is None else node.inputs[norm.shift]
    assert scale is not None
    left = (np.ones(size, bool), np.zeros(size))
    if shift is not None:
        left = facts.along(shift, own_axis(shift, axis, rank), size) or (mask, fill)
    if found is not None and (not norm.centred or axis not in norm.axes):
        # Without a mean a zero stays one; and where everything that is normalized is zero, so is the mean.
        whole = not _normalized(node, axis, rank)
        mask = mask | (found[0] & (found[1] == 0) & (left[0] if norm.centred else True) & (whole or not norm.centred))
    silent = facts.along(scale, own_axis(scale, axis, rank), size) if is_constant(scale) else None
    if silent is not None:
        mask = mask | (silent[0] & (silent[1] == 0) & left[0])
    return mask, np.where(mask, left[1], 0)


def _finite(node: ir.Node, norm: Norm, facts: Facts) -> bool:
    return all(facts.is_finite(node.inputs[operand]) for operand in norm.addends)


def _set(value: ir.Value, axis: int, mask: Mask, fill: np.ndarray, facts: Facts) -> None:
    facts.set_dead(value, axis, mask, fill if value.dtype is None else fill.astype(value.dtype.numpy()))


def _read_behind(node: ir.Node, norm: Norm, axis: int, facts: Facts) -> Mask:
    """Return the constants of ``x`` that somebody reads behind the operator."""
    found = norm.dead.get(axis)
    size = (dims.static(node.outputs[0]) or ())[axis]
    assert size is not None
    if found is None:
        return np.zeros(size, bool)
    read = facts.needed(node.outputs[0], axis, size)
    if norm.total is not None:
        read = read | facts.needed(node.outputs[norm.total], axis, size)
    return read & found[0]


def _settle(node: ir.Node, norm: Norm, spec: Spec, facts: Facts) -> None:
    """Decide which axes may be narrowed: all that is dead in them may leave. The others lose their links."""
    norm.settled = True
    several = len(norm.dead) > 1
    possible = _scale_fits(node, norm, facts)
    if norm.centred:  # the statistics of what is left are corrected: LayerNormalization is of opset 17
        possible &= norm.epsilon > 0 and facts.opset >= 17
    narrows = []
    for axis in norm.axes:
        found = norm.dead.get(axis)
        if found is None or not possible or _read_behind(node, norm, axis, facts).any():
            continue
        if several and found[1][found[0]].any():
            continue  # constants that meet would be counted twice
        narrows.append(axis)
    kept = [v for v in spec.links if v.out_axis in narrows or v.out_axis not in norm.axes]
    norm.axes, spec.links = tuple(narrows), kept


def _scale_fits(node: ir.Node, norm: Norm, facts: Facts) -> bool:
    """Tell whether ``scale * sqrt(N / K)`` is finite in the type of the scale, however few positions are left."""
    known = dims.static(node.outputs[0]) or ()
    most = math.sqrt(math.prod(known[axis] or 1 for axis in norm.axes))
    scale = facts.constants.array(node.inputs[norm.scale]) if norm.axes else None
    if scale is None or not scale.size:
        return False
    peak = float(np.abs(scale.astype(np.float64)).max())
    return peak * most <= float(ml_dtypes.finfo(scale.dtype).max)


def _used(node: ir.Node, first: int) -> bool:
    return any(out.uses() or out.is_graph_output() for out in node.outputs[first:])


@rule("RMSNormalization", "SimplifiedLayerNormalization")
@rule("SimplifiedLayerNormalization", domain=MICROSOFT)
class RmsNorm(LastAxes):
    """``x / sqrt(mean(x²) + eps) * scale``: a zero stays zero, ``eps' = (eps*N + sum of f²) / K``."""

    def norm(self, node: ir.Node, rank: int, facts: Facts) -> Norm | None:
        if _used(node, 1):
            return None
        axes = tuple(range(first_axis(node, rank), rank))
        return Norm(False, (0,), 1, None, axes, node.attributes.get_float("epsilon", 1e-5))


@rule("LayerNormalization")
class LayerNorm(LastAxes):
    """``(x - mean) / sqrt(variance + eps) * scale + shift``: constant only where the scale is zero."""

    def norm(self, node: ir.Node, rank: int, facts: Facts) -> Norm | None:
        shift = 2 if len(node.inputs) > 2 and node.inputs[2] is not None else None
        axes = tuple(range(first_axis(node, rank), rank))
        return Norm(True, (0,), 1, shift, axes, node.attributes.get_float("epsilon", 1e-5))


@rule("SkipSimplifiedLayerNormalization", "SkipLayerNormalization", domain=MICROSOFT)
class SkipNorm(LastAxes):
    """``x = input + skip + bias`` is normalized over its last axis; the fourth output shows it."""

    def norm(self, node: ir.Node, rank: int, facts: Facts) -> Norm | None:
        centred = node.op_type == "SkipLayerNormalization"
        present = [place for place, value in enumerate(node.inputs) if value is not None]
        shift = 3 if centred and 3 in present else None
        bias = 4 if centred else 3
        if _used(node, 4) or any(out.uses() or out.is_graph_output() for out in node.outputs[1:3]):
            return None
        addends = (0, 1, bias) if bias in present else (0, 1)
        total = 3 if len(node.outputs) > 3 and _used(node, 3) else None
        axes = (rank - 1,)
        return Norm(centred, addends, 2, shift, axes, node.attributes.get_float("epsilon", 1e-12), total)
