"""What each quantized tensor does to the outputs, what each operator saves, and in what order they are given up."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace

import onnx_ir as ir

from graphopt.calibrate.grid import Grid
from graphopt.context import Context
from graphopt.quantization import steps
from graphopt.quantization.fidelity import Fidelity
from graphopt.quantization.place_costs import of_node
from graphopt.quantization.placement import Placement
from graphopt.quantization.reduce import Source, sources
from graphopt.quantization.state import State
from graphopt.quantization.types import weight_grid

Progress = Callable[[str, int, int], None]

RANKED = 32
"""Samples on which each tensor is quantized alone."""

_STORED = 1e-3
"""Nanoseconds that a weight in 8 bits instead of fewer is taken to cost: the kernel is the same."""

_LOUD = 1e30
"""Noise that is taken for what is not finite."""


@dataclass(frozen=True, eq=False)
class Move:
    """Operators get more bits.

    Attributes:
        nodes: They go back to float; none where only weights get another type.
        grids: Types of weights that are not what was asked for.
        gain: Noise at the outputs that goes, over their power, summed over the outputs.
        cost: Nanoseconds that it makes a run slower, estimated from shapes.
        share: ``gain`` over the noise of everything.
    """

    nodes: tuple[ir.Node, ...]
    grids: Mapping[ir.Value, Grid]
    gain: float
    cost: float
    share: float


def ranked(context: Context, step: Progress) -> list[Move]:
    """Return what can be given up, the most noise per nanosecond first, until nothing is quantized.

    Operators that only move data follow their neighbours. There is no move to 16 bits: no target has integer kernels
    for it, so that it would cost as much as float and be less exact. Weights with fewer bits than the target's default
    may get those instead.
    """
    state = steps.state_of(context)
    found = sources(state.placement)
    noises = _noises(context, state, found, step)
    nodes = [node for node, kernel in state.placement.nodes.items() if kernel != "move"]
    costs = {node: saved(context, node) for node in nodes}
    return order(found, noises, costs, [_wider(state, source) for source in found])


@dataclass
class _Offer:
    """Something to give up: operators, or (``wider``) the small type of some weights."""

    nodes: frozenset[ir.Node]
    wider: int | None = None
    """Number of the source whose weights get more bits."""
    place: int = 0
    gain: float = field(default=0.0)
    cost: float = field(default=1.0)


def order(
    found: list[Source], noises: list[float], costs: Mapping[ir.Node, float], grids: list[dict[ir.Value, Grid]]
) -> list[Move]:
    """Return the moves in the order of a greedy choice by noise per cost; ties go by the order of the sources.

    A tensor's noise goes when all of its operators are in float, so that the operators of a tensor are offered
    together, beside each by itself; what they gain is all that ends with them and what went before.
    """
    total = sum(noises) or 1.0
    at: dict[ir.Node, list[int]] = {node: [] for node in costs}
    for number, source in enumerate(found):
        for node in source.nodes:
            at[node].append(number)
    floats: set[ir.Node] = set()
    left = list(noises)
    sets = dict.fromkeys([*(frozenset([node]) for node in costs), *(frozenset(one.nodes) for one in found)])
    offers = [_Offer(nodes) for nodes in sets if nodes]
    offers += [_Offer(frozenset(found[i].nodes), i) for i, wider in enumerate(grids) if wider]
    near: dict[ir.Node, list[_Offer]] = {node: [] for node in costs}
    for place, offer in enumerate(offers):
        offer.place = place
        around = {other for node in offer.nodes for i in at[node] for other in found[i].nodes}
        for node in around | offer.nodes:
            near[node].append(offer)

    def weigh(offer: _Offer) -> None:
        if offer.wider is not None:
            gone = not offer.nodes <= floats and left[offer.wider] > 0
            offer.gain = left[offer.wider] if gone else -1.0
            offer.cost = 1 + _STORED * sum(_size(value) for value in grids[offer.wider])
            return
        fresh = offer.nodes - floats
        ended = {i for node in fresh for i in at[node] if floats.issuperset(set(found[i].nodes) - fresh)}
        offer.gain = sum(left[i] for i in sorted(ended)) if fresh else -1.0
        offer.cost = sum(costs[node] for node in fresh) or 1.0

    for offer in offers:
        weigh(offer)
    moves: list[Move] = []
    while True:
        open_offers = [offer for offer in offers if offer.gain >= 0]
        if not open_offers:
            return moves
        best = max(open_offers, key=lambda offer: (offer.gain / offer.cost, -offer.cost, -offer.place))
        fresh = tuple(node for node in costs if node in best.nodes and node not in floats)
        if best.wider is not None:
            moves.append(Move((), grids[best.wider], best.gain, best.cost, best.gain / total))
            left[best.wider] = 0.0
        else:
            moves.append(Move(fresh, {}, best.gain, best.cost, best.gain / total))
            floats.update(fresh)
            for i in {i for node in fresh for i in at[node] if floats.issuperset(found[i].nodes)}:
                left[i] = 0.0
        for offer in {id(offer): offer for node in best.nodes for offer in near[node]}.values():
            weigh(offer)


def _size(value: ir.Value) -> int:
    return math.prod(size for size in value.shape or () if isinstance(size, int))


def saved(context: Context, node: ir.Node) -> float:
    """Return the nanoseconds that an operator takes longer in float, and what its borders take at least."""
    table = steps.state_of(context).request.table
    row = table.rows.get(node.op_type)
    slow, fast = (0.0, 0.0) if row is None else of_node(node, row, table.costs, context.costs)
    return max(slow - fast, 0.0) + table.costs.node


def _wider(state: State, source: Source) -> dict[ir.Value, Grid]:
    """Return the weights that have fewer levels than the target's own type has, with that type."""
    if state.request.weight_only:
        return {}
    usual = weight_grid(replace(state.request, weights=None, levels=None))
    return {
        row.value: usual
        for row in source.weights
        if row.constraint.zero_point == 0 and row.grid.signed and row.grid.levels < usual.levels
    }


def _noises(context: Context, state: State, found: Iterable[Source], step: Progress) -> list[float]:
    """Return for each source the power of the noise over that of the output, summed over the outputs."""
    parts = [source.part for source in found]
    reference = Fidelity(context.model, state.batches(), RANKED)
    whole, noises = state.placement, []
    try:
        for number, part in enumerate(parts):
            step("ranking", number, len(parts))
            noises.append(_noise(context, state, part, reference))
    finally:
        state.placement = whole
    step("ranking", len(parts), len(parts))
    return noises


def _noise(context: Context, state: State, part: Placement, reference: Fidelity) -> float:
    state.placement = part
    rows = reference.of(steps.inserted(context))
    if any(row.spoiled for row in rows):
        return _LOUD
    return sum(min(10 ** (-row.sqnr_db / 10), _LOUD) for row in rows if row.sqnr_db is not None)
