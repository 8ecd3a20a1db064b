"""LSTM, GRU, RNN: hidden units that stay at zero, and hidden units that nobody reads.

With ``g(0) = 0`` and a state that starts at zero, a unit whose candidate gate is identically zero stays at zero::

    LSTM  c' = f*c + i*g(0) = 0        h' = o*tanh(c') = 0
    GRU   h' = (1-z)*g(0) + z*h = 0    whatever linear_before_reset says
    RNN   h' = g(0) = 0

The candidate of unit ``j`` is identically zero if its rows of W meet nothing but zeros, its biases add up to zero, and
its rows of R read nothing but units that are themselves at zero: the largest set of units with that property is taken.
Backward, a unit is read by who reads the output, and by the gates of every unit that is read.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import onnx_ir as ir

from graphopt import dims
from graphopt.facts.rules import Rule, rule, through_links
from graphopt.facts.store import Facts, Group, Link, Mask, Partial, Spec

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
CANDIDATE = {"LSTM": 3, "GRU": 2, "RNN": 0}
"""Place of the candidate among the gates: ``iofc``, ``zrh``, and the only one."""
DEFAULTS = {"LSTM": ("Sigmoid", "Tanh", "Tanh"), "GRU": ("Sigmoid", "Tanh"), "RNN": ("Tanh",)}
KEEPS_ZERO = frozenset({"tanh", "relu", "leakyrelu", "scaledtanh", "elu", "softsign", "thresholdedrelu"})
BOUNDED = frozenset({"sigmoid", "tanh", "hardsigmoid", "softsign"})

X, W, R, B, LENGTHS, INITIAL_H, INITIAL_C, PEEPHOLES = range(8)
HIDDEN_AXIS = (3, 2, 2)
"""Axis of the hidden units in Y ``[sequence, directions, batch, units]``, Y_h and Y_c."""


@dataclass(frozen=True, slots=True)
class Recurrence:
    """What a recurrent operator's rule found out about its units."""

    gates: int
    directions: int
    hidden: int
    absorbs: bool
    """Constant inputs may go into the bias (a clip would come in between)."""
    idle: tuple[int, ...]
    """Operands that are initial states of zero: without them the operator computes the same."""
    silent: np.ndarray = field(default_factory=lambda: np.zeros((0, 0), bool))
    """``[directions, units]`` (bool): the unit's state is zero at every step."""


def recurrence(spec: Spec) -> Recurrence | None:
    """Return what a recurrent operator's rule found, or ``None`` for other nodes."""
    return spec.extra if isinstance(spec.extra, Recurrence) else None


def optional(node: ir.Node, position: int) -> ir.Value | None:
    """Return an input that may be missing."""
    return node.inputs[position] if len(node.inputs) > position else None


def by_gate(array: np.ndarray, found: Recurrence) -> np.ndarray:
    """Return W or R as ``[directions, gates, units, read]``."""
    return array.reshape(found.directions, found.gates, found.hidden, -1)


def activations(node: ir.Node, directions: int) -> list[tuple[str, ...]]:
    """Return the activations of each direction, in lower case."""
    named = [name.lower() for name in node.attributes.get_strings("activations", ())]
    default = tuple(name.lower() for name in DEFAULTS[node.op_type])
    count = len(default)
    if not named:
        return [default] * directions
    named *= directions if len(named) == count else 1
    return [tuple(named[d * count : (d + 1) * count]) for d in range(directions)]


