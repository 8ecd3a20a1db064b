"""In which order positions lie: so that what a scatter writes, and what a gather reads, is one range.

Along an axis that weights make and weights read, the order of positions is free. A scatter into such an axis is a
``Pad`` where its positions lie side by side in the order in which the branch has them, a gather from it a ``Slice``.
The order is found by refining an ordered partition: each set, the most expensive first, is either laid side by side by
splitting the cells at its two ends, or given up. Two sets always fit; more fit unless they cross.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from graphopt import dims
from graphopt.facts.constants import is_constant
from graphopt.facts.ops.contraction import geometry
from graphopt.facts.ops.elementwise import BatchNormalization, Elementwise
from graphopt.facts.ops.movement import pads_of
from graphopt.facts.ops.pooling import Pool
from graphopt.facts.rules import find
from graphopt.facts.store import Facts, Spec

End = tuple[ir.Value, int]
"""One axis of one value."""


@dataclass(frozen=True, slots=True, eq=False)
class Move:
    """A gather or a scatter: ``out[i] = source[index[i]]`` along an axis, zeros where the index is ``-1``."""

    node: ir.Node
    pad: ir.Node | None
    """What appends the zeros in front of a Gather."""
    source: ir.Value
    out: ir.Value
    axis: int
    index: np.ndarray

    @property
    def scatters(self) -> bool:
        """Tell whether it writes all of its source between zeros, rather than reading some of it."""
        return bool((self.index < 0).any())

    @property
    def simple(self) -> bool:
        """Tell whether it is one range: a Pad or a Slice."""
        inside = np.flatnonzero(self.index >= 0)
        return inside.size < 2 or bool((np.diff(inside) == 1).all() and (np.diff(self.index[inside]) == 1).all())


@dataclass(slots=True)
class Orders:
    """Axes to be permuted: position ``i`` shall hold what position ``perm[i]`` held."""

    moves: list[Move] = field(default_factory=list)
    perms: dict[End, np.ndarray] = field(default_factory=dict)

    def of(self, value: ir.Value, axis: int) -> np.ndarray | None:
        """Return the permutation of an axis; ``None`` where it stays."""
        return self.perms.get((value, axis))

    def index(self, move: Move) -> np.ndarray:
        """Return what a move's index becomes."""
        index = move.index
        out, source = self.of(move.out, move.axis), self.of(move.source, move.axis)
        if out is not None:
            index = index[out]
        if source is not None:
            index = np.where(index < 0, -1, np.argsort(source)[np.maximum(index, 0)])
        return index


def choose_orders(facts: Facts, moves: list[Move]) -> Orders:
    """Return permutations by which more of the moves are ranges than now; none where that cannot be had."""
    orders = Orders(moves)
    if all(move.simple or _shown(move) for move in moves):
        return orders
    axes = _Axes(facts, moves)
    for host in axes.hosts():
        axes.arrange(host)
    for end in axes.parent:
        perm = axes.perms.get(axes.root(end))
        if perm is not None:
            orders.perms[end] = perm
    return orders


def _shown(move: Move) -> bool:
    """Tell whether the axis that would have to be ordered is one that a user sees."""
    host = move.out if move.scatters else move.source
    return host.is_graph_output() or host.is_graph_input()


def find_moves(facts: Facts, role: str) -> list[Move]:
    """Return the gathers and scatters that carry a role's mark, with constant indices along an axis of known size."""
    found = []
    for node in facts.graph:
        if role in node.metadata_props and (move := _move(node, facts)) is not None:
            found.append(move)
    return found


def _move(node: ir.Node, facts: Facts) -> Move | None:
    spec = facts.specs.get(node)
    source, out = node.inputs[0], node.outputs[0]
    if spec is None or source is None or is_constant(source):
        return None
    moved = [link for link in spec.links if link.index is not None and link.operand == 0]
    if len(moved) != 1 or moved[0].axis != moved[0].out_axis or dims.rank(source) != dims.rank(out):
        return None
    axis, index = moved[0].axis, moved[0].index
    assert index is not None
    pad = source.producer() if node.op_type == "Gather" else None
    if pad is not None and pad.op_type == "Pad" and len(list(source.uses())) == 1 and not source.is_graph_output():
        rank = dims.rank(source) or 0
        pads, inner = pads_of(pad, rank, facts), pad.inputs[0]
        size = None if inner is None else (dims.static(inner) or (None,) * rank)[axis]
        if inner is None or size is None or is_constant(inner) or pads is None or not _only_behind(pads, axis, rank):
            return None
        if pad not in facts.specs or not isinstance(facts.specs[pad].extra, list):
            return None
        index = np.where(index < size, index, -1)
        move = Move(node, pad, inner, out, axis, index)
    else:
        size = (dims.static(source) or (None,))[axis]
        move = Move(node, None, source, out, axis, index)
    used = np.sort(move.index[move.index >= 0])
    if size is None or np.unique(used).size != used.size or (move.scatters and used.size != size):
        return None
    return move


