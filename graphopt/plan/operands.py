"""What a node reads: the parts of its operands, and how the axes of these are linked to those of its results."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from graphopt import dims
from graphopt.facts.ops.attention import V, heads_of
from graphopt.facts.ops.contraction import geometry
from graphopt.facts.ops.elementwise import Elementwise
from graphopt.facts.ops.gathering import Lookup
from graphopt.facts.ops.normalization import Channels
from graphopt.facts.rules import find
from graphopt.facts.store import Link, Spec
from graphopt.plan.cells import Cells, Part
from graphopt.plan.zeros import roles


class Operands:
    """The operands of one node whose axes are linked.

    Attributes:
        cells: Where ties, pins and zeros are recorded.
        node: The node.
        spec: How it treats its axes.
        geo: Where it is a contraction: of what.
        roles: What each operand says about zeros of the result.
        links: Axes of operands that are axes of results.
        parts: The parts of each operand.
        read: Parts (by id) that a contraction, a sum or a norm reads.
    """

    def __init__(self, cells: Cells, node: ir.Node, spec: Spec) -> None:
        self.cells, self.node, self.spec = cells, node, spec
        self.roles = roles(node, spec, cells.facts, cells.free)
        self.links = list(spec.links)
        self.parts: list[list[Part]] = [cells.of(value) for value in node.inputs]
        self.read: set[int] = set()
        self.geo = geometry(spec)
        if isinstance(spec.extra, Lookup) and spec.extra.positions.ndim == 0:
            self._select(spec.extra)
        self._more_links()

    def _select(self, found: Lookup) -> None:
        """One position of an axis is read, the axis is gone: the other axes of its part are those of that position."""
        axis, position = found.axis, int(found.positions)
        for place, part in enumerate(self.parts[0]):
            if axis in part.axes and len(part.axes) > 1:
                at = part.axes.index(axis)
                rest = tuple(other for other in part.axes if other != axis)
                self.parts[0][place] = Part(rest, part.cells.take(position, axis=at))

    def _more_links(self) -> None:
        node, geo = self.node, self.geo
        heads = heads_of(self.spec)
        if heads is not None:
            self.links.append(Link(V, heads.axis, 0, heads.axis, heads.source()))
        if isinstance(self.spec.extra, Channels) and self.spec.groups:
            own = [] if self.spec.extra.per_group else [Link(1, 0, 0, 1), Link(2, 0, 0, 1)]
            self.links += [Link(0, 1, 0, 1), *own]
        if geo is not None and geo.groups > 1 and geo.w_in > geo.w_out:
            known, out = dims.static(node.inputs[geo.x]), dims.static(node.outputs[0])
            channels, wide = (known or ())[geo.x_axis], (out or ())[geo.out_axis]
            if channels and channels == geo.groups and wide:  # one input a group: it leaves with all that is made of it
                self.links.append(Link(geo.x, geo.x_axis, 0, geo.out_axis, np.arange(wide) // (wide // channels)))

    def linked(self, operand: int, part: Part) -> bool:
        """Tell whether an axis of a part is an axis of a result."""
        return any(link.operand == operand and link.axis in part.axes for link in self.links)

    def pin_rest(self) -> None:
        """Pin all parts that come to no result and are read by nothing that sums over them."""
        node, spec, rule = self.node, self.spec, find(self.node)
        number = len(node.inputs)
        if isinstance(rule, Elementwise) and rule.operands is not None:
            number = rule.operands
        for operand, value in enumerate(node.inputs):
            if value is None or operand in spec.unread or operand >= number:
                continue
            for part in self.parts[operand]:
                if not self.linked(operand, part) and id(part) not in self.read:
                    self.cells.pin(part.cells, spec.reason or f"{node.op_type} needs the whole axis")
