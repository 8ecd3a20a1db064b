"""Which positions of which values may be multiplied by a positive number, so that constants around make up for it.

Every position of a float value belongs to a *class*; all positions of a class are multiplied by the same number, those
of class 0 by one. A constant between two classes changes: ``W'[o, i] = W[o, i] * s[out[o]] / s[in[i]]``. Classes begin
where a constant can take up a factor (the rows of a weight, the scale of a norm, a factor for each channel), go through
operators with ``f(s x) = s f(x)`` for ``s > 0``, become one where values are added, and end in the columns of a weight.
Whatever reads a value otherwise puts its classes into class 0. The numbers of the classes of a value are an array that
broadcasts against it; most of its axes are 1.

Source: Nagel et al. 2019, "Data-Free Quantization Through Weight Equalization and Bias Correction", §4.1; the pairs and
triples there are classes here, so that residual streams, heads and shared readers need no cases of their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from graphopt import dims
from graphopt.facts.constants import Constants, is_constant
from graphopt.facts.ops.contraction import Geometry
from graphopt.facts.rules import domain_of
from graphopt.facts.store import Facts
from graphopt.plan.components import components

Ids = np.ndarray
"""Numbers of classes (int64), of as many axes as the value; 0: never multiplied."""

FLOATS = (ir.DataType.FLOAT, ir.DataType.DOUBLE)
"""Types in which a power of two fits: half precision has too few exponents to be safe."""


@dataclass(frozen=True, slots=True)
class Change:
    """A constant that takes up factors: ``c' = c * s[up] / s[down]``, both broadcast against ``shape``."""

    node: ir.Node
    position: int
    up: Ids
    down: Ids
    shape: tuple[int, ...]
    """The constant's own shape, or a larger one that it is broadcast to."""


@dataclass(frozen=True, slots=True)
class Layer:
    """A product with a constant weight: Conv, ConvTranspose, Gemm or MatMul.

    Attributes:
        node: The operator.
        x: What it reads.
        axis: The axis of ``x`` that is summed over.
        weight: Position of the weight.
        bias: Position of the bias, if there is one.
        groups: Of a convolution.
        into: ``[groups, i]`` classes of its inputs.
        out: ``[groups, o]`` classes of its outputs.
    """

    node: ir.Node
    x: ir.Value
    axis: int
    weight: int
    bias: int | None
    groups: int
    into: Ids
    out: Ids

    @property
    def depthwise(self) -> bool:
        """Whether each of its outputs reads one input."""
        return self.groups > 1 and self.into.shape[1] == 1


def form(node: ir.Node, weight: int) -> Geometry:
    """Return where the outputs and inputs of a product's weight lie, for ``canonical``."""
    if node.op_type == "Conv":
        w_in, w_out = 1, 0
    elif node.op_type == "ConvTranspose":
        w_in, w_out = 0, 1
    elif node.op_type == "Gemm":
        w_in = 1 if node.attributes.get_int("transB", 0) else 0
        w_out = 1 - w_in
    else:
        w_in, w_out = (0, 1) if weight == 1 else (1, 0)
    return Geometry(1 - weight, 1, weight, w_in, w_out, 1, groups=node.attributes.get_int("group", 1))


@dataclass(slots=True)
class Scaling:
    """The classes of one graph.

    Attributes:
        classes: How many numbers there are; ``roots`` maps them to the least number of the same class.
        ids: Of the values that have any.
        layers: The products with constant weights, in order.
        changes: Every constant that takes up factors.
    """

    facts: Facts
    classes: int = 1
    ids: dict[ir.Value, Ids] = field(default_factory=dict)
    layers: list[Layer] = field(default_factory=list)
    changes: list[Change] = field(default_factory=list)
    roots: np.ndarray = field(default_factory=lambda: np.zeros(1, np.int64))
    _pairs: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)

    @property
    def constants(self) -> Constants:
        """What is known of constants."""
        return self.facts.constants

    def fresh(self, size: int, axis: int, rank: int) -> Ids:
        """Return new classes along one axis."""
        first, self.classes = self.classes, self.classes + size
        return np.arange(first, first + size).reshape([-1 if i == axis else 1 for i in range(rank)])

    def of(self, value: ir.Value | None) -> Ids:
        """Return the classes of a value."""
        if value in self.ids:
            return self.ids[value]
        return np.zeros((1,) * (dims.rank(value) or 0), np.int64)

    def equal(self, a: Ids, b: Ids) -> None:
        """Make classes one, position by position."""
        if a is not b and a.size and b.size:
            first, second = np.broadcast_arrays(a, b)
            self._pairs.append((first.ravel(), second.ravel()))

    def pin(self, ids: Ids) -> None:
        """Never multiply what belongs to these classes."""
        if ids.any():
            self.equal(ids, np.zeros(1, np.int64))

    def pin_inputs(self, node: ir.Node) -> None:
        """Leave everything that a node reads as it is."""
        for value in node.inputs:
            self.pin(self.of(value))

    def give(self, value: ir.Value, ids: Ids) -> None:
        """Record the classes of a value."""
        if value.dtype not in FLOATS or (rank := dims.rank(value)) is None or rank < ids.ndim:
            self.pin(ids)
        elif ids.any():
            self.ids[value] = ids.reshape((1,) * (rank - ids.ndim) + ids.shape)

    def settle(self) -> None:
        """Find out which classes are one."""
        a = np.concatenate([pair[0] for pair in self._pairs]) if self._pairs else np.zeros(0, np.int64)
        b = np.concatenate([pair[1] for pair in self._pairs]) if self._pairs else np.zeros(0, np.int64)
        self.roots = components(self.classes, a, b)

    def changeable(self, value: ir.Value | None) -> bool:
        """Tell whether a value is a constant of float type, all of it finite."""
        return is_constant(value) and value is not None and value.dtype in FLOATS and bool(self.constants.finite(value))

    def array(self, value: ir.Value | None) -> np.ndarray | None:
        """Return a constant that may be changed, or None."""
        return self.constants.array(value) if self.changeable(value) else None

    def takes(self, node: ir.Node, position: int, up: Ids, shape: Sequence[int] | None = None) -> bool:
        """Let a constant operand take up the factors of ``up``; false where its shape has no room for them."""
        value = node.inputs[position]
        known = dims.static(value)
        if not self.changeable(value) or known is None:
            return False
        room = tuple(size or 0 for size in known) if shape is None else tuple(shape)
        own = up.reshape(up.shape[up.ndim - len(room) :]) if up.ndim > len(room) and _ones(up, len(room)) else up
        if own.ndim > len(room) or any(
            size not in (1, have) for size, have in zip(own.shape[::-1], room[::-1], strict=False)
        ):
            return False
        self.changes.append(Change(node, position, own, np.zeros(1, np.int64), room))
        return True


def _ones(ids: Ids, keep: int) -> bool:
    return all(size == 1 for size in ids.shape[: ids.ndim - keep])


def scaling(facts: Facts) -> Scaling:
    """Find the classes of a graph, in one walk."""
    from graphopt.quantization.homogeneous import RULES

    found = Scaling(facts)
    for node in facts.graph:
        rule = RULES.get((domain_of(node), node.op_type))
        if rule is None:
            found.pin_inputs(node)
        else:
            rule(node, found)
    for value, ids in found.ids.items():
        if value.is_graph_output() or any(use.node.graph is not facts.graph for use in value.uses()):
            found.pin(ids)
    found.settle()
    return found