def _only_behind(pads: list[int], axis: int, rank: int) -> bool:
    return all(pad == 0 for place, pad in enumerate(pads) if place != rank + axis) and pads[rank + axis] > 0


class _Axes:
    """Axes that have one order, and what is known about each class of them."""

    def __init__(self, facts: Facts, moves: list[Move]) -> None:
        self.facts, self.moves = facts, moves
        self.parent: dict[End, End] = {}
        self.pinned: set[End] = set()
        self.perms: dict[End, np.ndarray] = {}
        self._couple()
        self.fixed = {self.root(end) for end in self.pinned}

    def root(self, end: End) -> End:
        """Return the axis that stands for all that share its order."""
        parent = self.parent
        while (above := parent.setdefault(end, end)) != end:
            parent[end] = parent.setdefault(above, above)
            end = above
        return end

    def _join(self, a: End, b: End) -> None:
        a, b = self.root(a), self.root(b)
        if a != b:
            self.parent[a] = b

    def _couple(self) -> None:
        """One walk: what an operator passes through is one order, what it does not understand stays as it is."""
        own = {move.node for move in self.moves} | {move.pad for move in self.moves}
        for value in (*self.facts.graph.inputs, *self.facts.graph.outputs, *self.facts.captured):
            self._pin(value)
        if self.facts.around is not None:  # a body: what it reads from outside is not its to reorder
            for value in {value for node in self.facts.graph for value in node.inputs}:
                if value is not None and value.graph is not self.facts.graph and not is_constant(value):
                    self._pin(value)
        for move in self.moves:
            for axis in range(dims.rank(move.out) or 0):
                if axis != move.axis:
                    self._join((move.source, axis), (move.out, axis))
        for node in self.facts.graph:
            if node in own:
                continue
            spec = self.facts.specs.get(node)
            if spec is None or not _permutes(node, spec):
                for value in (*node.inputs, *node.outputs):
                    if value is not None and not is_constant(value):
                        self._pin(value)
                continue
            self._through(node, spec)

    def _through(self, node: ir.Node, spec: Spec) -> None:
        geo = geometry(spec)
        free = set() if geo is None else {(geo.x, geo.x_axis)}
        linked: set[tuple[int, int]] = set()
        for link in spec.links:
            value, out = node.inputs[link.operand], (node.outputs[link.out], link.out_axis)
            linked.add((link.operand, link.axis))
            if value is None:
                continue
            if not is_constant(value):
                self._join((value, link.axis), out)
            elif len(list(value.uses())) > 1 and (self.facts.constants.size(value) or 2) > 1:
                self.pinned.add(out)  # a constant of several readers would become several
        for out, axis in spec.pinned:
            self.pinned.add((node.outputs[out], axis))
        reached = {(link.out, link.out_axis) for link in spec.links}
        for place, out in enumerate(node.outputs):
            for axis in range(dims.rank(out) or 0):
                if (place, axis) not in reached:
                    self.pinned.add((out, axis))
        for operand, value in enumerate(node.inputs):
            if value is None:
                continue
            shared = operand == (None if geo is None else geo.w) and len(list(value.uses())) > 1
            for axis in range(dims.rank(value) or 0):
                if not is_constant(value) and (operand, axis) not in linked and (operand, axis) not in free:
                    self.pinned.add((value, axis))
            if shared and geo is not None and (x := node.inputs[geo.x]) is not None:
                self.pinned.add((x, geo.x_axis))

    def _pin(self, value: ir.Value) -> None:
        for axis in range(dims.rank(value) or 0):
            self.pinned.add((value, axis))

    # -- orders -------------------------------------------------------------------------------------------------------

    def hosts(self) -> Iterator[End]:
        """Yield the axes that may be ordered for their moves, those with most to gain first."""
        gains: dict[End, float] = {}
        for move in self.moves:
            host, _ = self._ends(move)
            if host not in self.fixed:
                gains[host] = gains.get(host, 0.0) + (0.0 if move.simple else _weight(move))
        yield from (host for host, gain in sorted(gains.items(), key=lambda item: -item[1]) if gain)

    def _ends(self, move: Move) -> tuple[End, End]:
        """Return (host, guest): the axis that a move writes into or reads from, and the one that fits itself to it."""
        out, source = self.root((move.out, move.axis)), self.root((move.source, move.axis))
        return (out, source) if move.scatters else (source, out)

    def arrange(self, host: End) -> None:
        """Order one axis and the guests of its moves, if more of them are ranges then."""
        if host in self.perms:
            return
        mine = [move for move in self.moves if self._ends(move)[0] == host]
        near = [move for move in self.moves if host in self._ends(move)]
        guests = [self._ends(move)[1] for move in mine]
        size = dims.static(host[0])
        if size is None or size[host[1]] is None:
            return
        cells = [np.arange(size[host[1]] or 0)]
        for move, guest in sorted(zip(mine, guests, strict=True), key=lambda pair: -_weight(pair[0])):
            if guest == host or guest in self.fixed or guest in self.perms or guests.count(guest) > 1:
                continue
            cells = _refine(cells, _positions(move)) or cells
        before = {end: self.perms.get(end) for end in (host, *guests)}
        had = self._gained(near, guests)
        self.perms[host] = np.concatenate(cells)
        for move, guest in zip(mine, guests, strict=True):
            if guest == host or guest in self.fixed or guest in self.perms or guests.count(guest) > 1:
                continue
            self.perms[guest] = _fitting(move, self.perms[host])
        if self._gained(near, guests) <= had:
            for end, perm in before.items():
                if perm is None:
                    self.perms.pop(end, None)

    def _gained(self, near: list[Move], guests: list[End]) -> float:
        """Return what is saved by the moves that are ranges, of all that these axes take part in."""
        ends = {*guests}
        orders = Orders()
        total = 0.0
        for move in self.moves:
            host, guest = self._ends(move)
            if move not in near and host not in ends and guest not in ends:
                continue
            for end in ((move.out, move.axis), (move.source, move.axis)):
                perm = self.perms.get(self.root(end))
                if perm is not None:
                    orders.perms[end] = perm
            index = orders.index(move)
            if Move(move.node, move.pad, move.source, move.out, move.axis, index).simple:
                total += _weight(move)
        return total


