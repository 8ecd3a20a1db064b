"""How wide each axis is made: which branches are held at their stream's width, which dead positions are kept.

The problem: axes that are coupled form *groups*. A group may keep just the positions that are needed, or so many dead
ones that their number is a multiple the target likes, and a branch may be *held* at the width of the stream it is added
to (no scatter, more channels) instead of scattered at the join. What a choice costs is said by the operators: a
convolution by the widths of its two sides, a join by whether its branch is scattered. So the costs are a sum of tables
over few groups each, whose least sum is found by elimination (``solve.py``), exactly for chains and residual streams.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from graphopt import dims
from graphopt.facts.constants import is_constant
from graphopt.facts.ops.contraction import Depthwise, Geometry, geometry, input_channels, live_inputs, weights_nonzero
from graphopt.plan.components import components
from graphopt.plan.cost import CostModel
from graphopt.plan.solve import Table, minimise

if TYPE_CHECKING:
    from graphopt.plan.classes import Plan, Track

UNKNOWN_SIZE = 32
"""What an axis of unknown size is taken for; the first axis, the batch, for one."""

SCOPE = 4
"""Groups that one table may depend on; an operator on more is counted with the others at their least width."""

NEVER = 99
"""Level of positions that no choice keeps."""


@dataclass(frozen=True, slots=True, eq=False)
class Branch:
    """One operand of a join that may be scattered into the stream, or computed at its width."""

    node: ir.Node
    out_axis: int
    track: Track
    stream: Track


@dataclass(slots=True)
class Group:
    """Axes of one width. Choice ``k < levels`` keeps the positions of level at most ``k``; the last may be to hold."""

    levels: int = 1
    branch: Branch | None = None
    extra: tuple[np.ndarray, ...] = ()
    """Dead classes (roots) that each level above 0 keeps in addition to the one below it."""

    @property
    def choices(self) -> int:
        """How many ways there are."""
        return self.levels + (self.branch is not None)


@dataclass(slots=True)
class Choice:
    """What was decided: branches to hold, and dead classes to keep (bool, by root)."""

    held: list[Branch]
    kept: np.ndarray


def choose(
    plan: Plan, origins: np.ndarray, roots: np.ndarray, keep: np.ndarray, branches: list[Branch], costs: CostModel
) -> Choice:
    """Return the cheapest widths.

    Args:
        plan: tracks and facts.
        origins: ``[classes]``: which axis a class number was made for.
        roots: ``[classes]``: the representative of each class.
        keep: ``[classes]`` (bool, by root): what has to be kept.
        branches: operands of joins that are scattered unless held.
        costs: of the target.
    """
    return Widths(plan, origins, roots, keep, branches, costs).choose()


class Widths:
    """The groups of one graph, their choices, and what these cost."""

    def __init__(
        self,
        plan: Plan,
        origins: np.ndarray,
        roots: np.ndarray,
        keep: np.ndarray,
        branches: list[Branch],
        costs: CostModel,
    ) -> None:
        self.plan, self.roots, self.keep, self.costs = plan, roots, keep, costs
        count = int(origins.max()) + 1 if origins.size else 0
        self.group_of = components(count, origins, origins[roots])[origins]  # by class number
        self.level = np.where(keep, 0, NEVER)  # by root
        self.groups: dict[int, Group] = {}
        self.parts: dict[int, list[tuple[int, np.ndarray]]] = {}
        self._hold(branches)
        self._align()

    # -- the choices --------------------------------------------------------------------------------------------------

    def _hold(self, branches: list[Branch]) -> None:
        for branch in branches:
            own = np.unique(self.group_of[branch.track.ids])
            if own.size != 1 or own[0] in self.group_of[branch.stream.ids] or branch.track.pinned:
                continue
            if (self._levels(branch.track.ids) == self._levels(branch.stream.ids)).all():
                continue  # they fit as they are
            group = self.groups.setdefault(int(own[0]), Group())
            if group.branch is None and not self._follows(branch.stream, int(own[0])):
                group.branch = branch

    def _follows(self, stream: Track, own: int) -> bool:
        """Tell whether a stream is as wide as a group through branches that may be held: then neither decides."""
        pending, seen = np.unique(self.group_of[stream.ids]).tolist(), set[int]()
        while pending:
            group = pending.pop()
            if group == own:
                return True
            known = self.groups.get(group)
            if group not in seen and known is not None and known.branch is not None:
                pending += np.unique(self.group_of[known.branch.stream.ids]).tolist()
            seen.add(group)
        return False

    def _align(self) -> None:
        """Offer multiples to groups that convolutions compute."""
        seen: set[int] = set()
        for node, spec in self.plan.facts.specs.items():
            if "Conv" not in node.op_type:
                continue
            for value, axis in ((node.inputs[0], 1), (node.outputs[0], 1)):
                track = None if value is None else self.plan.tracks.get((value, axis))
                if track is None or not track.ids.size or spec is None:
                    continue
                own = int(self.group_of[track.ids[0]])
                if own in seen:
                    continue
                seen.add(own)
                if (self.group_of[track.ids] == own).all():
                    self._offer(own, track)

    def _offer(self, own: int, track: Track) -> None:
        found = self.roots[track.ids]
        dead = np.unique(found[self.level[found] != 0])
        size, kept = track.ids.size, int((self.level[found] == 0).sum())
        unit = size // max(np.unique(found).size, 1)
        if not dead.size or not kept:
            return
        taken = 0
        extra: list[np.ndarray] = []
        for multiple in (self.costs.multiple, self.costs.lanes):
            more = -kept % multiple
            if more % unit or kept + more > size or more // unit <= taken:
                continue
            extra.append(dead[taken : more // unit])
            self.level[extra[-1]] = len(extra)
            taken = more // unit
        if extra:
            group = self.groups.setdefault(own, Group())
            group.levels, group.extra = len(extra) + 1, tuple(extra)

    # -- widths of axes -----------------------------------------------------------------------------------------------

    def _levels(self, ids: np.ndarray) -> np.ndarray:
        return self.level[self.roots[ids]]

    def _parts(self, track: Track) -> list[tuple[int, np.ndarray]]:
        """Return (group, positions kept at each level) of a track."""
        known = self.parts.get(id(track))
        if known is None:
            known = []
            groups = self.group_of[track.ids]
            for own in np.unique(groups):
                levels = self._levels(track.ids[groups == own])
                most = self.groups[int(own)].levels if int(own) in self.groups else 1
                known.append((int(own), np.array([(levels <= level).sum() for level in range(most)])))
            self.parts[id(track)] = known
        return known

    def _scope(self, tracks: list[Track | None]) -> list[int]:
        scope: list[int] = []
        pending = [track for track in tracks if track is not None]
        while pending:
            for own, _ in self._parts(pending.pop(0)):
                group = self.groups.get(own)
                if group is None or own in scope:
                    continue
                scope.append(own)
                if group.branch is not None:
                    pending.append(group.branch.stream)
        return scope[:SCOPE]

    def _width(self, track: Track | None, otherwise: int, scope: list[int]) -> np.ndarray:
        """Return the width of an axis for every combination of the choices of ``scope``."""
        shape = [self.groups[own].choices for own in scope]
        if track is None:
            return np.full(shape, otherwise)
        total = np.zeros(shape, np.int64)
        for own, counts in self._parts(track):
            if own not in scope:
                total = total + int(counts[0])
                continue
            group, place = self.groups[own], scope.index(own)
            line = [1] * len(scope)
            line[place] = group.levels
            part = np.broadcast_to(counts.reshape(line), [*shape[:place], group.levels, *shape[place + 1 :]])
            if group.branch is not None:
                wide = self._width(group.branch.stream, 0, scope).take([-1], axis=place)
                share = track.ids.size / group.branch.track.ids.size
                part = np.concatenate([part, (wide * share).astype(np.int64)], axis=place)
            total = total + part
        return total

    # -- costs --------------------------------------------------------------------------------------------------------

    def _tables(self) -> list[tuple[list[int], np.ndarray]]:
        found = []
        for node, spec in self.plan.facts.specs.items():
            geo = geometry(spec)
            out = node.outputs[0]
            if geo is not None:
                x = node.inputs[geo.x]
                if x is None:
                    continue
                tracks = [self.plan.tracks.get((x, geo.x_axis)), self.plan.tracks.get((out, geo.out_axis))]
                scope = self._scope(tracks)
                if scope:
                    found.append((scope, self._contraction(node, geo, tracks, scope)))
            elif isinstance(spec.extra, Depthwise):
                track = self.plan.tracks.get((out, 1))
                scope = self._scope([track])
                if scope:
                    wide = self._width(track, 0, scope)
                    found.append((scope, self.costs.depthwise(wide, window_taps(node, 0, 1), elements_at(out, 1))))
        for group in list(self.groups.values()):
            branch = group.branch
            if branch is None:
                continue
            scope = self._scope([branch.track, branch.stream])
            wide = self._width(branch.stream, 0, scope)
            cost = self.costs.scatter(wide, *spread(branch.node.outputs[0], branch.out_axis))
            held = [i for i, own in enumerate(scope) if self.groups[own] is group]
            cost = np.moveaxis(np.array(cost, np.float64), held[0], 0)
            cost[-1] = 0.0
            found.append((scope, np.moveaxis(cost, 0, held[0])))
        return found

    def _contraction(self, node: ir.Node, geo: Geometry, tracks: list[Track | None], scope: list[int]) -> np.ndarray:
        out = node.outputs[0]
        size = input_channels(node, geo) or UNKNOWN_SIZE
        sizes = dims.static(out)
        full = (sizes[geo.out_axis] if sizes is not None else None) or UNKNOWN_SIZE
        inputs = self._width(tracks[0], size, scope)
        outputs = self._width(tracks[1], full, scope)
        read = self._read(node, geo, size)
        wide, gathered = _both_ways(self.costs, node, geo, inputs, outputs, read)
        return np.where(inputs <= read, wide, np.minimum(wide, gathered))

    def _read(self, node: ir.Node, geo: Geometry, size: int) -> int:
        """Return how many positions of its input a contraction with constant weights reads."""
        facts, x = self.plan.facts, node.inputs[geo.x]
        assert x is not None
        nonzero = weights_nonzero(node, geo, facts)
        if nonzero is None or geo.groups > 1 or input_channels(node, geo) is None:
            return size
        live, _ = live_inputs(x, size, geo, facts)
        return int((nonzero[0].any(axis=0) & live).sum())

    # -- the least sum ------------------------------------------------------------------------------------------------

    def sizes(self) -> list[int]:
        """Return how many choices each group has."""
        return [group.choices for group in self.groups.values()]

    def choose(self) -> Choice:
        """Return the choice of the least sum."""
        if all(size == 1 for size in self.sizes()):
            return Choice([], np.zeros(self.keep.size, bool))
        number = {own: place for place, own in enumerate(self.groups)}
        tables = [Table(tuple(number[own] for own in scope), costs) for scope, costs in self._tables()]
        return self.decide(minimise(self.sizes(), tables))

    def decide(self, values: Sequence[int]) -> Choice:
        """Return what one value for each group means: branches to hold, and dead classes to keep."""
        kept = np.zeros(self.keep.size, bool)
        held = []
        for group, value in zip(self.groups.values(), values, strict=True):
            if value >= group.levels:
                assert group.branch is not None
                held.append(group.branch)
            else:
                for extra in group.extra[:value]:
                    kept[extra] = True
        return Choice(held, kept)


def contraction_gathers(costs: CostModel, node: ir.Node, geo: Geometry, outputs: int, read: int, present: int) -> bool:
    """Tell whether gathering ``read`` of ``present`` input positions is cheaper than multiplying the others by zero."""
    wide, gathered = _both_ways(costs, node, geo, np.asarray(present), np.asarray(outputs), read)
    return bool(gathered < wide)


def _both_ways(
    costs: CostModel, node: ir.Node, geo: Geometry, present: np.ndarray, outputs: np.ndarray, read: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return what a contraction costs with all inputs that are present, and with those it reads gathered before it."""
    x, out = node.inputs[geo.x], node.outputs[0]
    assert x is not None
    pixels, window = elements_at(out, geo.out_axis), window_taps(node, geo.w_in, geo.w_out)
    wide = contraction_cost(costs, node, present, outputs, window, pixels, geo.groups)
    narrow = contraction_cost(costs, node, np.minimum(present, read), outputs, window, pixels, geo.groups)
    return wide, narrow + costs.gather(read, *spread(x, geo.x_axis))