@rule("LSTM", "GRU", "RNN")
class Recurrent(Rule):
    """``h_t = f(W x_t + R h_(t-1) + b)``: inputs are contracted with W, units with one another through R."""

    def spec(self, node: ir.Node, facts: Facts) -> Spec | None:
        constants = facts.constants
        x, w, r = dims.static(node.inputs[X]), dims.static(node.inputs[W]), dims.static(node.inputs[R])
        if x is None or len(x) != 3 or x[2] is None or node.attributes.get_int("layout", 0) != 0:
            return None
        if w is None or r is None or not all(constants.known(node.inputs[i]) for i in (W, R)):
            return None
        directions, rows, hidden = r
        if directions is None or rows is None or hidden is None or w != (directions, rows, x[2]):
            return None
        if rows != GATES[node.op_type] * hidden or hidden == 0:
            return None
        if any(v is not None and not constants.known(v) for v in (optional(node, B), optional(node, PEEPHOLES))):
            return None
        outputs = []
        links = [Link(X, 1, 0, 2), Link(X, 1, 1, 1), Link(X, 1, 2, 1)]
        for position, (out, axis) in enumerate(zip(node.outputs, HIDDEN_AXIS, strict=False)):
            known = dims.static(out)
            if known is None or len(known) != axis + 1 or known[axis] != hidden:
                if out.uses() or out.is_graph_output():
                    return None
                continue
            outputs.append((position, axis, np.arange(hidden)))
        links = [link for link in links if any(link.out == out for out, _, _ in outputs)]
        if optional(node, LENGTHS) is not None:
            links = []
        idle, inputs = [], []
        for operand in (INITIAL_H, INITIAL_C):
            value = optional(node, operand)
            if value is None:
                continue
            if dims.rank(value) != 3:
                return None
            if _zeros(value, hidden, facts).all():
                idle.append(operand)
            else:
                inputs.append((operand, 2, np.arange(hidden)))
            start, data = dims.sizes(value), dims.sizes(node.inputs[X])
            if start is None or data is None or not dims.provably_equal(start[1], data[1]):
                links = []  # nothing moves along the batch
        links += [Link(operand, 1, link.out, link.out_axis) for operand, _, _ in inputs for link in links]
        absorbs = node.attributes.get_float("clip", 0.0) == 0.0
        found = Recurrence(GATES[node.op_type], directions, hidden, absorbs, tuple(idle))
        return Spec(
            links,
            ((X, 2),),
            reason=f"{node.op_type} runs along this axis",
            groups=(Group(hidden, tuple(inputs), tuple(outputs), gathered=True),),
            extra=replace(found, silent=_silent(node, found, facts)),
        )

    def forward(self, node: ir.Node, spec: Spec, facts: Facts) -> None:
        found = recurrence(spec)
        assert found is not None
        silent = np.asarray(found.silent.all(axis=0))
        for position, axis, _ in spec.groups[0].outputs:
            out = node.outputs[position]
            dtype = np.float32 if out.dtype is None else out.dtype.numpy()
            facts.set_dead(out, axis, silent, np.zeros(silent.size, dtype))

    def backward(self, node: ir.Node, spec: Spec, facts: Facts) -> None:
        found = recurrence(spec)
        assert found is not None
        outputs = [(node.outputs[position], axis) for position, axis, _ in spec.groups[0].outputs]
        if all(facts.demand.get(out) is None for out, _ in outputs):
            return
        units = _read_units(node, found, outputs, facts)
        for out, axis in outputs:
            # The operator reads its own units: what is read there is kept in the outputs.
            partial = facts.demand.get(out)
            if partial is not None and axis in partial:
                partial[axis] = partial[axis] | units.any(axis=0)
        more: dict[int, Partial] = {}
        columns = read_columns(node, found, units, facts)
        if not columns.all():
            more[X] = {2: columns}
        demanded = np.asarray(np.any([facts.demanded(out, axis, found.hidden) for out, axis in outputs], axis=0))
        if not demanded.all():
            more |= {operand: {2: demanded} for operand, _, _ in spec.groups[0].inputs}
        through_links(node, spec, facts, more)
        x = node.inputs[X]
        dead = facts.dead_axes(x).get(2)
        if dead is not None and x is not None and not found.absorbs:
            facts.need_physically(x, 2, columns & dead.mask)

    def finite(self, node: ir.Node, facts: Facts) -> bool:
        directions = (dims.static(node.inputs[R]) or (None,))[0]
        return directions is not None and all(BOUNDED.issuperset(row) for row in activations(node, directions))


def _zeros(value: ir.Value, hidden: int, facts: Facts) -> Mask:
    """Return ``[units]``: is the initial state zero in both directions, whatever the sample?"""
    along = facts.along(value, 2, hidden)
    return np.zeros(hidden, bool) if along is None else along[0] & (along[1] == 0)


def _initially_zero(value: ir.Value, found: Recurrence, facts: Facts) -> np.ndarray:
    """Return ``[directions, units]``: as ``_zeros``, one direction at a time where the state is a constant."""
    array = facts.constants.array(value) if facts.constants.known(value) else None
    if array is not None and array.shape[0] == found.directions:
        return np.asarray((array == 0).all(axis=1))
    return np.broadcast_to(_zeros(value, found.hidden, facts), (found.directions, found.hidden))


