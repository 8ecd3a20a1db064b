"""Cells of what a node computes: tied to those of its operands, position by position."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from graphopt import dims
from graphopt.facts.ops.contraction import Depthwise
from graphopt.facts.store import Link
from graphopt.plan.cells import Part, Product, Travel
from graphopt.plan.operands import Operands

SUMS = frozenset({"Add", "Sub", "Sum"})
WEIGHTED = {"Conv": "convolution", "ConvTranspose": "convolution", "Gemm": "linear", "MatMul": "linear"}


@dataclass(slots=True, eq=False)
class _Source:
    """What one part of one operand brings to some axes of an output: ``[sizes of axes…, r]``, -1 where nothing."""

    operand: int
    axes: tuple[int, ...]
    cells: np.ndarray


class Results:
    """Makes the cells of a node's results."""

    def __init__(self, of: Operands) -> None:
        self.cells, self.node, self.spec, self.geo = of.cells, of.node, of.spec, of.geo
        self.roles, self.links, self.parts = of.roles, of.links, of.parts

    def make(self, position: int, out: ir.Value) -> None:
        """Give a result its cells."""
        known = dims.static(out)
        if known is None:
            for parts in self.parts:
                for part in parts:
                    self.cells.pin(part.cells, f"of what {self.node.op_type} makes of it nothing is known")
            return
        links = [link for link in self.links if link.out == position and known[link.out_axis]]
        sources: list[_Source] = []
        for operand, parts in enumerate(self.parts):
            by_axis = {link.axis: link for link in links if link.operand == operand}
            for part in parts:
                if any(axis in by_axis for axis in part.axes):
                    sources.append(self._source(operand, part, by_axis, known))
        done: set[int] = set()
        for axis, size in enumerate(known):
            if axis in done or size is None:
                continue
            together = _overlapping(axis, sources)
            done.update(axis for each in together for axis in each.axes)
            if together:
                self._join(out, position, together, links, known)
            else:
                mine = [link for link in links if link.out_axis == axis]
                values = [(value, link.axis) for link in mine if (value := self.node.inputs[link.operand]) is not None]
                copied = self.node.op_type in ("Expand", "Tile") and not mine
                if copied or (values and all(self.cells.is_free(*each) for each in values)):
                    self.cells.free_axes.add((out, axis))

    def _source(self, operand: int, part: Part, by_axis: Mapping[int, Link], known: tuple[int | None, ...]) -> _Source:
        linked = [axis for axis in part.axes if axis in by_axis]
        order = [part.axes.index(axis) for axis in (*linked, *(a for a in part.axes if a not in by_axis))]
        cells = part.cells.transpose(order)
        cells = cells.reshape(*cells.shape[: len(linked)], -1)
        for place, axis in enumerate(linked):
            index = by_axis[axis].index
            if index is not None:
                cells = cells.take(np.maximum(index, 0), axis=place)
                if (index < 0).any():
                    cells = cells.copy()
                    np.moveaxis(cells, place, 0)[index < 0] = -1
        return _Source(operand, tuple(by_axis[axis].out_axis for axis in linked), cells)

    def _join(
        self,
        out: ir.Value,
        position: int,
        sources: list[_Source],
        links: list[Link],
        known: tuple[int | None, ...],
    ) -> None:
        cells, node = self.cells, self.node
        axes = max((each.axes for each in sources), key=len)
        if {axis for each in sources for axis in each.axes} != set(axes) or any(known[axis] is None for axis in axes):
            for each in sources:
                cells.pin(each.cells[each.cells >= 0], f"{node.op_type} joins its axes in several ways")
            return
        shape = [size for axis in axes if (size := known[axis]) is not None]
        made = Part(axes, cells.fresh(*shape))
        cells.give(out, made)
        travel = Travel(made.cells.ravel(), [], np.ones(made.cells.size, bool))
        shown: set[int] = set()
        for each in sources:
            spread = self._spread(each, made)
            if spread is None:
                continue
            shown.add(each.operand)
            flat = spread.reshape(made.cells.size, -1)
            here = flat >= 0
            cells.tie(flat[here], np.broadcast_to(made.cells.reshape(-1, 1), flat.shape)[here])
            role = self.roles.get(each.operand, "given")
            if role != "given":
                travel.sources.append((role, flat))
        self._against(travel, shown, made, links, known)
        cells.travels.append(travel)
        for link in links:
            value = node.inputs[link.operand]
            if link.out_axis in axes and value is not None:
                owned = any(link.axis in part.axes for part in self.parts[link.operand])
                if not owned and not cells.is_free(value, link.axis):
                    self._keep(made, link.out_axis, f"it meets an axis of '{value.name}' that cannot be cut")
        for axis in axes:
            if (position, axis) in self.spec.pinned:
                self._keep(made, axis, f"{node.op_type} broadcasts it by sizes that are not known")
        self._mark(made, axes, sources)

    def _spread(self, source: _Source, made: Part) -> np.ndarray | None:
        """Return the source's cells ``[…, r]`` at every cell of the part; None where it is pinned instead."""
        if set(source.axes) == set(made.axes):
            return source.cells.transpose([*(source.axes.index(axis) for axis in made.axes), -1])
        inside = [made.axes.index(axis) for axis in source.axes]
        if made.axes[0] not in source.axes:
            # A factor inside of the leading one: that is the one whose positions leave, each with all of these.
            self.cells.pin(source.cells[source.cells >= 0], "it is a factor inside of another axis' positions")
            self._tie_along(made, inside)
            return None
        shape = [1] * len(made.axes)
        for place, at in enumerate(inside):
            shape[at] = source.cells.shape[place]
        ordered = source.cells.transpose([*np.argsort(inside), -1])
        return np.broadcast_to(ordered.reshape(*shape, -1), (*made.cells.shape, ordered.shape[-1]))

    def _tie_along(self, made: Part, places: list[int]) -> None:
        """Let what differs in these axes only have one fate."""
        rows = np.moveaxis(made.cells, places, range(len(places)))
        rows = rows.reshape(-1, *rows.shape[len(places) :])
        self.cells.tie(np.broadcast_to(rows[:1], rows.shape), rows)

    def _keep(self, made: Part, axis: int, reason: str) -> None:
        """Let an axis stay as wide as it is: a factor inside of another can do so while positions of that leave."""
        if axis == made.axes[0]:
            self.cells.pin(made.cells, reason)
        else:
            self._tie_along(made, [made.axes.index(axis)])

    def _against(
        self, travel: Travel, shown: set[int], made: Part, links: list[Link], known: tuple[int | None, ...]
    ) -> None:
        """Find the positions that a term without cells keeps from being zero, and those that no operand holds."""
        covered = np.zeros(travel.out.size, bool)
        factors = False
        for role, flat in travel.sources:
            factors |= role == "factor"
            if role == "term":
                covered |= (flat >= 0).all(axis=1)
        for operand, role in self.roles.items():
            value = self.node.inputs[operand] if operand < len(self.node.inputs) else None
            if role != "term" or operand in shown or value is None:
                continue
            zero, held = self._known_zero(value, operand, made, links)
            covered |= held
            travel.possible &= zero
        if not factors and self.node.op_type != "Pad":
            travel.possible &= covered

    def _known_zero(
        self, value: ir.Value, operand: int, made: Part, links: list[Link]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return (zero or elsewhere, held here), each ``[n]``, of an operand without cells on the part's axes."""
        count = made.cells.size
        ones = np.ones(count, bool)
        mine = [link for link in links if link.operand == operand and link.out_axis in made.axes]
        index = mine[0].index if len(mine) == 1 else None
        held = ones
        if index is not None:
            place = made.axes.index(mine[0].out_axis)
            shape = [-1 if at == place else 1 for at in range(len(made.axes))]
            held = np.broadcast_to((index >= 0).reshape(shape), made.cells.shape).ravel()
        known = self.cells.facts.along(value, None, 1) if value in self.cells.free else None
        zero = known is not None and not known[1].any()
        if not zero and value in self.cells.free and len(mine) == 1 and len(made.axes) == 1:
            size = (dims.static(value) or ())[mine[0].axis]
            found = None if size is None else self.cells.facts.along(value, mine[0].axis, size)
            if found is not None:
                line = found[0] & (found[1] == 0)
                line = line if index is None else line[np.maximum(index, 0)]
                return (line & held) | ~held, held
        return (ones if zero else ~held), held

    def _mark(self, made: Part, axes: tuple[int, ...], sources: list[_Source]) -> None:
        cells, node, geo = self.cells, self.node, self.geo
        computed = {each.operand for each in sources if node.inputs[each.operand] not in cells.weights}
        if node.op_type in SUMS and len(computed) > 1:
            cells.sums.append(made.cells)
        if node.op_type in ("Softmax", "Attention", "MultiHeadAttention"):
            cells.softmaxes.append(made.cells)
        if node.op_type == "Gather" and node.inputs[0] in cells.weights and node.inputs[1] not in cells.free:
            cells.tables.append(made.cells)
        kind = WEIGHTED.get(node.op_type)
        weights = [place for place, value in enumerate(node.inputs[:2]) if value in cells.weights]
        if kind is not None and not weights:
            cells.products.append(Product(node, "computed", None, made.cells))
        if kind is not None and len(weights) == 1 and any(each.operand == weights[0] for each in sources):
            other = 1 - weights[0]
            axis = self._contracted_axis(other)
            inputs = None
            if isinstance(self.spec.extra, Depthwise):
                inputs = made.cells
            elif axis is not None:
                inputs = next((part.cells for part in self.parts[other] if part.axes == (axis,)), None)
            cells.products.append(Product(node, kind, inputs, made.cells))
        if geo is not None and geo.groups > 1 and geo.out_axis in axes and len(axes) == 1:
            known = (dims.static(node.inputs[geo.x]) or ())[geo.x_axis]
            if known != geo.groups:
                rows = made.cells.reshape(geo.groups, -1)
                cells.tie(np.broadcast_to(rows[:1], rows.shape), rows)

    def _contracted_axis(self, operand: int) -> int | None:
        if self.geo is not None:
            return self.geo.x_axis if operand == self.geo.x else None
        for pair in self.spec.products:
            for place, axis in pair:
                if place == operand:
                    return axis
        return None


def _overlapping(axis: int, sources: list[_Source]) -> list[_Source]:
    """Return the sources that come to an axis, and those that share an axis with one of them."""
    axes, found = {axis}, list[_Source]()
    while True:
        more = [each for each in sources if each not in found and axes.intersection(each.axes)]
        if not more:
            return found
        found += more
        axes.update(axis for each in more for axis in each.axes)
