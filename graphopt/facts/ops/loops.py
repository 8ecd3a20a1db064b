"""Loop and Scan: what holds of a state before the first iteration, and is kept by every iteration, holds behind it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from graphopt import dims
from graphopt.facts.constants import is_constant
from graphopt.facts.ops.control import is_read, source
from graphopt.facts.rules import Rule, rule
from graphopt.facts.store import Dead, Facts, Link, Mask, Spec, sizes_only
from graphopt.subgraphs import subgraphs

LIMIT = 12
"""Iterations after which a fixed point that has not been reached is given up: then nothing is known."""

Known = dict[ir.Value, dict[int, Dead]]


@dataclass(frozen=True, slots=True)
class State:
    """A value that one iteration hands to the next."""

    operand: int
    out: int
    given: ir.Value
    """The body's input."""
    made: int
    """Which of the body's outputs is the next state."""
    axes: tuple[tuple[int, int], ...]
    """(axis, size) that are known to stay the same."""


@dataclass(frozen=True, slots=True)
class Slices:
    """A value that is cut along one axis, a slice an iteration (Scan's inputs), or put together so (outputs)."""

    place: int
    """The node's operand, or its output."""
    inner: int
    """The body's input, or its output."""
    axes: tuple[tuple[int, int, int], ...]
    """(axis, the body's axis, size) of the axes that are not cut."""


@dataclass(frozen=True, slots=True)
class Iterated:
    """What a Loop or a Scan does, and the facts of its body."""

    body: Facts
    states: tuple[State, ...]
    read: tuple[Slices, ...]
    collected: tuple[Slices, ...]
    dead: Known
    """Dead positions of the body's inputs, in every iteration."""


class _Iterates(Rule):
    """A state's position is dead where ``f(initial) = c`` and the body makes ``c`` of ``c``: the greatest fixed point.

    It is unread where nobody behind reads it and the body does not need it for a position that is read: the least
    fixed point. No iteration at all leaves the initial values, and nothing collected, for which all this is true, too.
    """

    def parts(self, node: ir.Node, body: ir.Graph) -> tuple[list[State], list[Slices], list[Slices]] | None:
        """Return states, slices that are read, slices that are collected."""
        raise NotImplementedError

    def spec(self, node: ir.Node, facts: Facts) -> Spec | None:
        """Analyse the body with the most that may be true of its states, and with less until it is."""
        from graphopt.facts.walk import analyse_body

        bodies = list(subgraphs(node))
        parts = self.parts(node, bodies[0]) if len(bodies) == 1 else None
        if parts is None:
            return None
        states, read, collected = parts
        known = _before(node, states, read, facts)
        for _ in range(LIMIT):
            inner = analyse_body(bodies[0], facts, known)
            if not _weaken(states, known, inner):
                break
        else:
            known = {}
            inner = analyse_body(bodies[0], facts, known)
        facts.bodies[bodies[0]] = inner
        links = [
            Link(state.operand, axis, state.out, axis)
            for state in states
            for axis, _ in state.axes
            if _drops(state.given, axis, inner)
        ]
        contracted = tuple(
            (part.place, axis)
            for part in read
            for axis, own, _ in part.axes
            if not is_constant(node.inputs[part.place]) and _drops(inner.graph.inputs[part.inner], own, inner)
        )
        groups = tuple(
            source(part.place, axis, size)
            for part in collected
            if is_read(node.outputs[part.place])
            for axis, _, size in part.axes
        )
        reason = f"the body of the {node.op_type} reads it whole, or hands on another size"
        iterated = Iterated(inner, tuple(states), tuple(read), tuple(collected), known)
        return Spec(links, contracted, groups=groups, at_source=True, reason=reason, extra=iterated)

    def forward(self, node: ir.Node, spec: Spec, facts: Facts) -> None:
        """Record what is true of the states, and of what every iteration collects."""
        parts = spec.extra
        assert isinstance(parts, Iterated)
        for state in parts.states:
            for axis, found in parts.dead.get(state.given, {}).items():
                facts.set_dead(node.outputs[state.out], axis, found.mask, found.fill)
        for part in parts.collected:
            value = parts.body.graph.outputs[part.inner]
            for axis, own, size in part.axes:
                found = parts.body.along(value, own, size)
                if found is not None:
                    facts.set_dead(node.outputs[part.place], axis, *found)

    def backward(self, node: ir.Node, spec: Spec, facts: Facts) -> None:
        """Ask the body what it reads of its states for the positions that are read behind it, and again for those."""
        parts = spec.extra
        assert isinstance(parts, Iterated)
        if all(facts.demand.get(out) is None for out in node.outputs):
            return
        wanted = _wanted(node, parts, facts)
        states = {state.operand: state for state in parts.states}
        read = {part.place: part for part in parts.read}
        linked = {(link.operand, link.axis) for link in spec.links}
        for operand, value in enumerate(node.inputs):
            partial: dict[int, Mask] = {}
            if operand in states:
                state = states[operand]
                partial = {axis: wanted[state, axis] for axis, _ in state.axes if (operand, axis) in linked}
                # An iteration reads what the one before has made: the result stands for it.
                facts.contribute(node.outputs[state.out], _open(partial))
            elif operand in read:
                given = parts.body.graph.inputs[read[operand].inner]
                for axis, own, size in read[operand].axes:
                    if (operand, axis) in spec.contracted:
                        partial[axis] = parts.body.demanded(given, own, size)
            if value is not None and not is_constant(value):
                facts.contribute(value, _open(partial))