def _silent(node: ir.Node, found: Recurrence, facts: Facts) -> np.ndarray:
    """Return ``[directions, units]``: the largest set of units that keep one another at zero."""
    constants = facts.constants
    place = CANDIDATE[node.op_type]
    silent = np.ones((found.directions, found.hidden), bool)
    for direction, names in enumerate(activations(node, found.directions)):
        silent[direction] = all(name in KEEPS_ZERO for name in names[1:] or names)
    for operand in (INITIAL_H, INITIAL_C):
        value = optional(node, operand)
        if value is not None:
            silent &= _initially_zero(value, found, facts)
    if not silent.any() or not all(facts.is_finite(v) for v in node.inputs):
        return np.zeros_like(silent)
    w, r, b = node.inputs[W], node.inputs[R], optional(node, B)
    weights, bias = constants.array(w), constants.array(b)
    assert w is not None and r is not None and weights is not None
    live = np.ones(weights.shape[2], bool)
    dead = facts.dead_axes(node.inputs[X]).get(2)
    if dead is not None:
        live = ~(dead.mask & (dead.fill == 0))
    silent &= ~(by_gate(weights, found)[:, place][..., live] != 0).any(axis=-1)
    constants.release(w)
    if bias is not None:
        both = bias.reshape(found.directions, 2, found.gates, found.hidden)[:, :, place]
        # Behind the reset gate, the two biases of a GRU do not simply add up.
        alone = node.op_type == "GRU"
        silent &= (both == 0).all(axis=1) if alone else both.sum(axis=1, dtype=np.float64) == 0
    if not silent.any():
        return silent
    recurrent = constants.array(r)
    assert recurrent is not None
    reads = by_gate(recurrent, found)[:, place] != 0
    constants.release(r)
    while True:
        awake = (reads & ~silent[:, None, :]).any(axis=2) & silent
        if not awake.any():
            return silent
        silent &= ~awake


def _read_units(node: ir.Node, found: Recurrence, outputs: list[tuple[ir.Value, int]], facts: Facts) -> np.ndarray:
    """Return ``[directions, units]``: units that an output shows or a read unit's gates read, without silent ones."""
    shown = np.zeros(found.hidden, bool)
    for out, axis in outputs:
        shown |= facts.demanded(out, axis, found.hidden)
    read = shown & ~found.silent
    if (read | found.silent).all():
        return read
    r = node.inputs[R]
    recurrent = facts.constants.array(r)
    assert r is not None and recurrent is not None
    reads = (by_gate(recurrent, found) != 0).any(axis=1)
    facts.constants.release(r)
    while True:
        # A unit that one direction reads is there in the other, where it needs what it reads in turn.
        shown = shown | read.any(axis=0)
        more = (reads & read[:, :, None]).any(axis=1) | shown
        more &= ~found.silent
        if (more == read).all():
            return read
        read = read | more


def read_alone(node: ir.Node, found: Recurrence, shown: np.ndarray, facts: Facts) -> np.ndarray:
    """Return ``[directions, units]``: what each direction needs for the units it shows, were it a layer of its own."""
    read = shown & ~found.silent
    r = node.inputs[R]
    recurrent = facts.constants.array(r)
    assert r is not None and recurrent is not None
    reads = (by_gate(recurrent, found) != 0).any(axis=1)
    facts.constants.release(r)
    while True:
        more = ((reads & read[:, :, None]).any(axis=1) | read) & ~found.silent
        if (more == read).all():
            return read
        read = more


def read_columns(node: ir.Node, found: Recurrence, units: np.ndarray, facts: Facts) -> Mask:
    """Return ``[inputs]``: which inputs do the given units (``[directions, units]``) read, constants left out?"""
    w, x = node.inputs[W], node.inputs[X]
    weights = facts.constants.array(w)
    assert weights is not None and w is not None
    nonzero = (by_gate(weights, found) != 0).any(axis=1)
    facts.constants.release(w)
    columns = np.asarray((nonzero & units[:, :, None]).any(axis=(0, 1)))
    dead = facts.dead_axes(x).get(2)
    if dead is not None:
        columns &= ~dead.mask if found.absorbs else ~(dead.mask & (dead.fill == 0))
    return columns
