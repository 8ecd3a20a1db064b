"""Which positions share one fate, and the layouts that follow.

Every static axis that could be narrowed carries one *class* number a position. Operators that pass positions through
pass the numbers on; operators that move positions move the numbers; a reshape or a product of two live operands makes
classes equal. A class is kept if any of its members is needed. The layout of a value is then the list of its kept
positions, and values that share classes have layouts that fit without any gather or scatter.

Elementwise operators of several live operands (*joins*) are where classes are deliberately not made equal: a branch
that is narrower than the stream it is added to keeps its own classes and is scattered at the join. ``trunk`` is the
operand that shares the stream's classes: a stream has at most one scatter a join.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import onnx_ir as ir

from graphopt import dims
from graphopt.facts.constants import is_constant
from graphopt.facts.ops.contraction import Geometry, geometry
from graphopt.facts.rules import ELEMENTWISE_JOINS
from graphopt.facts.store import Block, Facts, Group, Link, Spec, sizes_only
from graphopt.facts.walk import demands
from graphopt.plan.components import components
from graphopt.plan.cost import CostModel
from graphopt.plan.coupled import coupled
from graphopt.plan.grouped import output_classes, tie
from graphopt.plan.norms import kept_for_norms
from graphopt.plan.planes import choose_planes
from graphopt.plan.widths import Branch, choose, depthwise_gathers

Layout = dict[int, np.ndarray]
"""Axis → sorted kept positions. An axis that is absent is whole."""

Kind = Literal["smallest", "fastest"]

MOSTLY = 0.75
"""A join with a value that cannot be narrowed is narrowed itself only if it needs at most this share of positions."""


@dataclass(slots=True, eq=False)
class Track:
    """The class numbers of one axis's positions, shared by reference while they pass through operators."""

    ids: np.ndarray
    stream: bool = False
    settled: bool = False
    """Some positions were filled in by a scatter or a pad that is already in the graph."""
    pinned: bool = False
    needed: np.ndarray | None = None
    """What the values that share this track have been found to need so far."""


@dataclass(slots=True)
class Plan:
    """The layouts of one graph's values."""

    facts: Facts
    kind: Kind
    costs: CostModel = field(default_factory=CostModel)
    masked_norms: bool = False
    """A LayerNorm that lost positions will be one runtime operator."""
    tracks: dict[tuple[ir.Value, int], Track] = field(default_factory=dict)
    layouts: dict[ir.Value, Layout] = field(default_factory=dict)

    def layout(self, value: ir.Value) -> Layout:
        """Return the kept positions of a value, by axis; empty when the value stays whole."""
        return self.layouts.get(value, {})


class _Classes:
    """Numbers and their equalities."""

    def __init__(self) -> None:
        self.count = 0
        self.starts: list[int] = []
        self.pairs: list[tuple[np.ndarray, np.ndarray]] = []
        self.pinned: list[np.ndarray] = []
        self.branches: list[Branch] = []
        """Operands of joins that are scattered unless the plan holds them at the stream's width."""

    def fresh(self, size: int) -> np.ndarray:
        self.starts.append(self.count)
        ids = np.arange(self.count, self.count + size)
        self.count += size
        return ids

    def equal(self, a: np.ndarray, b: np.ndarray) -> None:
        if a is not b:
            self.pairs.append((a, b))

    def pin(self, ids: np.ndarray) -> None:
        self.pinned.append(ids)

    def roots(self) -> np.ndarray:
        """Return the representative of every number."""
        if not self.pairs:
            return np.arange(self.count)
        a = np.concatenate([np.ravel(pair[0]) for pair in self.pairs])
        b = np.concatenate([np.ravel(pair[1]) for pair in self.pairs])
        return components(self.count, a, b)

    def origins(self) -> np.ndarray:
        """Return for every number which call of ``fresh`` it came from."""
        sizes = np.diff([*self.starts, self.count])
        return np.repeat(np.arange(sizes.size), sizes)


