"""Which nodes run on integers: what they and the borders between them cost, from shapes alone."""

from __future__ import annotations

import onnx_ir as ir

from graphopt import dims
from graphopt.quantization.place_candidates import Candidates
from graphopt.quantization.place_cut import NEVER, Cut
from graphopt.quantization.tables.rows import Costs, Row

_BATCH = 1
_OPEN = 32
"""What a size is taken for that is not known: the first axis (a batch of one), any other (a sentence)."""

_SHAPELESS = 4096


def cheapest(found: Candidates) -> set[ir.Node]:
    """Return the candidates that run on integers at the least cost.

    A value is quantized once, whoever reads it on integers, and dequantized once for those who do not.
    """
    net = Cut()
    figures = found.table.costs
    read: dict[ir.Value, list[ir.Node]] = {}
    for node, row in found.rows.items():
        slow, fast = of_node(node, row, figures)
        net.side(node, first=fast, second=slow)
        for value in found.activations(node, row):
            read.setdefault(value, []).append(node)
    for value, readers in read.items():
        q, dq = of_borders(value, figures)
        owner = found.owner.get(value)
        for reader in readers:
            net.border(reader, ("read", value), NEVER)
        net.border(("read", value), owner, q)
        if owner is None or not found.writes_integers(owner):
            continue
        if _read_in_float(value, readers):
            net.border(owner, None, dq)
        else:
            net.border(owner, ("whole", value), dq)
            for reader in readers:
                net.border(("whole", value), reader, NEVER)
    for node in found.rows:
        if found.writes_integers(node):
            for value in (found.written[out] for out in node.outputs):
                if value not in read:
                    net.border(node, None, of_borders(value, figures)[1])
    return {what for what in net.solve() if isinstance(what, ir.Node)}


def _read_in_float(value: ir.Value, readers: list[ir.Node]) -> bool:
    known = set(readers)
    return value.is_graph_output() or any(use.node not in known for use in value.uses())


def elements(value: ir.Value | None) -> float:
    """Return how many numbers a value holds."""
    sizes = dims.static(value)
    if sizes is None:
        return _SHAPELESS
    count = 1.0
    for axis, size in enumerate(sizes):
        count *= size if size is not None else _OPEN if axis else _BATCH
    return count


def multiplications(node: ir.Node) -> float:
    """Return the multiply-adds of Conv, MatMul and Gemm: elements of the output times the length of each sum."""
    if node.op_type == "Conv":
        channels = (dims.static(node.inputs[1]) or (None,))[0] or 1
        return elements(node.outputs[0]) * elements(node.inputs[1]) / channels
    sizes = dims.static(node.inputs[0]) or (None,)
    turned = node.op_type == "Gemm" and node.attributes.get_int("transA", 0)
    return elements(node.outputs[0]) * ((sizes[0] if turned else sizes[-1]) or _OPEN)


def of_node(node: ir.Node, row: Row, costs: Costs) -> tuple[float, float]:
    """Return what a node costs in float and on integers, in nanoseconds, borders apart."""
    if row.role == "compute":
        count, (slow, fast) = multiplications(node), costs.mac
        # Integers come back through one multiplication an element.
        return count * slow, count * fast + elements(node.outputs[0]) * costs.follow[1] / 2
    slow, fast = costs.move if row.role == "move" else costs.follow
    count = max(sum(elements(out) for out in node.outputs), max(elements(value) for value in node.inputs[:1]))
    return count * slow, count * fast


def of_borders(value: ir.Value, costs: Costs) -> tuple[float, float]:
    """Return what quantizing and dequantizing a value cost."""
    count = elements(value)
    return count * costs.q + costs.node, count * costs.dq + costs.node
