"""What a node sums over: groups of positions, contractions, norms."""

from __future__ import annotations

import numpy as np

from graphopt import dims
from graphopt.facts.ops.layer_norm import first_axis, norm_of
from graphopt.facts.store import Group
from graphopt.plan.cells import Part, Read, Travel
from graphopt.plan.operands import Operands


class Sums:
    """Records what a node reads as a whole."""

    def __init__(self, of: Operands) -> None:
        self.of, self.cells, self.node, self.spec, self.geo = of, of.cells, of.node, of.spec, of.geo
        self.roles, self.parts, self.read = of.roles, of.parts, of.read

    def groups(self) -> None:
        """Tie what is numbered alike: the groups of a group norm, heads that share a key."""
        cells, node = self.cells, self.node
        if node.op_type in ("Expand", "Tile"):
            return
        for group in self.spec.groups:
            hub = cells.fresh(group.size)
            for operand, axis, numbers in group.inputs:
                value = node.inputs[operand]
                part = next((part for part in self.parts[operand] if axis in part.axes), None)
                inside = numbers >= 0
                if part is not None:
                    rows = np.moveaxis(part.cells, part.axes.index(axis), 0).reshape(numbers.size, -1)
                    cells.tie(rows[inside], np.broadcast_to(hub[numbers[inside], None], rows[inside].shape))
                    self.read.add(id(part))
                elif value is not None and not cells.is_free(value, axis) and not group.gathered:
                    cells.pin(hub, f"{node.op_type} keeps it with '{value.name}', which cannot be cut")
            self._through(group, hub)
            for position, axis, numbers in group.outputs:
                out, inside = node.outputs[position], numbers >= 0
                part = cells.parts.get(out, {}).get(axis)
                if part is None:
                    part = Part((axis,), cells.fresh(numbers.size))
                    cells.give(out, part)
                    source = hub[np.maximum(numbers, 0)].reshape(-1, 1)
                    cells.travels.append(Travel(part.cells, [("term", source)], inside))
                    cells.pin(part.cells[~inside], f"{node.op_type} makes it of nothing that can be cut")
                rows = np.moveaxis(part.cells, part.axes.index(axis), 0).reshape(numbers.size, -1)
                cells.tie(rows[inside], np.broadcast_to(hub[numbers[inside], None], rows[inside].shape))

    def _through(self, group: Group, hub: np.ndarray) -> None:
        """Where every number has as many positions of the one operand: zero if all of them are."""
        if len(group.inputs) != 1 or self.roles.get(group.inputs[0][0]) != "term":
            return
        operand, axis, numbers = group.inputs[0]
        part = next((part for part in self.parts[operand] if axis in part.axes), None)
        counts = np.bincount(numbers[numbers >= 0], minlength=group.size)
        if part is None or (numbers < 0).any() or (counts != counts[:1]).any():
            return
        rows = np.moveaxis(part.cells, part.axes.index(axis), 0).reshape(numbers.size, -1)
        sources = rows[np.argsort(numbers, kind="stable")].reshape(group.size, -1)
        self.cells.travels.append(Travel(hub, [("term", sources)], np.ones(group.size, bool)))

    def contract(self) -> None:
        """Note what is multiplied and summed, or summed alone."""
        node, spec, geo = self.node, self.spec, self.geo
        norm = norm_of(spec)
        if norm is not None:
            first = first_axis(node, dims.rank(node.inputs[0]) or 0)
            for operand in norm.addends:
                for part in self.parts[operand]:
                    if self.of.linked(operand, part) and all(axis >= first for axis in part.axes):
                        self._alone(operand, part)
            return
        if geo is not None:
            self._pair(geo.x, geo.x_axis, geo.w, geo.w_in, geo.groups if geo.w_in > geo.w_out else 1)
            return
        paired = set()
        for (a, a_axis), (b, b_axis) in spec.products:
            self._pair(a, a_axis, b, b_axis)
            paired |= {(a, a_axis), (b, b_axis)}
        grouped = {end[:2] for group in spec.groups for end in group.inputs}
        for operand, axis in spec.contracted:
            part = self._alone_on(operand, axis)
            if (operand, axis) not in paired | grouped and part is not None:
                self._alone(operand, part)

    def _alone_on(self, operand: int, axis: int) -> Part | None:
        """Return the part of an axis all of whose axes are read here: elsewhere a position is tied, not read."""
        part = next((part for part in self.parts[operand] if axis in part.axes), None)
        return None if part is None or self.of.linked(operand, part) else part

    def _alone(self, operand: int, part: Part) -> None:
        self.read.add(id(part))
        self.cells.reads.append(Read(part.cells.ravel(), self.node.inputs[operand] in self.cells.weights))

    def _pair(self, a: int, a_axis: int, b: int, b_axis: int, groups: int = 1) -> None:
        cells, node = self.cells, self.node
        ends = [(a, a_axis), (b, b_axis)]
        whole = [next((part for part in self.parts[place] if axis in part.axes), None) for place, axis in ends]
        parts = [self._alone_on(place, axis) for place, axis in ends]
        if all(part is not None and alone is None for part, alone in zip(whole, parts, strict=True)):
            return  # inside of what is linked: tied already
        for mine in (0, 1):
            part, value = parts[mine], node.inputs[ends[1 - mine][0]]
            if part is None or parts[1 - mine] is not None or value is None:
                continue
            if whole[1 - mine] is None and cells.is_free(value, ends[1 - mine][1]):
                self._alone(ends[mine][0], part)
            else:
                self.read.add(id(part))
                cells.pin(part.cells, f"it meets an axis of '{value.name}' that cannot be cut")
        first, second = parts
        if first is None or second is None:
            return
        self.read |= {id(first), id(second)}
        if len(first.axes) > 1 or len(second.axes) > 1:
            for part in (first, second):
                cells.pin(part.cells, f"{node.op_type} sums over several of its axes")
            return
        left, right = first.cells, np.tile(second.cells, groups)
        if left.size != right.size:
            for part in (first, second):
                cells.pin(part.cells, f"{node.op_type} reads it in groups of another size")
            return
        cells.tie(left, right)
        one, other = (node.inputs[place] in cells.weights for place in (a, b))
        cells.reads.append(Read(left, one, right, other))
