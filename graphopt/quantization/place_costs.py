"""Which nodes run on integers: what they and the borders between them cost, from shapes alone."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from graphopt import dims
from graphopt.facts.constants import is_constant
from graphopt.plan.cost import CostModel
from graphopt.quantization.place_candidates import Candidates
from graphopt.quantization.place_cut import NEVER, Cut
from graphopt.quantization.tables.rows import Costs, Row, Table

_BATCH = 1
_OPEN = 32
"""What a size is taken for that is not known: the first axis (a batch of one), any other (a sentence)."""

_SHAPELESS = 4096


def cheapest(found: Candidates) -> set[ir.Node]:
    """Return the candidates that run on integers at the least cost.

    A value is quantized once, whoever reads it on integers, and dequantized once for those who do not. Where a target
    is not thrifty, or the user wants everything, what multiplies is on integers whatever it costs.
    """
    net = Cut()
    figures = found.table.costs
    read: dict[ir.Value, list[ir.Node]] = {}
    for node, row in found.rows.items():
        slow, fast = of_node(node, row, figures, found.context.costs)
        must = (row.role == "compute" or node in found.taken) and (found.request.everything or not found.table.thrifty)
        net.side(node, first=fast, second=NEVER if must else slow)
        for value in found.activations(node, row):
            read.setdefault(value, []).append(node)
            if row.apart:
                net.border(node, found.owner.get(value), row.apart * _windows(node))
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
        net.border(node, None, _unfused(node, found.table))
        if found.writes_integers(node):
            for value in (found.written[out] for out in node.outputs):
                if value not in read:
                    net.border(node, None, of_borders(value, figures)[1])
    return {what for what in net.solve() if isinstance(what, ir.Node)}


def _unfused(node: ir.Node, table: Table) -> float:
    """Return what the operator behind a convolution costs more where it is not computed on the way."""
    uses = list(node.outputs[0].uses()) if node.op_type == "Conv" else []
    readers = {use.node for use in uses}
    if len(readers) != 1 or node.outputs[0].is_graph_output():
        return 0.0
    return elements(node.outputs[0]) * table.fused.get(readers.pop().op_type, 0.0)


def _windows(node: ir.Node) -> float:
    """Return how many elements a pool looks at, one that several windows share as often."""
    return elements(node.outputs[0]) * float(np.prod(node.attributes.get_ints("kernel_shape", ())))


def _read_in_float(value: ir.Value, readers: list[ir.Node]) -> bool:
    known = set(readers)
    return value.is_graph_output() or any(use.node not in known for use in value.uses())


def elements(value: ir.Value | None) -> float:
    """Return how many numbers a value holds, for a batch of one.

    A named first axis is a batch, or so many times a batch. One without a name may be what ``Reshape(x, [-1, 64])``
    made of a batch and a sentence: as many numbers as there were before.
    """
    count, steps = 1.0, 0
    while value is not None and not _is_counted(value) and (read := _like(value)) is not None and steps < _FAR:
        value, factor = read
        count *= factor
        steps += 1
    sizes = dims.sizes(value)
    if sizes is None:
        return _SHAPELESS
    for axis, size in enumerate(sizes):
        count *= size if isinstance(size, int) else _OPEN if axis else _of_one(value)
    return count


_FAR = 64
"""Operators that are gone through to where a size is known."""

_SAME = frozenset(
    "Abs Cast Clip Div Erf Flatten Gelu HardSigmoid HardSwish Identity LayerNormalization LeakyRelu Mul Neg Pow"
    " RMSNormalization Relu Reshape Sigmoid Softmax Sqrt Squeeze Sub Tanh Transpose Unsqueeze Add".split()
)
"""Operators whose result holds as many numbers as what they read; of several inputs, as the largest."""


def _is_counted(value: ir.Value) -> bool:
    """Whether all sizes are known, or the first is a batch or so many times a batch."""
    sizes = dims.sizes(value)
    return value.is_graph_input() or (
        sizes is not None and None not in sizes and all(isinstance(size, int) for size in sizes[1:])
    )


def _of_one(value: ir.Value | None) -> float:
    """The size of a first axis for a batch of one: ``16*batch`` is 16."""
    dim = value.shape[0] if value is not None and value.shape is not None else None
    if not isinstance(dim, ir.SymbolicDim) or dim.value is None:
        return _BATCH
    try:
        size = dim.evaluate({str(symbol): _BATCH for symbol in dim.free_symbols()})
    except ValueError:  # not an expression: any text is a legal name
        return _BATCH
    return size if isinstance(size, int) and size > 0 else _BATCH


def _like(value: ir.Value) -> tuple[ir.Value, float] | None:
    """What holds as many numbers as a value, and times how many; None where nothing is known to."""
    node = value.producer()
    if node is None or node.domain not in ("", "ai.onnx"):
        return None
    read = [one for one in node.inputs if one is not None and not is_constant(one)]
    if node.op_type in ("MatMul", "Gemm") and read and read[0] is node.inputs[0]:
        depth, columns = (dims.static(one) or (None,) for one in (read[0], value))
        turned = node.attributes.get_int("transA", 0)
        return (read[0], columns[-1] / depth[-1]) if depth[-1] and columns[-1] and not turned else None
    if node.op_type not in _SAME or not read:
        return None
    return max(read, key=lambda one: dims.rank(one) or 0), 1.0


def of_node(node: ir.Node, row: Row, figures: Costs, float_figures: CostModel) -> tuple[float, float]:
    """Return what a node costs in float and on integers, in nanoseconds, borders apart."""
    if row.role != "compute":
        slow, fast = row.cost
        count = max(
            sum(elements(out) for out in node.outputs), elements(node.inputs[1 if node.op_type == "Where" else 0])
        )
        return count * slow, count * fast
    written = elements(node.outputs[0]) * figures.output
    if node.op_type == "Conv":
        slow, fast = _convolution(node, figures, float_figures)
        return slow, fast + written
    sizes = dims.static(node.inputs[0]) or (None,)
    turned = node.op_type == "Gemm" and node.attributes.get_int("transA", 0)
    depth = (sizes[0] if turned else sizes[-1]) or _OPEN
    columns = (dims.static(node.outputs[0]) or (None,))[-1] or _OPEN
    rows = elements(node.outputs[0]) / columns
    # Products of two activations are many small ones, whose "weights" are not read from afar.
    slow = depth * columns * max(rows * float_figures.product_mac, float_figures.weight)
    return slow, depth * columns * max(rows * figures.mac, figures.weight) + written


def _convolution(node: ir.Node, figures: Costs, float_figures: CostModel) -> tuple[float, float]:
    weight, out = dims.static(node.inputs[1]), dims.static(node.outputs[0])
    if weight is None or out is None or None in weight:
        return 0.0, 0.0
    outputs, inputs, *window = (size or 0 for size in weight)
    groups = node.attributes.get_int("group", 1)
    taps = int(np.prod(window))
    positions = int(elements(node.outputs[0]) / max(outputs, 1))
    if groups > 1 and inputs == 1 and outputs == groups:
        slow = float(float_figures.depthwise(outputs, taps, positions))
        return slow, outputs * taps * positions * figures.depthwise_mac
    slow = groups * float(float_figures.convolution(inputs, outputs // groups, taps, positions))
    loose = groups > 1 or inputs % 4
    moved = 0.0 if taps == 1 and groups == 1 else figures.loose_copy if loose else figures.copy
    return slow, outputs * inputs * taps * positions * figures.mac + positions * taps * groups * moved


def of_borders(value: ir.Value, figures: Costs) -> tuple[float, float]:
    """Return what quantizing and dequantizing a value cost."""
    count = elements(value)
    layout = figures.layout if (dims.rank(value) or 0) > 3 else 0.0
    return count * (figures.q + layout) + figures.node, count * (figures.dq + layout) + figures.node
