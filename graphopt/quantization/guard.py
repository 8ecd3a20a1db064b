"""What stays in float shall stay in float.

onnxruntime stores the float weights of a Conv, ConvTranspose or Gemm between DQ and Q as int8, one scale for all of
them, and runs it on integers (ConvTranspose: in float, and dequantizes at each run). Nothing in a session switches that
off. It moves a Q in front of a MaxPool, too, and runs that on integers in the layout of the float operators around it,
which takes thirty times as long. A LeakyRelu of slope 1, which is the identity, keeps them apart; it is fused into the
float kernel of Conv and Gemm, and costs nothing there.
"""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir._core import Usage

from graphopt import dims
from graphopt.quantization.placement import Placement
from graphopt.rewrite.edit import Edit

CARRIED = frozenset("MaxPool Reshape Slice Squeeze Transpose Unsqueeze".split())
"""Operators that onnxruntime moves a DQ along, to whoever reads their results."""


def guard(edit: Edit, placement: Placement) -> None:
    """Put the identity behind every node of ``Placement.guarded``; call it when Q and DQ are there."""
    for node in placement.guarded:
        _between(edit, node.outputs[0], list(node.outputs[0].uses()))


def guard_bodies(edit: Edit) -> None:
    """Put the identity in front of bodies that read what onnxruntime would move a DQ to.

    It takes the reader's input of that name for one that the node itself has, and ends the process (1.31).
    """
    for node in list(edit.graph):
        if node.op_type not in CARRIED or not _behind_dequantize(node):
            continue
        for out in node.outputs:
            inside = [use for use in out.uses() if use.node.graph is not edit.graph]
            if inside and out.dtype == ir.DataType.FLOAT:
                _between(edit, out, inside)


def _behind_dequantize(node: ir.Node) -> bool:
    before: ir.Node | None = node
    while before is not None and before.op_type in CARRIED and before.inputs[0] is not None:
        before = before.inputs[0].producer()
    return before is not None and before.op_type == "DequantizeLinear"


def _between(edit: Edit, out: ir.Value, uses: list[Usage]) -> None:
    place, slope = edit.behind(out), [ir.AttrFloat32("alpha", 1.0)]
    kept = edit.node("LeakyRelu", [out], place, f"{out.name}_kept", dims.sizes(out), out, slope)
    for use in uses:
        use.node.replace_input_with(use.idx, kept)