def _permutes(node: ir.Node, spec: Spec) -> bool:
    """Tell whether an operator does not mind in which order positions come."""
    if any(link.index is not None for link in spec.links) or spec.blocks or spec.groups or spec.products:
        return False
    geo = geometry(spec)
    if geo is not None:
        weight = node.inputs[geo.w]
        if weight is None or not is_constant(weight):  # integers behind DequantizeLinear
            return False
        return geo.groups == 1 and node.op_type in ("Conv", "Gemm", "MatMul") and node.domain in ("", "ai.onnx")
    return isinstance(find(node), Elementwise | BatchNormalization | Pool)


def _weight(move: Move) -> float:
    count = float(move.index.size)
    for axis, size in enumerate(dims.static(move.out) or ()):
        if axis != move.axis:
            count *= size or 1
    return count


def _positions(move: Move) -> np.ndarray:
    """Return the positions of the host that a move writes or reads."""
    return np.flatnonzero(move.index >= 0) if move.scatters else move.index


def _fitting(move: Move, host: np.ndarray) -> np.ndarray:
    """Return the order of the guest in which a move goes through the host's positions from the first to the last."""
    if move.scatters:
        order = move.index[host]
        return order[order >= 0]
    return np.argsort(np.argsort(host)[move.index], kind="stable")


def _refine(cells: list[np.ndarray], wanted: np.ndarray) -> list[np.ndarray] | None:
    """Split cells so that the wanted positions lie side by side; ``None`` where the order of the cells forbids it."""
    inside = [np.isin(cell, wanted) for cell in cells]
    touched = [place for place, part in enumerate(inside) if part.any()]
    if not touched:
        return cells
    first, last = touched[0], touched[-1]
    if any(not inside[place].all() for place in range(first + 1, last)):
        return None
    result = cells[:first]
    for place in range(first, last + 1):
        yes, no = cells[place][inside[place]], cells[place][~inside[place]]
        # What is not wanted lies before the first and behind the last of the cells that are.
        parts = (no, yes) if place == first and first != last else (yes, no)
        result += [part for part in parts if part.size]
    return result + cells[last + 1 :]
