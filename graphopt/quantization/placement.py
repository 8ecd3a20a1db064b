"""Where: which nodes shall run on integers, and which of their tensors are quantized for that.

This module only looks. What it decides is a ``Placement``; ``qdq.py`` carries it out, ``graphopt.calibrate`` finds the
numbers in between.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import onnx_ir as ir

from graphopt.calibrate.grid import Grid
from graphopt.calibrate.solve import FREE, Constraint


@dataclass
class Activation:
    """A value that is computed while the model runs, and is to pass through Q and DQ.

    Attributes:
        value: The float value of the main graph; each of its readers gets the dequantized one.
        grid: Its type.
        constraint: What its zero point and scale must respect.
        share: Activations of equal ``share`` get equal parameters, found on the sum of their histograms (data movers).
        readers: (node, input) that read the dequantized value, where others go on reading the float one; None:
            everybody reads the dequantized one, graph outputs too (the integer kernel leaves nothing else).
    """

    value: ir.Value
    grid: Grid
    constraint: Constraint = FREE
    share: str = ""
    readers: list[tuple[ir.Node, int]] | None = None


@dataclass
class Weight:
    """A constant that is stored as integers.

    Attributes:
        value: The initializer; a shared one is quantized once, for all of ``readers``.
        grid: Its type.
        axis: The axis along which each position has a scale of its own; None: one scale.
        block: With ``axis``: so many positions share a scale (opset 21); 0: none do.
        constraint: What its zero point must respect.
        readers: (node, input) that read it quantized; other readers keep the float constant.
    """

    value: ir.Value
    grid: Grid
    axis: int | None = None
    block: int = 0
    constraint: Constraint = FREE
    readers: list[tuple[ir.Node, int]] = field(default_factory=list)


@dataclass
class Bias:
    """A constant stored as int32 with scale ``activation scale * weight scale`` and zero point 0."""

    value: ir.Value
    node: ir.Node
    position: int
    activation: ir.Value
    weight: ir.Value


@dataclass
class Kept:
    """A node that stays in float, and why."""

    node: ir.Node
    reason: str


@dataclass
class Placement:
    """The decision for one graph."""

    nodes: dict[ir.Node, str] = field(default_factory=dict)
    """Nodes that shall run on integers, with the kernel that is expected (``Conv``, ``MatMul``, ``move`` …)."""
    activations: dict[ir.Value, Activation] = field(default_factory=dict)
    weights: dict[ir.Value, Weight] = field(default_factory=dict)
    biases: list[Bias] = field(default_factory=list)
    kept: list[Kept] = field(default_factory=list)
    guarded: list[ir.Node] = field(default_factory=list)
    """Nodes in float that the runtime would quantize by itself, as they stand between DQ and Q; see ``guard.py``."""
    direct: list[ir.Node] = field(default_factory=list)
    """Nodes of ``nodes`` that copy integers, for which the runtime knows no pattern; see ``direct.py``."""
