"""What a node costs in float and on integers, and what a border costs, from shapes alone."""

from __future__ import annotations

import onnx_ir as ir

from graphopt import dims
from graphopt.quantization.tables.rows import Costs, Row

_BATCH = 1
_OPEN = 32
"""What a size is taken for that is not known: the first axis (a batch of one), any other (a sentence)."""

_SHAPELESS = 4096


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