def depthwise_gathers(costs: CostModel, node: ir.Node, read: int, present: int, channels: int) -> bool:
    """Tell whether gathering ``read`` of ``present`` channels is cheaper than filtering all that are there.

    Both may be filled up with dead channels, of which there are ``channels`` in all.
    """
    x, out = node.inputs[0], node.outputs[0]
    assert x is not None
    pixels, taps = elements_at(out, 1), window_taps(node, 0, 1)

    def least(count: int) -> float:
        counts = {min(-(-count // to) * to, channels) for to in (1, costs.multiple, costs.lanes)}
        return min(float(costs.depthwise(each, taps, pixels)) for each in counts)

    return least(read) + float(costs.gather(read, *spread(x, 1))) < least(present)


def contraction_cost(
    costs: CostModel,
    node: ir.Node,
    inputs: np.ndarray,
    outputs: np.ndarray,
    window: int,
    pixels: int,
    groups: int,
) -> np.ndarray:
    """Return what a contraction costs: channels on both sides (of all groups), taps of its window, output positions."""
    if "Conv" in node.op_type:
        return groups * costs.convolution(inputs / groups, outputs / groups, window, pixels)
    return costs.product(inputs, outputs, pixels)


def elements_at(value: ir.Value, axis: int) -> int:
    """Return how many elements there are at one position of an axis."""
    count = 1
    for place, size in enumerate(dims.static(value) or ()):
        if place != axis:
            count *= (1 if place == 0 else UNKNOWN_SIZE) if size is None else max(size, 1)
    return count


def spread(value: ir.Value, axis: int) -> tuple[int, int]:
    """Return how many elements there are at one position of an axis, and how many of them lie side by side."""
    behind = 1
    for size in (dims.static(value) or ())[axis + 1 :]:
        behind *= UNKNOWN_SIZE if size is None else max(size, 1)
    return elements_at(value, axis), behind


def window_taps(node: ir.Node, w_in: int, w_out: int) -> int:
    """Return the taps of a convolution's window; one for products."""
    weight = next((v for v in node.inputs[1:2] if v is not None), None)
    if weight is None or "Conv" not in node.op_type or not is_constant(weight):
        return 1
    taps = 1
    for axis, size in enumerate(dims.static(weight) or ()):
        if axis not in (w_in, w_out):
            taps *= size or 1
    return taps
