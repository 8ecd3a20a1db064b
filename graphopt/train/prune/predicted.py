"""What the contractions of a net are predicted to take, given how many units of each group stay."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from graphopt import dims
from graphopt.facts.constants import Constants
from graphopt.facts.ops.contraction import Depthwise, geometry
from graphopt.facts.rules import find
from graphopt.facts.store import Facts
from graphopt.plan.cost import CostModel
from graphopt.plan.couplings import Width, couplings
from graphopt.plan.widths import UNKNOWN_SIZE, contraction_cost, elements_at, window_taps
from graphopt.train.prune.groups import Group

Counts = Mapping[str, np.ndarray | int]
"""Group → how many of its units stay; arrays broadcast."""


@dataclass(frozen=True, slots=True, eq=False)
class Side:
    """An axis of an operator: its size, and how many of its positions belong to each unit of the groups."""

    size: int
    each: Mapping[str, int]

    def at(self, counts: Counts, units: Mapping[str, int]) -> np.ndarray:
        """Return how many positions stay."""
        gone = sum((units[name] - np.asarray(counts[name])) * each for name, each in self.each.items())
        return np.asarray(self.size - gone)


@dataclass(frozen=True, slots=True, eq=False)
class Operator:
    """One contraction: ``node`` with widths ``inputs`` and ``outputs``."""

    node: ir.Node
    kind: str
    """``convolution``, ``linear``, ``depthwise``, or ``computed``: of two computed operands, as many as ``outputs``."""
    inputs: Side
    outputs: Side
    window: int
    pixels: int
    groups: int

    @property
    def names(self) -> list[str]:
        """Groups that it depends on, those that it has the most positions of first."""
        most: dict[str, int] = {}
        for side in (self.inputs, self.outputs):
            for name, each in side.each.items():
                most[name] = most.get(name, 0) + each
        return sorted(most, key=lambda name: -most[name])

    def time(self, counts: Counts, units: Mapping[str, int], costs: CostModel) -> np.ndarray:
        """Return nanoseconds."""
        inputs, outputs = self.inputs.at(counts, units), self.outputs.at(counts, units)
        if self.kind == "computed":
            # Of every head a product of its own: as many as there are heads.
            whole = costs.product(self.inputs.size, UNKNOWN_SIZE, self.pixels) - costs.node
            return whole * outputs / max(self.outputs.size, 1) + costs.node
        if self.kind == "depthwise":
            return costs.depthwise(outputs, self.window, self.pixels)
        return contraction_cost(costs, self.node, inputs, outputs, self.window, self.pixels, self.groups)


class Predicted:
    """The time of a graph's contractions, as a sum of operators.

    Args:
        groups: What may be removed.
        model: The graph that they were read off.
        costs: Of the target.
    """

    def __init__(self, groups: Sequence[Group], model: ir.Model, costs: CostModel) -> None:
        self.units = {group.name: group.units for group in groups}
        self.costs = costs
        self.operators = _operators(groups, model)
        self.by_group: dict[str, list[Operator]] = {name: [] for name in self.units}
        for operator in self.operators:
            for name in operator.names:
                self.by_group[name].append(operator)

    def of(self, counts: Counts) -> float:
        """Return nanoseconds; groups that are not listed are whole."""
        full = {**self.units, **counts}
        return float(sum(float(operator.time(full, self.units, self.costs)) for operator in self.operators))

    def around(self, name: str, counts: Counts) -> float:
        """Return the nanoseconds of the operators that depend on a group."""
        return float(sum(float(each.time(counts, self.units, self.costs)) for each in self.by_group[name]))


def _operators(groups: Sequence[Group], model: ir.Model) -> list[Operator]:
    found = couplings(model, model.meta["parameters"])
    place = {
        (each.parameter, each.axis, int(each.index[0, 0])): group.name for group in groups for each in group.writes
    }
    names: dict[int, str] = {}
    for number, coupling in enumerate(found.found):
        keys = [(each.parameter, each.axis, int(each.index[0, 0])) for each in coupling.members if each.writes]
        known = [place[key] for key in keys if key in place]
        if known:
            names[number] = known[0]
    facts = Facts(model.graph, model.opset_imports.get("", 1), Constants())
    return [_operator(width, names, facts) for width in found.widths]


def _operator(width: Width, names: Mapping[int, str], facts: Facts) -> Operator:
    node = width.node
    sides = [{names[k]: each for k, each in side.items() if k in names} for side in (width.inputs, width.outputs)]
    known = [dims.static(value) or () for value in (node.inputs[0], node.outputs[0])]
    rule = find(node)
    spec = None if rule is None else rule.spec(node, facts)
    geo = None if spec is None else geometry(spec)
    axes = (1, 1) if width.kind == "convolution" else (len(known[0]) - 1, len(known[1]) - 1)
    if geo is not None:
        axes = (geo.x_axis, geo.out_axis)
        known[0] = dims.static(node.inputs[geo.x]) or ()
    sizes = [shape[axis] or UNKNOWN_SIZE for shape, axis in zip(known, axes, strict=True)]
    pixels = elements_at(node.outputs[0], axes[1])
    inputs, outputs = (Side(size, side) for size, side in zip(sizes, sides, strict=True))
    if width.kind == "computed":
        return Operator(node, width.kind, Side(sizes[0], {}), Side(width.cells, sides[1]), 1, pixels, 1)
    if spec is not None and isinstance(spec.extra, Depthwise):
        return Operator(node, "depthwise", Side(sizes[0], {}), outputs, window_taps(node, 0, 1), pixels, 1)
    window = 1 if geo is None else window_taps(node, geo.w_in, geo.w_out)
    return Operator(node, width.kind, inputs, outputs, window, pixels, 1 if geo is None else geo.groups)
