"""Which operators really run on integers: read from the graph that onnxruntime makes of a quantized model.

A pattern of DQ, operator, Q is a wish. onnxruntime fulfils it where it has a kernel, and says so only in what it runs.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import onnx_ir as ir

from graphopt import runtime
from graphopt.quantization.placement import Kept, Placement

INTEGER = frozenset(
    "ConvInteger DynamicQuantizeMatMul MatMulInteger MatMulIntegerToFloat QAttention QGemm QLinearAdd"
    " QLinearAveragePool QLinearConcat QLinearConv QLinearGlobalAveragePool QLinearLeakyRelu QLinearMatMul QLinearMul"
    " QLinearReduceMean QLinearSigmoid QLinearSoftmax QLinearWhere".split()
)
"""Kernels that compute with integers."""

FLOAT = frozenset(
    "Attention Conv ConvTranspose Einsum FusedConv FusedGemm FusedMatMul GRU Gemm GroupQueryAttention LSTM MatMul"
    " MultiHeadAttention QuickGelu RNN TransposeMatMul".split()
) - {"QuickGelu"}
"""Operators that multiply matrices in float."""

WEIGHTS = frozenset({"GatherBlockQuantized", "MatMulBnb4", "MatMulNBits"})
"""Operators that read stored integers and compute in float, or choose by themselves."""

_MOVES = frozenset(
    "ArgMax Clip DepthToSpace Expand Flatten Gather GatherElements MaxPool NhwcMaxPool Pad ReduceMax ReduceMin Reshape"
    " Resize Slice Split Squeeze Tile Transpose Unsqueeze".split()
)
"""Operators that take integers as they are, and run on them where they are given them."""

_SUFFIX = re.compile(r"(_token_\d+|_nchwc)$")


@dataclass(frozen=True)
class Kernels:
    """What onnxruntime runs.

    Attributes:
        integer: Nodes that run on integers, by name, with their kernel; movers of integers among them.
        floating: Nodes that multiply in float: (name as onnxruntime calls it, operator).
        counts: Nodes of each operator.
    """

    integer: dict[str, str] = field(default_factory=dict)
    floating: list[tuple[str, str]] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)

    @property
    def integer_nodes(self) -> int:
        """How many nodes compute with integers, movers apart."""
        return sum(self.counts[kernel] for kernel in INTEGER)

    @property
    def float_nodes(self) -> int:
        """How many nodes multiply matrices in float."""
        return sum(self.counts[kernel] for kernel in FLOAT)


def kernels(model: ir.Model) -> Kernels:
    """Return which kernels the CPU provider of onnxruntime runs for a model.

    Raises:
        ModelError: onnxruntime refuses it.
    """
    return read(runtime.optimized(model).graph)


def read(nodes: Iterable[ir.Node]) -> Kernels:
    """Return the same of a graph that onnxruntime made."""
    found = Kernels()
    integers: set[ir.Value] = set()
    for node in nodes:
        found.counts[node.op_type] += 1
        name = _SUFFIX.sub("", (node.name or "").removeprefix("fused "))
        if node.op_type in INTEGER:
            found.integer[name] = node.op_type
        elif node.op_type in FLOAT:
            found.floating.append((name, node.op_type))
        elif node.op_type in _MOVES and node.inputs[0] in integers:
            found.integer[name] = node.op_type
        elif node.op_type != "QuantizeLinear":
            continue
        if node.op_type not in ("MatMulIntegerToFloat", *FLOAT) and not _ends_in_float(node):
            integers.update(node.outputs)
    return found


def _ends_in_float(node: ir.Node) -> bool:
    """QGemm writes float where it is given no scale for its output."""
    return node.op_type == "QGemm" and (len(node.inputs) < 8 or node.inputs[7] is None)


def confirmed(placement: Placement, found: Kernels) -> Placement:
    """Return a placement with the kernels that really run; nodes that have none are among those in float.

    Movers are not asked for: onnxruntime joins and drops them.
    """
    nodes: dict[ir.Node, str] = {}
    kept = list(placement.kept)
    for node, planned in placement.nodes.items():
        kernel = found.integer.get(node.name or "")
        if kernel is not None or planned == "move":
            nodes[node] = kernel or planned
        elif node.name:
            kept.append(Kept(node, "onnxruntime runs it in float all the same"))
    return replace(placement, nodes=nodes, kept=kept)
