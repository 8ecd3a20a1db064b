"""Elementwise operators, pools and concatenations of quantized values: ``f' = q(g(dequantized f))``."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from graphopt import dims
from graphopt.facts.ops.elementwise import UNARY, aligned_spec, candidate_axes, own_axis
from graphopt.facts.ops.qlinear import operand, scalar
from graphopt.facts.quantization import quantized
from graphopt.facts.rules import MICROSOFT, Rule, identity_links, rule
from graphopt.facts.store import Facts, Link, Mask, Spec

Real = Callable[..., np.ndarray]


def steps_of(fill: np.ndarray, node: ir.Node, place: int, facts: Facts) -> np.ndarray | None:
    """Return the numbers that quantized fills stand for (float64), given where the scale and the zero point are."""
    scale, zero = scalar(node, place, facts), scalar(node, place + 1, facts)
    if scale is None or (zero is None and operand(node, place + 1) is not None):
        return None
    return (fill.astype(np.float64) - (0 if zero is None else float(zero))) * float(scale)


def stored_as(real: np.ndarray, node: ir.Node, place: int, facts: Facts) -> tuple[np.ndarray, np.ndarray] | None:
    """Return (q, sure) of numbers, given where scale and zero point of the output are."""
    scale, zero, kind = scalar(node, place, facts), scalar(node, place + 1, facts), node.outputs[0].dtype
    if scale is None or kind is None or (zero is None and operand(node, place + 1) is not None):
        return None
    with np.errstate(all="ignore"):
        return quantized(real / float(scale), zero, kind.numpy())


@rule("QLinearAdd", "QLinearMul", domain=MICROSOFT)
class QLinearBinary(Rule):
    """``q(a + b)`` and ``q(a * b)``; a zero makes a product zero, whatever the other factor is."""

    def spec(self, node: ir.Node, facts: Facts) -> Spec | None:
        if any(dims.static(operand(node, place)) not in ((), (1,), None) for place in (1, 2, 4, 5, 6, 7)):
            return None
        return aligned_spec(node, (0, 3))

    def forward(self, node: ir.Node, spec: Spec, facts: Facts) -> None:
        out, known = node.outputs[0], dims.static(node.outputs[0])
        values = (node.inputs[0], node.inputs[3])
        if known is None or out.dtype is None:
            return
        multiplies = node.op_type == "QLinearMul"
        for axis in candidate_axes(node, values, facts, lambda x: np.ones(x.shape, bool) if multiplies else x != x):
            size = known[axis]
            if size is None:
                continue
            masks: list[Mask] = []
            reals: list[np.ndarray] = []
            for place, value in zip((0, 3), values, strict=True):
                found = None if value is None else facts.along(value, own_axis(value, axis, len(known)), size)
                real = None if found is None else steps_of(found[1], node, place + 1, facts)
                masks.append(np.zeros(size, bool) if found is None or real is None else found[0])
                reals.append(np.zeros(size) if real is None else real)
            mask = masks[0] & masks[1]
            real = reals[0] * reals[1] if multiplies else reals[0] + reals[1]
            if multiplies:
                zero = (masks[0] & (reals[0] == 0)) | (masks[1] & (reals[1] == 0))
                mask, real = mask | zero, np.where(zero, 0, real)
            result = stored_as(real, node, 6, facts)
            if result is not None:
                facts.set_dead(out, axis, mask & result[1], result[0])

    def finite(self, node: ir.Node, facts: Facts) -> bool:
        return True


@rule("QLinearLeakyRelu", "QLinearSigmoid", domain=MICROSOFT)
class QLinearUnary(Rule):
    """``q(g(x))``."""

    def spec(self, node: ir.Node, facts: Facts) -> Spec | None:
        rank = dims.rank(node.outputs[0])
        return None if rank is None or dims.rank(node.inputs[0]) != rank else Spec(identity_links(rank))

    def forward(self, node: ir.Node, spec: Spec, facts: Facts) -> None:
        for axis, dead in facts.dead_axes(node.inputs[0]).items():
            real = steps_of(dead.fill, node, 1, facts)
            if real is None:
                return
            result = stored_as(self.function(node)(real), node, 3, facts)
            if result is not None:
                facts.set_dead(node.outputs[0], axis, dead.mask & result[1], result[0])

    def function(self, node: ir.Node) -> Real:
        """Return g."""
        return UNARY[node.op_type.removeprefix("QLinear")](node)

    def finite(self, node: ir.Node, facts: Facts) -> bool:
        return True


@rule("QLinearAveragePool", "QLinearGlobalAveragePool", domain=MICROSOFT)
class QLinearPool(QLinearUnary):
    """``q(f)``; where padding counts, only of zero. Windows along the axes of the image are needed whole."""

    def spec(self, node: ir.Node, facts: Facts) -> Spec | None:
        rank = dims.rank(node.inputs[0])
        if rank is None or rank < 3 or dims.rank(node.outputs[0]) != rank:
            return None
        channels = rank - 1 if node.attributes.get_int("channels_last", 0) else 1
        return Spec(identity_links(rank, (0, channels)), reason="pooling windows cover this axis")

    def forward(self, node: ir.Node, spec: Spec, facts: Facts) -> None:
        padded = node.op_type == "QLinearAveragePool" and bool(node.attributes.get_int("count_include_pad", 0))
        linked = {link.axis for link in spec.links}
        for axis, dead in facts.dead_axes(node.inputs[0]).items():
            real = steps_of(dead.fill, node, 1, facts)
            result = None if real is None else stored_as(real, node, 3, facts)
            if axis not in linked or real is None or result is None:
                continue
            mask = dead.mask & result[1] & (real == 0) if padded else dead.mask & result[1]
            facts.set_dead(node.outputs[0], axis, mask, result[0])


@rule("QLinearSoftmax", domain=MICROSOFT)
class QLinearSoftmax(Rule):
    """Entries along the axis depend on each other; the other axes pass."""

    def spec(self, node: ir.Node, facts: Facts) -> Spec | None:
        rank = dims.rank(node.inputs[0])
        if rank is None or dims.rank(node.outputs[0]) != rank or node.attributes.get_int("opset", 0) < 13:
            return None
        axis = node.attributes.get_int("axis", -1) % rank
        return Spec(identity_links(rank, [i for i in range(rank) if i != axis]), reason="Softmax over this axis")


@rule("QLinearConcat", domain=MICROSOFT)
class QLinearConcat(Rule):
    """``q(concatenation)``: inputs 2, 5, … with scales and zero points behind them, those of the output in front."""

    def spec(self, node: ir.Node, facts: Facts) -> Spec | None:
        rank, known = dims.rank(node.outputs[0]), dims.static(node.outputs[0])
        places = range(2, len(node.inputs), 3)
        parts = [dims.static(node.inputs[place]) for place in places]
        if rank is None or known is None or any(part is None or len(part) != rank for part in parts):
            return None
        axis = node.attributes.get_int("axis", 1) % rank
        links = [Link(place, i, 0, i) for place in places for i in range(rank) if i != axis]
        sizes = [part[axis] for part in parts if part is not None]
        if None in sizes:
            return Spec(links, reason="concatenated along an axis of unknown size")
        start, total = 0, sum(size or 0 for size in sizes)
        for place, size in zip(places, sizes, strict=True):
            index = np.full(total, -1)
            index[start : start + (size or 0)] = np.arange(size or 0)
            links.append(Link(place, axis, 0, axis, index))
            start += size or 0
        return Spec(links)

    def forward(self, node: ir.Node, spec: Spec, facts: Facts) -> None:
        out, known = node.outputs[0], dims.static(node.outputs[0])
        assert known is not None
        for axis, size in enumerate(known):
            if size is None:
                continue
            parts = [self._part(node, link, size, facts) for link in spec.of_output(0, axis)]
            found = [part for part in parts if part is not None]
            if not found:
                continue
            mask, fill = found[0]
            if any(link.index is not None for link in spec.of_output(0, axis)):
                for other, own in found[1:]:
                    mask, fill = mask | other, np.where(other, own, fill).astype(fill.dtype)
            elif len(found) < len(parts):
                continue
            else:
                mask = np.logical_and.reduce([other & (own == fill) for other, own in found])
            facts.set_dead(out, axis, mask, fill)

    def _part(self, node: ir.Node, link: Link, size: int, facts: Facts) -> tuple[Mask, np.ndarray] | None:
        """Return (mask, fill) ``[size]`` that one input gives the output."""
        value = node.inputs[link.operand]
        own = (dims.static(value) or ())[link.axis]
        found = None if value is None or own is None else facts.along(value, link.axis, own)
        real = None if found is None else steps_of(found[1], node, link.operand + 1, facts)
        result = None if real is None else stored_as(real, node, 0, facts)
        if found is None or result is None:
            return None
        mask, fill = found[0] & result[1], result[0]
        if link.index is None:
            return mask, fill
        here = link.index >= 0
        wide, fills = np.zeros(size, bool), np.zeros(size, fill.dtype)
        wide[here], fills[here] = mask[link.index[here]], fill[link.index[here]]
        return wide, fills
