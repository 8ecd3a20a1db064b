"""Which integers of uint8 could be int8, each 128 less, with nothing else in the model noticing.

``saturate(round(x / s) + z)`` to 0..255, less 128, is ``saturate(round(x / s) + z - 128)`` to -128..127, and
``(q - z) s = ((q - 128) - (z - 128)) s``. So a Q and every DQ of what it writes can change their type together. Between
them may stand whatever only moves, compares or bounds integers: subtracting 128 keeps their order.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import onnx_ir as ir

from graphopt.facts.constants import Constants, is_constant

ALL = range(1 << 16)
"""Every input, or every output."""

MOVERS: Mapping[str, tuple[Collection[int], Collection[int]]] = {
    **dict.fromkeys(
        ("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Identity", "Slice", "Expand", "Tile"), ((0,), (0,))
    ),
    **dict.fromkeys(("Gather", "GatherElements", "GatherND"), ((0,), (0,))),
    "Split": ((0,), ALL),
    "Concat": (ALL, (0,)),
    "MaxPool": ((0,), (0,)),
    "Pad": ((0, 2), (0,)),
    "Clip": ((0, 1, 2), (0,)),
}
"""Inputs and outputs that hold the integers. onnxruntime has these operators for int8 where it has them for uint8."""

PAD_SINCE = 11
"""The operator set from which on a Pad takes integers, and what it fills with as an input."""


@dataclass
class Group:
    """Values that change their type together, and the nodes that have to be told.

    Attributes:
        values: Of uint8; made by Q or by operators of ``MOVERS``.
        quantizers: Q and DQ of these values.
        movers: The nodes between.
        constants: Inputs of nodes that are constants of uint8: (node, position).
        reason: Why they cannot change; None where they can.
    """

    values: set[ir.Value] = field(default_factory=set)
    quantizers: set[ir.Node] = field(default_factory=set)
    movers: set[ir.Node] = field(default_factory=set)
    constants: set[tuple[ir.Node, int]] = field(default_factory=set)
    reason: str | None = None


def group(value: ir.Value, graph: ir.Graph, constants: Constants, opset: int) -> Group:
    """Return what a value of uint8 is connected with."""
    found, pending = Group({value}), [value]
    while pending and found.reason is None:
        current = pending.pop()
        for node, reason in _ends(current, graph, opset):
            if reason is None and node is not None and node.op_type in ("QuantizeLinear", "DequantizeLinear"):
                found.quantizers.add(node)
                reason = _unknown_zero(node, constants)
            elif reason is None and node is not None and node not in found.movers:
                found.movers.add(node)
                for other in _held(node, found):
                    if other not in found.values:
                        found.values.add(other)
                        pending.append(other)
            found.reason = found.reason or reason
    return found


def _ends(value: ir.Value, graph: ir.Graph, opset: int) -> list[tuple[ir.Node | None, str | None]]:
    """Return the node that makes a value and those that read it, each with the reason why it stops the change."""
    if value.is_graph_output():
        return [(None, f"{value.name} is an output")]
    producer = value.producer()
    if producer is None or producer.graph is not graph:
        return [(None, f"{value.name} is an input" if value.is_graph_input() else f"{value.name} is made outside")]
    made = producer.op_type == "QuantizeLinear" and producer.domain == ""
    reason = None if made or _moves(producer, value.index(), opset, 1) else f"{producer.op_type} makes {value.name}"
    found: list[tuple[ir.Node | None, str | None]] = [(producer, reason)]
    for node, position in value.uses():
        read = node.op_type == "DequantizeLinear" and node.domain == "" and position == 0
        if node.graph is not graph:
            found.append((node, f"a body reads {value.name}"))
        else:
            known = read or _moves(node, position, opset, 0)
            found.append((node, None if known else f"{node.op_type} reads {value.name}"))
    return found


def _moves(node: ir.Node, position: int | None, opset: int, side: int) -> bool:
    """Tell whether a node takes (side 0) or hands on (side 1) integers at a position, and nothing but integers."""
    known = MOVERS.get(node.op_type) if node.domain == "" else None
    if known is None or (node.op_type == "Pad" and opset < PAD_SINCE):
        return False
    return position in known[side]


def _held(node: ir.Node, found: Group) -> list[ir.Value]:
    """Return the integers on both sides of a node; constants among them are noted in the group."""
    taken, handed = MOVERS[node.op_type]
    values = [value for index, value in enumerate(node.outputs) if index in handed]
    for index, value in enumerate(node.inputs):
        if value is None or index not in taken:
            continue
        if is_constant(value):
            found.constants.add((node, index))
        else:
            values.append(value)
    return values


def _unknown_zero(node: ir.Node, constants: Constants) -> str | None:
    """Return why a Q's or DQ's zero point cannot be moved; an absent one has the shape of its scale."""
    zero = node.inputs[2] if len(node.inputs) > 2 else None
    given = node.inputs[1] if zero is None else zero
    return None if constants.known(given) else f"the zero point of {node.name or node.op_type} is computed"