def _open(partial: dict[int, Mask]) -> dict[int, Mask]:
    return {axis: mask for axis, mask in partial.items() if not mask.all()}


def _before(node: ir.Node, states: list[State], read: list[Slices], facts: Facts) -> Known:
    """Return what is dead in the body's inputs in the first iteration."""
    known: Known = {}
    body = next(subgraphs(node))
    for state in states:
        initial = node.inputs[state.operand]
        for axis, size in state.axes:
            found = None if initial is None else facts.along(initial, axis, size)
            if found is not None and np.isfinite(found[1][found[0]]).all():
                known.setdefault(state.given, {})[axis] = Dead(*found)
    for part in read:
        value = node.inputs[part.place]
        for axis, own, size in part.axes:
            found = None if value is None else facts.along(value, axis, size)
            if found is not None and np.isfinite(found[1][found[0]]).all():
                known.setdefault(body.inputs[part.inner], {})[own] = Dead(*found)
    return known


def _weaken(states: list[State], known: Known, inner: Facts) -> bool:
    """Take back what one iteration does not keep; tell whether there was anything."""
    news = False
    for state in states:
        for axis, size in state.axes:
            assumed = known.get(state.given, {}).get(axis)
            if assumed is None:
                continue
            found = inner.along(inner.graph.outputs[state.made], axis, size)
            kept = np.zeros(size, bool) if found is None else assumed.mask & found[0] & (found[1] == assumed.fill)
            if np.array_equal(kept, assumed.mask):
                continue
            news = True
            if kept.any():
                known[state.given][axis] = Dead(kept, assumed.fill)
            else:
                del known[state.given][axis]
    return news


def _wanted(node: ir.Node, parts: Iterated, facts: Facts) -> dict[tuple[State, int], Mask]:
    """Return which positions of the states are read, by anybody or by the body for what is read."""
    from graphopt.facts.walk import demands

    inner = parts.body
    wanted = {
        (state, axis): facts.demanded(node.outputs[state.out], axis, size)
        for state in parts.states
        for axis, size in state.axes
    }
    inner.wanted.clear()
    for part in parts.collected:
        out = node.outputs[part.place]
        inner.wanted[inner.graph.outputs[part.inner]] = {
            own: facts.demanded(out, axis, size) for axis, own, size in part.axes
        }
    for _ in range(LIMIT):
        for state in parts.states:
            inner.wanted[inner.graph.outputs[state.made]] = {axis: wanted[state, axis] for axis, _ in state.axes}
        demands(inner)
        more = {key: mask | inner.demanded(key[0].given, key[1], mask.size) for key, mask in wanted.items()}
        if all(np.array_equal(more[key], wanted[key]) for key in wanted):
            return wanted
        wanted = more
    inner.wanted.clear()
    demands(inner)
    return {key: np.ones(mask.size, bool) for key, mask in wanted.items()}