def make_plan(
    facts: Facts,
    kind: Kind = "fastest",
    *,
    joins: bool = True,
    align: int = 1,
    costs: CostModel | None = None,
    masked_norms: bool = False,
) -> Plan:
    """Choose the layouts.

    Args:
        facts: the facts of the graph; demands may be strengthened (``facts.forced``) so that every position that the
            plan keeps physically holds the right value.
        kind: ``smallest`` never widens a weight to avoid a scatter; ``fastest`` chooses by cost.
        joins: whether elementwise operators of several live operands may run on narrowed values at all.
        align: keep dead positions until the number of kept ones is a multiple of this.
        costs: of the target; default: those of an unknown CPU. ``smallest`` does not look at them.
        masked_norms: whether a LayerNorm that lost positions will be one runtime operator.
    """
    plan = Plan(facts, kind, costs=costs or CostModel(), masked_norms=masked_norms)
    if not facts.anything():
        return plan
    classes = _Classes()
    for node in facts.graph:
        spec = facts.specs.get(node)
        _pin_whole(node, spec, plan, classes)
        if spec is None:
            continue
        _visit(node, spec, plan, classes, joins)
    for (value, _), track in plan.tracks.items():
        if (value in facts.captured and value not in facts.sunk) or (
            track.settled and value.is_graph_output()
        ):  # read by name inside a subgraph
            classes.pin(track.ids)
    if not plan.tracks:
        return plan
    roots = classes.roots()
    if choose_planes(plan, roots, lambda: _keep(plan, classes, roots)):
        return make_plan(
            facts, kind, joins=joins, align=align, costs=costs, masked_norms=masked_norms
        )  # less is needed
    extra = np.zeros(classes.count, bool)
    if kind == "fastest" and align == 1:
        needed = _keep(plan, classes, roots)
        extra = kept_for_norms(plan, roots, needed)
        choice = choose(plan, classes.origins(), roots, needed | extra, classes.branches, plan.costs)
        for branch in choice.held:
            classes.equal(branch.track.ids, branch.stream.ids)
        extra |= choice.kept
        if choice.held:
            before, roots = roots, classes.roots()
            kept, extra = extra, np.zeros(classes.count, bool)
            extra[roots[before[kept.nonzero()[0]]]] = True
    while True:
        keep = _keep(plan, classes, roots) | extra
        for (value, _), track in plan.tracks.items():
            if track.ids.size and not keep[roots[track.ids]].any() and (value.uses() or value.is_graph_output()):
                keep[roots[track.ids[0]]] = True  # no operator computes nothing; ``fold-dead`` removes such values
        if align > 1:
            _align(plan, roots, keep, align)
        if not _force(plan, roots, keep):
            break
        demands(facts)
    for (value, axis), track in plan.tracks.items():
        kept = keep[roots[track.ids]]
        if not kept.all():
            plan.layouts.setdefault(value, {})[axis] = np.flatnonzero(kept)
    return plan


def _keep(plan: Plan, classes: _Classes, roots: np.ndarray) -> np.ndarray:
    """Return which classes have to be kept (bool, by root): those with a member that is needed or pinned."""
    keep = np.zeros(classes.count, bool)
    for ids in classes.pinned:
        keep[roots[ids]] = True
    for (value, axis), track in plan.tracks.items():
        needed = plan.facts.needed(value, axis, track.ids.size)
        keep[roots[track.ids[needed]]] = True
    return keep


def _align(plan: Plan, roots: np.ndarray, keep: np.ndarray, align: int) -> None:
    seen: set[int] = set()
    for track in plan.tracks.values():
        if id(track) in seen:
            continue
        seen.add(id(track))
        kept = keep[roots[track.ids]]
        missing = min(-kept.sum() % align, (~kept).sum())
        if missing:
            keep[roots[track.ids[np.flatnonzero(~kept)[:missing]]]] = True


