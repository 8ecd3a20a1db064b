"""Who forces positions to stay: the operator, or the graph output, behind a dead position that is still there.

Positions stay because something that shares their layout needs them. The search walks from a value along everything
that has the same layout, towards readers and writers, and stops at the first that has a reason of its own:

* an operator that graphopt has no rule for, or one that needs the axis whole;
* a convolution that pads with zeros, in front of which a constant is a plane of memory;
* a writer that is alive there, which the positions share a stream with;
* a graph output, or a body that reads the value.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np
import onnx_ir as ir

from graphopt import dims
from graphopt.facts.constants import is_constant
from graphopt.facts.ops.contraction import geometry
from graphopt.facts.rules import ELEMENTWISE_JOINS
from graphopt.facts.store import Facts, Mask, Spec
from graphopt.facts.walk import demands
from graphopt.model_check import source_line
from graphopt.plan.classes import Plan

FARTHEST = 64
"""Values that one search looks at; who is farther away is not named. It keeps the whole report linear."""

NAMED = 2
"""How many culprits are named."""


@dataclass(frozen=True)
class Culprit:
    """What forces positions to stay.

    Attributes:
        node: the operator; None where it is a graph output.
        reason: in words, the operator's name included.
    """

    node: ir.Node | None
    reason: str

    @property
    def line(self) -> str | None:
        """The user's own source line, where the exporter left it."""
        return None if self.node is None else source_line(self.node)

    def __str__(self) -> str:
        return f"{self.reason} ({self.line})" if self.line else self.reason


def called(node: ir.Node) -> str:
    """Operator and name; where it has none, the name of what it makes."""
    if node.name:
        return f"{node.op_type} {node.name}"
    return f"{node.op_type} of {node.outputs[0].name}" if node.outputs else node.op_type


def unforced(facts: Facts) -> Facts:
    """The facts without the demands that a plan added: what is kept for company counts as not needed."""
    if not facts.forced:
        return facts
    plain = replace(facts, forced={}, demand={}, physical={})
    demands(plain)
    return plain


def culprits(facts: Facts, plan: Plan | None, value: ir.Value, axis: int, positions: Mask) -> list[Culprit]:
    """Return who forces some positions of an axis to stay, the nearest (two) first; empty where nobody was found.

    Args:
        facts: as ``unforced`` gives them.
        plan: whose layouts keep the positions; None: they are gone, and who reads them whole again is asked.
        value: the value whose positions they are.
        axis: one of its axes.
        positions: ``[n]`` (bool), dead or unread, and kept.
    """
    return list(islice(_Search(facts, plan).run(value, axis, positions), NAMED))


