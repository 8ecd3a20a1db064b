"""Selection and replacement by indices: Gather, GatherND, GatherElements, ScatterND, ScatterElements.

Axes that the indices do not name pass through. An axis that constant indices name is moved by them, or read in part.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from graphopt import dims
from graphopt.facts.constants import is_constant
from graphopt.facts.ops.movement import Mover, normal
from graphopt.facts.rules import rule, select_forward, through_links
from graphopt.facts.store import Facts, Link, Spec


@dataclass(frozen=True, slots=True)
class Lookup:
    """Constant positions of an axis that a Gather reads, in the shape of its indices (not a vector)."""

    axis: int
    positions: np.ndarray


@rule("Gather")
class Gather(Mover):
    """``out[..., j, ...] = in[..., index[j], ...]``; an embedding keeps the other axes of its table."""

    def spec(self, node: ir.Node, facts: Facts) -> Spec | None:
        data, index = node.inputs[0], node.inputs[1]
        known, index_rank, out = dims.static(data), dims.rank(index), dims.static(node.outputs[0])
        if known is None or index_rank is None or out is None:
            return None
        axis = normal(node.attributes.get_int("axis", 0), len(known))
        links = [Link(0, i, 0, i) for i in range(axis)]
        links += [Link(0, i, 0, i + index_rank - 1) for i in range(axis + 1, len(known))]
        size = known[axis]
        reason = "Gather with indices that are not constant"
        chosen = facts.constants.array(index) if facts.constants.known(index) else None
        if chosen is None and index is not None and not is_constant(index):
            links += [Link(1, i, 0, axis + i) for i in range(index_rank)]
        if chosen is None or size is None:
            return Spec(links, reason=reason, at_source=True)
        positions = chosen.astype(np.int64)
        if positions.size and not (-size <= positions.min() and positions.max() < size):
            return Spec(links, reason=reason, at_source=True)
        positions = np.where(positions < 0, positions + size, positions)
        if index_rank == 1:
            links.append(Link(0, axis, 0, axis, positions))
            return Spec(links, reason=reason, at_source=True)
        return Spec(links, ((0, axis),), reason=reason, at_source=True, extra=Lookup(axis, positions))

    def backward(self, node: ir.Node, spec: Spec, facts: Facts) -> None:
        value = node.inputs[0]
        known = dims.static(value)
        if not isinstance(spec.extra, Lookup) or value is None or known is None or is_constant(value):
            through_links(node, spec, facts)
            _repeated_planes(node, spec, facts)
            return
        axis = spec.extra.axis
        wanted = np.zeros(known[axis] or 0, bool)
        wanted[spec.extra.positions] = True
        through_links(node, spec, facts, {0: {axis: wanted}} if not wanted.all() else None)
        dead = facts.dead_axes(value).get(axis)
        if dead is not None and facts.demand.get(node.outputs[0]) is not None:
            facts.need_physically(value, axis, wanted & dead.mask)


def _repeated_planes(node: ir.Node, spec: Spec, facts: Facts) -> None:
    """Positions that are read more than once may outlive one another (see ``Link.repeats``): what is read is there."""
    value, out = node.inputs[0], node.outputs[0]
    for link in spec.of_operand(0):
        dead = facts.dead_axes(value).get(link.axis)
        if (
            link.index is None
            or not link.repeats(dead)
            or dead is None
            or value is None
            or facts.demand.get(out) is None
        ):
            continue
        wanted = np.zeros(dead.mask.size, bool)
        wanted[link.index[facts.demanded(out, link.out_axis, link.index.size)]] = True
        facts.need_physically(value, link.axis, wanted & dead.mask)


@rule("GatherND")
class GatherND(Mover):
    """``out[b, j, ...] = in[b, index[b, j], ...]``: what the indices do not name passes through."""

    def spec(self, node: ir.Node, facts: Facts) -> Spec | None:
        data, index = dims.static(node.inputs[0]), dims.static(node.inputs[1])
        out = dims.rank(node.outputs[0])
        if data is None or index is None or not index or index[-1] is None or out is None:
            return None
        named = node.attributes.get_int("batch_dims", 0) + index[-1]
        front = out - (len(data) - named)
        links = [Link(0, axis, 0, axis - named + front) for axis in range(named, len(data))]
        rows = facts.constants.array(node.inputs[1]) if facts.constants.known(node.inputs[1]) else None
        if named == 1 and len(index) == 2 and rows is not None and data[0] is not None:
            # One index a row: ``x[:, [3, 1]]`` of torch, behind a transpose.
            positions = rows[:, 0].astype(np.int64)
            if bool(((positions >= -data[0]) & (positions < data[0])).all()):
                links.append(Link(0, 0, 0, 0, np.where(positions < 0, positions + data[0], positions)))
        return Spec(links, reason="GatherND reads this axis by index", at_source=True)


def _aligned(node: ir.Node, axis: int, operands: tuple[int, ...], facts: Facts) -> list[Link] | None:
    """Return links along the other axes of ``operands`` where they are as large as the output.

    ``None`` unless the indices are constant, or copies along these axes: those that are computed one by one are needed
    whole, wherever they are written from.
    """
    out = dims.sizes(node.outputs[0])
    if out is None or not (facts.constants.known(node.inputs[1]) or _copied(node.inputs[1], axis)):
        return None
    links = []
    for other, size in enumerate(out):
        mine = [Link(operand, other, 0, other) for operand in operands]
        known = [dims.sizes(node.inputs[operand]) for operand in operands]
        if other != axis and all(own is not None and dims.provably_equal(own[other], size) for own in known):
            links += mine
    return links


def _copied(index: ir.Value | None, axis: int) -> bool:
    """Tell whether indices are the same for all positions of the other axes: a vector that was expanded."""
    producer = None if index is None else index.producer()
    if producer is None or producer.op_type != "Expand":
        return False
    own, wide = dims.sizes(producer.inputs[0]), dims.rank(index)
    if own is None or wide is None:
        return False
    return all(size == 1 or place + wide - len(own) == axis for place, size in enumerate(own))


def _neutral(reduction: str, data: np.ndarray, updates: np.ndarray) -> np.ndarray:
    """Return where a constant stays what it is, however often the other is added to it (multiplied with it, ...)."""
    if reduction == "add":
        return updates == 0
    if reduction == "mul":
        return (updates == 1) | ((data == 0) & np.isfinite(updates))
    return updates <= data if reduction == "max" else updates >= data


def _accumulated(node: ir.Node, spec: Spec, facts: Facts, reduction: str) -> None:
    """Record where the data are constant, and what is accumulated onto them changes nothing."""
    data, updates, out = node.inputs[0], node.inputs[2], node.outputs[0]
    assert data is not None and updates is not None
    known = dims.static(out)
    for link in spec.of_operand(0):
        size = None if known is None else known[link.out_axis]
        other = next((one for one in spec.of_operand(2) if one.out_axis == link.out_axis), None)
        if size is None or other is None:
            continue
        onto, added = facts.along(data, link.axis, size), facts.along(updates, other.axis, size)
        if onto is not None and added is not None:
            facts.set_dead(out, link.out_axis, onto[0] & added[0] & _neutral(reduction, onto[1], added[1]), onto[1])


@rule("GatherElements")
class GatherElements(Mover):
    """``out[i, j] = in[index[i, j], j]``; constant indices are cut along the other axes."""

    def spec(self, node: ir.Node, facts: Facts) -> Spec | None:
        rank = dims.rank(node.inputs[0])
        if rank is None:
            return None
        axis = normal(node.attributes.get_int("axis", 0), rank)
        links = _aligned(node, axis, (0, 1), facts)
        return Spec(links or [], reason="GatherElements reads this axis by index", at_source=True)

    def forward(self, node: ir.Node, spec: Spec, facts: Facts) -> None:
        for link in spec.of_operand(0):
            dead = facts.dead_axes(node.inputs[0]).get(link.axis)
            if dead is not None:
                facts.set_dead(node.outputs[0], link.out_axis, dead.mask, dead.fill)


@rule("ScatterElements")
class ScatterElements(Mover):
    """``out = in; out[index[i, j], j] = updates[i, j]``; constant or expanded indices are cut along the other axes.

    With a reduction, ``out[index[i, j], j] += updates[i, j]``: where zeros are added to a constant, it stays.
    """

    def spec(self, node: ir.Node, facts: Facts) -> Spec | None:
        rank = dims.rank(node.inputs[0])
        if rank is None:
            return None
        axis = normal(node.attributes.get_int("axis", 0), rank)
        links = _aligned(node, axis, (0, 1, 2), facts)
        return Spec(links or [], reason="ScatterElements writes this axis by index", at_source=True)

    def forward(self, node: ir.Node, spec: Spec, facts: Facts) -> None:
        reduction = node.attributes.get_string("reduction", "none")
        if reduction != "none":
            _accumulated(node, spec, facts, reduction)
            return
        written = Spec([link for link in spec.links if link.operand != 1])
        select_forward(node, written, facts)


@rule("ScatterND")
class ScatterND(Mover):
    """Rows of ``updates`` at indices of the leading axes, rows of ``data`` elsewhere; the other axes pass through.

    With a reduction, rows are added (multiplied, ...) there: where zeros are added to a constant, it stays.
    """

    def spec(self, node: ir.Node, facts: Facts) -> Spec | None:
        data, index, updates = node.inputs[:3]
        known, rows, places = dims.static(data), dims.static(updates), dims.static(index)
        if known is None or rows is None or not known or not places or places[-1] is None:
            return None
        reason = "ScatterND overwrites rows"
        named, front = places[-1], len(places) - 1
        links: list[Link] = []
        out = dims.sizes(node.outputs[0])
        for operand, value, shift in ((0, data, 0), (2, updates, front - named)):
            value_sizes = dims.sizes(value)
            assert value_sizes is not None
            links += [
                Link(operand, axis + shift, 0, axis)
                for axis in range(named, len(known))
                if out is not None and dims.provably_equal(value_sizes[axis + shift], out[axis])
            ]
        plain = node.attributes.get_string("reduction", "none") == "none"
        moved = self._rows(node, facts) if plain else None
        if moved is not None:
            links += moved
        return Spec(links, reason=reason, at_source=True)

    def forward(self, node: ir.Node, spec: Spec, facts: Facts) -> None:
        reduction = node.attributes.get_string("reduction", "none")
        if reduction == "none":
            super().forward(node, spec, facts)
        else:
            _accumulated(node, spec, facts, reduction)

    @staticmethod
    def _rows(node: ir.Node, facts: Facts) -> list[Link] | None:
        """Return links of the first axis where each row is written at most once, at a constant place."""
        data, index, updates = node.inputs[:3]
        known, rows = dims.static(data), dims.static(updates)
        chosen = facts.constants.array(index) if facts.constants.known(index) else None
        if known is None or rows is None or known[0] is None or len(known) != len(rows) or chosen is None:
            return None
        if chosen.ndim != 2 or chosen.shape[1] != 1 or rows[0] != chosen.shape[0]:
            return None
        flat = chosen[:, 0].astype(np.int64)
        flat = np.where(flat < 0, flat + known[0], flat)
        if np.unique(flat).size != flat.size or bool(((flat < 0) | (flat >= known[0])).any()):
            return None
        from_updates = np.full(known[0], -1)
        from_updates[flat] = np.arange(flat.size)
        from_data = np.where(from_updates < 0, np.arange(known[0]), -1)
        return [Link(0, 0, 0, 0, from_data), Link(2, 0, 0, 0, from_updates)]
