"""Parts of a placement: what is left without some operators, and what each tensor does to the outputs by itself.

The latter are to be measured, not to be kept: nothing of them need run on integers.

What adds noise is a tensor: a weight, or an activation with all that data movers make of it. It stops only when all
operators for which it is quantized are in float: of an activation those that write it and read it.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

import onnx_ir as ir

from graphopt.quantization.placement import Kept, Placement, Weight

_ABSORBED = ("Relu", "Clip")


def without(placement: Placement, floats: Collection[ir.Node], reason: str) -> Placement:
    """Return a placement of weights alone without those that only some nodes read; the nodes are kept for a reason."""
    weights = {}
    for value, row in placement.weights.items():
        readers = [(node, position) for node, position in row.readers if node not in floats]
        if readers:
            weights[value] = replace(row, readers=readers)
    gone = [Kept(node, reason) for node in placement.nodes if node in floats]
    nodes = {node: kernel for node, kernel in placement.nodes.items() if node not in floats}
    return replace(placement, nodes=nodes, weights=weights, kept=placement.kept + gone)


@dataclass(frozen=True)
class Source:
    """A tensor that adds noise, or several that hold the same numbers.

    Attributes:
        part: A placement of nothing else.
        nodes: Operators for which it is quantized, in the order of the placement; data movers are not among them.
        weights: It is constants.
    """

    part: Placement
    nodes: tuple[ir.Node, ...]
    weights: tuple[Weight, ...] = ()


def sources(placement: Placement) -> list[Source]:
    """Return all that adds noise: constants by the operators that read them, activations by what they share.

    Biases are none: 32 bits take nothing away.
    """
    order = {node: i for i, (node, kernel) in enumerate(placement.nodes.items()) if kernel != "move"}
    found: list[Source] = []
    constants: dict[tuple[ir.Node, ...], list[Weight]] = {}
    for row in placement.weights.values():
        nodes = tuple(sorted({node for node, _ in row.readers if node in order}, key=order.__getitem__))
        constants.setdefault(nodes, []).append(row)
    for nodes, rows in constants.items():
        found.append(Source(Placement(weights={row.value: replace(row) for row in rows}), nodes, tuple(rows)))
    shares: dict[str, list[ir.Value]] = {}
    for value, row in placement.activations.items():
        shares.setdefault(row.share or str(value.name), []).append(value)
    for values in shares.values():
        part = Placement(activations={value: replace(placement.activations[value]) for value in values})
        touching = {node for value in values for node in _touching(value, placement)}
        found.append(Source(part, tuple(sorted(touching & order.keys(), key=order.__getitem__))))
    return found


def _touching(value: ir.Value, placement: Placement) -> set[ir.Node]:
    """Return the quantized operators that write a value, or read it quantized."""
    row = placement.activations[value]
    readers = [use.node for use in value.uses()] if row.readers is None else [node for node, _ in row.readers]
    found = {node for node in readers if node in placement.nodes}
    writer = value.producer()
    while writer is not None and writer not in placement.nodes and writer.op_type in _ABSORBED and not writer.domain:
        before = writer.inputs[0]
        writer = None if before is None else before.producer()
    if writer is not None and writer in placement.nodes and row.readers is None:
        found.add(writer)
    return found