class _Search:
    def __init__(self, facts: Facts, plan: Plan | None) -> None:
        self.facts = facts
        self.plan = plan
        self.seen: dict[tuple[ir.Value, int], Mask] = {}
        self.pending: deque[tuple[ir.Value, int, Mask]] = deque()

    def run(self, value: ir.Value, axis: int, positions: Mask) -> Iterator[Culprit]:
        named: set[tuple[int, str]] = set()
        self.push(value, axis, positions)
        while self.pending and len(self.seen) <= FARTHEST:
            for found in self.look(*self.pending.popleft()):
                key = id(found.node), found.reason
                if key not in named:
                    named.add(key)
                    yield found

    def push(self, value: ir.Value | None, axis: int, positions: Mask) -> None:
        """Visit a value next, as far as its layout keeps the positions."""
        known = dims.static(value)
        if value is None or known is None or axis >= len(known) or known[axis] != positions.size:
            return
        kept = None if self.plan is None else self.plan.layout(value).get(axis)
        if kept is not None:
            positions = positions & np.isin(np.arange(positions.size), kept)
        before = self.seen.get((value, axis))
        fresh = positions if before is None else positions & ~before
        if fresh.any():
            self.seen[value, axis] = fresh if before is None else fresh | before
            self.pending.append((value, axis, fresh))

    def look(self, value: ir.Value, axis: int, positions: Mask) -> Iterator[Culprit]:
        facts = self.facts
        alive = positions & facts.needed(value, axis, positions.size)
        planes = facts.physical.get(value, {}).get(axis)
        if planes is not None:
            alive &= ~planes
        if alive.any():
            yield self.writer(value, axis, alive)
            return
        if value.is_graph_output():
            yield Culprit(None, f"graph output {value.name}")
        if value in facts.captured:
            yield from self.bodies(value)
        for use in value.uses():
            yield from self.reader(use.node, use.idx, axis, positions)
        producer = value.producer()
        spec = None if producer is None else facts.specs.get(producer)
        if self.plan is not None and producer is not None and spec is not None:
            out = producer.outputs.index(value)
            self.upwards(producer, spec, out, axis, positions)

    def writer(self, value: ir.Value, axis: int, alive: Mask) -> Culprit:
        """Follow a value that is alive to the operator that makes it so."""
        for _ in range(FARTHEST):
            producer = value.producer()
            spec = None if producer is None else self.facts.specs.get(producer)
            if producer is None or spec is None:
                break
            source = None
            for link in spec.of_output(producer.outputs.index(value), axis):
                operand = _live(producer, link.operand)
                size = None if operand is None else (dims.static(operand) or ())[link.axis]
                if operand is None or size is None:
                    continue
                there = _back(link.index, alive, size)
                dead = self.facts.dead_axes(operand).get(link.axis)
                if dead is not None:
                    there = there & ~dead.mask
                if there.any():
                    source = operand, link.axis, there
            if source is None:
                break
            value, axis, alive = source
        producer = value.producer()
        if producer is None:
            return Culprit(None, f"input {value.name} is alive there, and shares a stream with it")
        return Culprit(producer, f"{called(producer)} is alive there, and shares a stream with it")

    def bodies(self, value: ir.Value) -> Iterator[Culprit]:
        for node in self.facts.graph:
            if any(attribute.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)
                   for attribute in node.attributes.values()) and _reads_inside(node, value):  # fmt: skip
                yield Culprit(node, f"a body of {called(node)} reads it")

    def reader(self, node: ir.Node, operand: int, axis: int, positions: Mask) -> Iterator[Culprit]:
        """Name a reader that stops the positions, or go on behind it."""
        facts = self.facts
        spec = facts.specs.get(node)
        if not any(out in facts.demand for out in node.outputs):
            return  # read by nobody
        if spec is None:
            yield Culprit(node, f"{called(node)}: no rule for this operator (or this use of it), so it reads all of it")
            return
        if operand in spec.unread:
            return
        value = node.inputs[operand]
        planes = None if value is None else facts.physical.get(value, {}).get(axis)
        planes = np.zeros_like(positions) if planes is None else planes & positions
        if (operand, axis) in spec.contracted:
            if planes.any():
                yield _pads(node)
            geo = geometry(spec)
            if geo is not None and geo.groups > 1 and operand == geo.x:
                yield Culprit(node, f"{called(node)} has {geo.groups} groups, which keep equally many inputs")
            for pair in spec.products:
                for other_operand, other_axis in pair:
                    if other_operand != operand and (operand, axis) in pair:
                        self.push(_live(node, other_operand), other_axis, positions)
            return
        passed = False
        for link in spec.of_operand(operand):
            if link.axis != axis:
                continue
            passed = True
            out = node.outputs[link.out]
            if (link.out, link.out_axis) in spec.pinned:
                yield Culprit(node, f"{called(node)} keeps the axis whole: {spec.reason or 'an operand is broadcast'}")
                continue
            mixed = _downwards(link.index, planes)
            dead = facts.dead_axes(out).get(link.out_axis)
            if dead is not None and mixed.any():
                mixed = mixed & ~dead.mask
            if mixed.any() and node.op_type not in ELEMENTWISE_JOINS:
                yield _pads(node)
                continue
            self.push(out, link.out_axis, _downwards(link.index, positions))
            if node.op_type in ELEMENTWISE_JOINS:
                yield from self.join(node, spec, operand, link.out, link.out_axis, positions)
        for block in spec.blocks:
            if operand == 0 and axis in block.ins:
                passed = True
                yield from self.block(node, block.sizes, block.ins, block.outs, axis, positions)
        for group in spec.groups:
            for other, own_axis, numbers in group.inputs:
                if (other, own_axis) == (operand, axis):
                    passed = True
                    chosen = np.unique(numbers[positions & (numbers >= 0)])
                    self.group(node, group.inputs, node.inputs, chosen)
                    self.group(node, group.outputs, node.outputs, chosen)
        if not passed:
            yield Culprit(node, f"{called(node)} needs axis {axis} whole: {spec.reason or 'unrelated to its outputs'}")

    def join(
        self, node: ir.Node, spec: Spec, operand: int, out: int, out_axis: int, positions: Mask
    ) -> Iterator[Culprit]:
        """An operand of a join that cannot be narrowed holds the others at its width."""
        if self.plan is None or (node.outputs[out], out_axis) in self.plan.tracks:
            return
        for link in spec.of_output(out, out_axis):
            other = _live(node, link.operand)
            if other is not None and link.operand != operand and (other, link.axis) not in self.plan.tracks:
                writer = other.producer()
                what = f"input {other.name}" if writer is None else called(writer)
                yield Culprit(node, f"{called(node)} joins it with {what}, which is whole")

    def block(
        self, node: ir.Node, sizes: tuple[int, ...], ins: tuple[int, ...], outs: tuple[int, ...], axis: int,
        positions: Mask,
    ) -> Iterator[Culprit]:  # fmt: skip
        out = node.outputs[0]
        if len(ins) > 1:
            grid = np.zeros(sizes, bool)
            np.moveaxis(grid, ins.index(axis), 0)[positions] = True
            targets = [(outs[0], grid.ravel())]
        else:
            grid = positions.reshape(sizes)
            rest = [tuple(other for other in range(len(sizes)) if other != place) for place in range(len(sizes))]
            targets = [(outs[place], np.asarray(grid.all(axis=rest[place]))) for place in range(len(sizes))]
        if self.plan is not None and not any((out, target) in self.plan.tracks for target, _ in targets):
            yield Culprit(node, f"{called(node)}: the positions fill no whole part of what it splits or merges")
            return
        for target, mask in targets:
            self.push(out, target, mask)

    def group(self, node: ir.Node, ends: object, values: object, chosen: np.ndarray) -> None:
        for operand, axis, numbers in ends:  # type: ignore[attr-defined]
            value = values[operand]  # type: ignore[index]
            if value is not None and not is_constant(value):
                self.push(value, axis, np.isin(numbers, chosen))

    def upwards(self, node: ir.Node, spec: Spec, out: int, axis: int, positions: Mask) -> None:
        """Go on to the operands that share the layout of an output."""
        for link in spec.of_output(out, axis):
            operand = _live(node, link.operand)
            size = None if operand is None else (dims.static(operand) or ())[link.axis]
            if operand is None or size is None:
                continue
            self.push(operand, link.axis, _back(link.index, positions, size))


def _pads(node: ir.Node) -> Culprit:
    return Culprit(node, f"{called(node)} pads with zeros, in front of which a nonzero constant is a plane of its own")


def _live(node: ir.Node, operand: int) -> ir.Value | None:
    value = node.inputs[operand]
    return None if value is None or is_constant(value) else value


def _downwards(index: np.ndarray | None, positions: Mask) -> Mask:
    if index is None:
        return positions
    return np.asarray((index >= 0) & positions[np.maximum(index, 0)])


def _back(index: np.ndarray | None, positions: Mask, size: int) -> Mask:
    if index is None:
        return positions
    mask = np.zeros(size, bool)
    mask[index[positions & (index >= 0)]] = True
    return mask


def _reads_inside(node: ir.Node, value: ir.Value) -> bool:
    from graphopt.subgraphs import subgraphs, within

    return any(
        value in inner.inputs or value in graph.outputs
        for body in subgraphs(node)
        for graph in within(body)
        for inner in graph
    )
