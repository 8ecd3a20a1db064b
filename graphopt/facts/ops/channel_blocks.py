"""Channels that become pixels, and pixels that become channels: DepthToSpace, SpaceToDepth, Col2Im.

Where several input channels become one output channel they live and die together; where one becomes several, these do.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from graphopt import dims
from graphopt.facts.ops.movement import Mover
from graphopt.facts.rules import Rule, rule, through_links
from graphopt.facts.store import Facts, Group, Link, Partial, Spec


def _joined(numbers: np.ndarray, channels: int, reason: str) -> Spec:
    """Return the spec of an operator whose input channel ``c`` becomes part of output channel ``numbers[c]``."""
    group = Group(channels, ((0, 1, numbers),), ((0, 1, np.arange(channels)),))
    return Spec([Link(0, 0, 0, 0)], reason=reason, groups=(group,))


class Joining(Rule):
    """Facts of operators that make one output channel of several input channels."""

    zero_only = False
    """Only zeros stay what they are (values are added up)."""

    def forward(self, node: ir.Node, spec: Spec, facts: Facts) -> None:
        numbers, size = spec.groups[0].inputs[0][2], spec.groups[0].size
        dead = facts.dead_axes(node.inputs[0]).get(1)
        if dead is None:
            return
        fill = np.zeros(size, dead.fill.dtype)
        fill[numbers] = dead.fill
        same = dead.mask & (dead.fill == fill[numbers])
        if self.zero_only:
            same &= dead.fill == 0
        mask = np.ones(size, bool)
        mask[numbers[~same]] = False
        facts.set_dead(node.outputs[0], 1, mask, fill)

    def backward(self, node: ir.Node, spec: Spec, facts: Facts) -> None:
        numbers, size = spec.groups[0].inputs[0][2], spec.groups[0].size
        value, out = node.inputs[0], node.outputs[0]
        if value is None or facts.demand.get(out) is None:
            through_links(node, spec, facts)
            return
        demanded = facts.demanded(out, 1, size)[numbers]
        more: Partial = {} if demanded.all() else {1: demanded}
        through_links(node, spec, facts, {0: more})
        dead, planes = facts.dead_axes(value).get(1), facts.physical.get(out, {}).get(1)
        if dead is not None and planes is not None:
            facts.need_physically(value, 1, planes[numbers] & dead.mask)

    def finite(self, node: ir.Node, facts: Facts) -> bool:
        return not self.zero_only


@rule("DepthToSpace")
class DepthToSpace(Joining):
    """``out[c, h*s+i, w*s+j] = in[(i*s+j)*C + c, h, w]`` (DCR) or ``in[c*s*s + i*s+j, h, w]`` (CRD)."""

    def spec(self, node: ir.Node, facts: Facts) -> Spec | None:
        known, out = dims.static(node.inputs[0]), dims.static(node.outputs[0])
        if known is None or out is None or len(known) != 4 or len(out) != 4 or not known[1] or not out[1]:
            return None
        places = np.arange(known[1])
        block = known[1] // out[1]
        crd = node.attributes.get_string("mode", "DCR") == "CRD"
        return _joined(places // block if crd else places % out[1], out[1], "DepthToSpace moves this axis' positions")


@rule("Col2Im")
class Col2Im(Joining):
    """``out[c] = sum`` of the patches that channels ``c*K … c*K+K-1`` hold."""

    zero_only = True

    def spec(self, node: ir.Node, facts: Facts) -> Spec | None:
        known, out = dims.static(node.inputs[0]), dims.static(node.outputs[0])
        block = facts.constants.ints(node.inputs[2])
        if known is None or out is None or block is None or len(known) != 3 or not known[1] or not out[1]:
            return None
        patch = int(np.prod(block))
        if known[1] != out[1] * patch:
            return None
        return _joined(np.arange(known[1]) // patch, out[1], "Col2Im adds up overlapping patches")


@rule("SpaceToDepth")
class SpaceToDepth(Mover):
    """``out[(i*s+j)*C + c, h, w] = in[c, h*s+i, w*s+j]``."""

    def spec(self, node: ir.Node, facts: Facts) -> Spec | None:
        known, out = dims.static(node.inputs[0]), dims.static(node.outputs[0])
        if known is None or out is None or len(known) != 4 or len(out) != 4 or not known[1] or not out[1]:
            return None
        links = [Link(0, 0, 0, 0), Link(0, 1, 0, 1, np.arange(out[1]) % known[1])]
        return Spec(links, reason="SpaceToDepth moves this axis' positions")