def _force(plan: Plan, roots: np.ndarray, keep: np.ndarray) -> bool:
    """Demand what is kept but not demanded: every present position holds the right value. True when that is news."""
    facts = plan.facts
    news = False
    for (value, axis), track in plan.tracks.items():
        partial = facts.demand.get(value)
        if partial is not None and axis not in partial:
            continue
        missing = keep[roots[track.ids]] & ~facts.demanded(value, axis, track.ids.size)
        if partial is None or not missing.any():
            continue  # a value that nobody reads is removed, not repaired
        have = facts.forced.get((value, axis))
        facts.forced[value, axis] = missing if have is None else have | missing
        news = True
    return news


def _pin_whole(node: ir.Node, spec: Spec | None, plan: Plan, classes: _Classes) -> None:
    """A scatter right in front of an operator that needs the whole axis stays where it is."""
    for operand, value in enumerate(node.inputs):
        if value is None:
            continue
        for axis in range(dims.rank(value) or 0):
            track = plan.tracks.get((value, axis))
            if track is None or not track.settled:
                continue
            passed = spec is not None and (
                operand in spec.unread
                or (operand, axis) in spec.contracted
                or any(link.axis == axis for link in spec.of_operand(operand))
                or any((operand, axis) == end[:2] for group in spec.groups for end in group.inputs)
            )
            if not passed:
                classes.pin(track.ids)


def _visit(node: ir.Node, spec: Spec, plan: Plan, classes: _Classes, joins: bool) -> None:
    for out_position, out in enumerate(node.outputs):
        known = dims.static(out)
        if known is None or sizes_only(out):
            continue
        for axis, size in enumerate(known):
            if size is None or size == 0:
                continue
            links = spec.of_output(out_position, axis)
            if not links:
                continue
            if (out_position, axis) in spec.pinned:
                _pin_operands(node, links, plan, classes)
                continue
            track = _track_of_axis(node, links, out, axis, size, plan, classes, joins)
            if track is not None:
                plan.tracks[out, axis] = track
                needed = plan.facts.needed(out, axis, size)
                track.needed = needed if track.needed is None else track.needed | needed
    for block in spec.blocks:
        _reshape(node, block, plan, classes)
    for pair in spec.products:
        _product(node, pair, plan, classes)
    for group in spec.groups:
        _group(node, group, plan, classes)


def _track_of_axis(
    node: ir.Node, links: list[Link], out: ir.Value, axis: int, size: int, plan: Plan, classes: _Classes, joins: bool
) -> Track | None:
    spec = plan.facts.specs[node]
    constants = plan.facts.constants
    moved = [link for link in links if link.index is not None and not constants.known(node.inputs[link.operand])]
    if moved:
        if node.op_type == "Conv" and _leaves_stream(node, moved[0], out, size, plan):
            return Track(classes.fresh(size))
        if node.op_type == "Gather" and moved[0].repeats(plan.facts.dead_axes(node.inputs[0]).get(moved[0].axis)):
            return Track(classes.fresh(size))
        return _moved(node, moved, size, plan, classes)
    live: list[tuple[ir.Value, Track | None]] = []
    for link in links:
        value = node.inputs[link.operand]
        if value is not None and not plan.facts.constants.known(value):
            live.append((value, plan.tracks.get((value, link.axis))))
    if not live:
        geo = geometry(spec)
        if geo is not None and geo.groups > 1 and axis == geo.out_axis:
            return _in_groups(node, geo, plan.facts.needed(out, axis, size), plan, classes)
        if not spec.at_source:
            return None
        # Constants expanded at run time cost nothing: they stay as wide as an output or a barrier wants them.
        return Track(classes.fresh(size), settled=node.op_type == "Expand")
    if len(live) == 1:
        return live[0][1]
    return _join(node, live, out, axis, size, plan, classes, joins)


def _in_groups(node: ir.Node, geo: Geometry, needed: np.ndarray, plan: Plan, classes: _Classes) -> Track:
    """Return a new track for the outputs of a grouped convolution; its inputs are tied likewise."""
    x = node.inputs[geo.x]
    source = None if x is None else plan.tracks.get((x, geo.x_axis))
    if x is not None and source is not None and not source.pinned:
        read = plan.facts.needed(x, geo.x_axis, source.ids.size).reshape(geo.groups, -1)
        tie(source.ids.reshape(geo.groups, -1), read, np.any(needed.reshape(geo.groups, -1), axis=1), classes)
    return Track(output_classes(needed, geo.groups, classes))