def _drops(given: ir.Value, axis: int, inner: Facts) -> bool:
    """Tell whether everything that reads a body's input can do without some of its positions."""
    for use in given.uses():
        spec = inner.specs.get(use.node)
        if spec is None or use.node.graph is not inner.graph:
            return False
        passed = {link.axis for link in spec.of_operand(use.idx)}
        passed |= {place for operand, place in spec.contracted if operand == use.idx}
        passed |= {end[1] for group in spec.groups for end in group.inputs if end[0] == use.idx}
        if axis not in passed and use.idx not in spec.unread:
            return False
    return True


def _same_sizes(values: list[ir.Value | None]) -> tuple[tuple[int, int], ...]:
    """Return (axis, size) of the axes of which the size is known and the same in all values."""
    known = [dims.static(value) for value in values]
    first, kind = known[0], None if values[0] is None else values[0].dtype
    if first is None or kind is None or any(value is None or sizes_only(value) for value in values):
        return ()
    if any(sizes is None or len(sizes) != len(first) for sizes in known):
        return ()
    if any(value is not None and value.dtype != kind for value in values):
        return ()
    return tuple(
        (axis, size)
        for axis, size in enumerate(first)
        if size and all(s is not None and s[axis] == size for s in known)
    )


def _uncut(whole: ir.Value | None, slice_: ir.Value, cut: int) -> tuple[tuple[int, int, int], ...]:
    """Return (axis, the slice's axis, size) of the axes that a cut along one axis leaves."""
    outer, inner = dims.static(whole), dims.static(slice_)
    if whole is None or outer is None or inner is None or len(outer) != len(inner) + 1 or whole.dtype != slice_.dtype:
        return ()
    if sizes_only(slice_) or sizes_only(whole):
        return ()
    cut %= len(outer)
    pairs = [(axis, axis - (axis > cut)) for axis in range(len(outer)) if axis != cut]
    return tuple((axis, own, outer[axis] or 0) for axis, own in pairs if outer[axis] and outer[axis] == inner[own])


def _states(node: ir.Node, body: ir.Graph, count: int, operands: int, made: int) -> list[State]:
    """Return the states; ``operands`` and ``made`` are inputs and outputs of the body that come before them."""
    return [
        State(
            place + operands,
            place,
            body.inputs[place + operands],
            place + made,
            _same_sizes(
                [
                    node.outputs[place],
                    node.inputs[place + operands],
                    body.inputs[place + operands],
                    body.outputs[place + made],
                ]
            ),
        )
        for place in range(count)
    ]


@rule("Loop")
class Loop(_Iterates):
    """States are the operands behind the trip count and the condition; collected slices are stacked in front."""

    def parts(self, node: ir.Node, body: ir.Graph) -> tuple[list[State], list[Slices], list[Slices]] | None:
        """Return states, nothing, and what is collected."""
        count = len(node.inputs) - 2
        if len(body.inputs) != count + 2 or len(body.outputs) != len(node.outputs) + 1 or len(node.outputs) < count:
            return None
        if any(value is None for value in node.inputs[2:]):
            return None
        collected = [
            Slices(place, place + 1, _uncut(node.outputs[place], body.outputs[place + 1], 0))
            for place in range(count, len(node.outputs))
        ]
        return _states(node, body, count, 2, 1), [], collected


@rule("Scan")
class Scan(_Iterates):
    """Operands are states, then values that are cut into slices; both kinds of slices along axes of their own."""

    def parts(self, node: ir.Node, body: ir.Graph) -> tuple[list[State], list[Slices], list[Slices]] | None:
        """Return states, the scanned operands, and what is collected."""
        scanned = node.attributes.get_int("num_scan_inputs", 0)
        count = len(node.inputs) - scanned
        if "directions" in node.attributes or count < 0 or any(value is None for value in node.inputs):
            return None  # the first version of the operator
        if len(body.inputs) != len(node.inputs) or len(body.outputs) != len(node.outputs):
            return None
        ins = list(node.attributes.get_ints("scan_input_axes", [0] * scanned))
        outs = list(node.attributes.get_ints("scan_output_axes", [0] * (len(node.outputs) - count)))
        if len(ins) != scanned or len(outs) != len(node.outputs) - count:
            return None
        read = [
            Slices(count + place, count + place, _uncut(node.inputs[count + place], body.inputs[count + place], cut))
            for place, cut in enumerate(ins)
        ]
        collected = [
            Slices(count + place, count + place, _uncut(node.outputs[count + place], body.outputs[count + place], cut))
            for place, cut in enumerate(outs)
        ]
        return _states(node, body, count, 0, 0), read, collected