def _leaves_stream(node: ir.Node, link: Link, out: ir.Value, size: int, plan: Plan) -> bool:
    """Tell whether a depthwise convolution should gather its channels from a stream that keeps more of them."""
    value = node.inputs[0]
    assert value is not None
    source = plan.tracks.get((value, link.axis))
    needed = plan.facts.needed(out, 1, size)
    channels = (dims.static(value) or (None, None))[1]
    assert channels is not None and link.index is not None
    kept = np.unique(link.index[needed]).size
    present = channels if source is None or source.needed is None else int(source.needed.sum())
    if plan.kind == "smallest" or kept >= present:
        return kept < present
    return depthwise_gathers(plan.costs, node, kept, present, channels)


def _join(
    node: ir.Node,
    live: list[tuple[ir.Value, Track | None]],
    out: ir.Value,
    axis: int,
    size: int,
    plan: Plan,
    classes: _Classes,
    joins: bool,
) -> Track | None:
    tracks = [track for _, track in live if track is not None]
    if not tracks:
        return None
    if node.op_type not in ELEMENTWISE_JOINS:
        # No cut inside products, concatenations and the like: all operands keep the same positions.
        if len(tracks) < len(live):
            for track in tracks:
                classes.pin(track.ids)
            return None
        for track in tracks[1:]:
            classes.equal(tracks[0].ids, track.ids)
        return tracks[0]
    if not joins:
        return None
    needed = plan.facts.needed(out, axis, size)
    whole = len(tracks) < len(live)
    streams = [track for track in tracks if track.stream or track.settled or track.pinned]
    if whole and needed.mean() > MOSTLY:
        stream = Track(classes.fresh(size), stream=True, pinned=True)
        classes.pin(stream.ids)
    else:
        stream = Track(streams[0].ids if streams else classes.fresh(size), stream=True)
    for other in streams:
        classes.equal(stream.ids, other.ids)
    classes.branches += [Branch(node, axis, track, stream) for track in tracks if track not in streams]
    return stream


def _moved(node: ir.Node, links: list[Link], size: int, plan: Plan, classes: _Classes) -> Track:
    ids = np.full(size, -1)
    settled = False
    for link in links:
        value = node.inputs[link.operand]
        assert value is not None and link.index is not None
        if is_constant(value) or _overwritten(node, link, plan):
            continue
        source = plan.tracks.get((value, link.axis))
        if source is None:
            known = dims.static(value)
            assert known is not None and known[link.axis] is not None
            source = Track(classes.fresh(known[link.axis] or 0), pinned=True)
            classes.pin(source.ids)
            plan.tracks[value, link.axis] = source
        settled |= source.settled
        here = link.index >= 0
        ids[here] = source.ids[link.index[here]]
    missing = ids < 0
    if missing.any():
        ids[missing] = classes.fresh(int(missing.sum()))
    return Track(ids, settled=settled or bool(missing.any()))


def _overwritten(node: ir.Node, link: Link, plan: Plan) -> bool:
    """Tell whether a link brings nothing but the fills of a canonical scatter: they are written anew where wanted."""
    if node.op_type != "ScatterND" or link.operand != 0:
        return False
    dead = plan.facts.dead_axes(node.inputs[0]).get(link.axis)
    return dead is not None and bool(dead.mask.all())


def _pin_operands(node: ir.Node, links: list[Link], plan: Plan, classes: _Classes) -> None:
    for link in links:
        value = node.inputs[link.operand]
        track = None if value is None else plan.tracks.get((value, link.axis))
        if track is not None:
            classes.pin(track.ids)


def _product(node: ir.Node, pairs: tuple[tuple[int, int], ...], plan: Plan, classes: _Classes) -> None:
    """The contracted axes of two live operands keep the same positions."""
    tracks = []
    for operand, axis in pairs:
        value = node.inputs[operand]
        if value is not None and plan.facts.constants.known(value):
            return  # a constant is cut like its partner
        tracks.append(None if value is None else plan.tracks.get((value, axis)))
    if tracks[0] is not None and tracks[1] is not None:
        classes.equal(tracks[0].ids, tracks[1].ids)
        return
    for track in tracks:
        if track is not None:
            classes.pin(track.ids)


def _group(node: ir.Node, group: Group, plan: Plan, classes: _Classes) -> None:
    """Everything that has a number of the group shares one class with all that has the same number."""
    ids = classes.fresh(group.size)
    untracked = False
    for operand, axis, numbers in group.inputs:
        value = node.inputs[operand]
        if value is None or plan.facts.constants.known(value):
            continue  # a constant is cut to fit
        track = plan.tracks.get((value, axis))
        if track is None:
            untracked |= not group.gathered
            continue
        inside = numbers >= 0
        classes.equal(track.ids[inside], ids[numbers[inside]])
    for position, axis, numbers in group.outputs:
        out = node.outputs[position]
        track = plan.tracks.get((out, axis))
        if track is None:
            own = ids[np.maximum(numbers, 0)]
            outside = numbers < 0
            own[outside] = classes.fresh(int(outside.sum()))
            plan.tracks[out, axis] = Track(own)
        else:
            inside = numbers >= 0
            classes.equal(track.ids[inside], ids[numbers[inside]])
    if untracked:
        classes.pin(ids)


def _reshape(node: ir.Node, block: Block, plan: Plan, classes: _Classes) -> None:
    """Merged axes inherit from the one factor that can be narrowed; a split axis gives one of its parts.

    Where a merged axis would keep what it shares its layout with from being narrowed, it has a layout of its own.
    """
    value, out = node.inputs[0], node.outputs[0]
    assert value is not None
    if block.merges:
        tracks = [plan.tracks.get((value, axis)) for axis in block.ins]
        gains = []
        for axis, size, track in zip(block.ins, block.sizes, tracks, strict=True):
            gains.append(0 if track is None else size - int(plan.facts.needed(value, axis, size).sum()))
        best = int(np.argmax([gain / size for gain, size in zip(gains, block.sizes, strict=True)]))
        total = int(np.prod(block.sizes))
        left = total - gains[best] * (total // block.sizes[best])
        if int(plan.facts.needed(out, block.outs[0], total).sum()) < left and coupled(out, block.outs[0], plan.facts):
            # Grouped queries: each factor is needed whole, but not each pair. The pairs are gathered behind.
            plan.tracks[out, block.outs[0]] = Track(classes.fresh(total))
            return
        for place, track in enumerate(tracks):
            if track is not None and (place != best or not gains[best]):
                classes.pin(track.ids)
        chosen = tracks[best]
        if gains[best] and chosen is not None:
            shape = [-1 if place == best else 1 for place in range(len(block.sizes))]
            ids = np.broadcast_to(chosen.ids.reshape(shape), block.sizes).ravel()
            plan.tracks[out, block.outs[0]] = Track(ids, chosen.stream, chosen.settled)
        return
    source = plan.tracks.get((value, block.ins[0]))
    if source is None:
        return
    needed = plan.facts.needed(value, block.ins[0], source.ids.size).reshape(block.sizes)
    unused = []
    for place in range(len(block.sizes)):
        rest = tuple(i for i in range(len(block.sizes)) if i != place)
        unused.append(float((~needed.any(axis=rest)).mean()))
    best = int(np.argmax(unused))
    if not unused[best]:
        classes.pin(source.ids)
        return
    grid = np.moveaxis(source.ids.reshape(block.sizes), best, 0).reshape(block.sizes[best], -1)
    ids = classes.fresh(block.sizes[best])
    classes.equal(np.broadcast_to(ids[:, None], grid.shape), grid)
    plan.tracks[out, block.outs[best]] = Track(ids, source.stream, source.settled)
