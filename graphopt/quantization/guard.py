"""What stays in float shall stay in float.

onnxruntime stores the float weights of a Conv, ConvTranspose or Gemm between DQ and Q as int8, one scale for all of
them, and runs it on integers (ConvTranspose: in float, and dequantizes at each run). Nothing in a session switches that
off. A LeakyRelu of slope 1, which is the identity, keeps them apart; it is fused into the float kernel of Conv and
Gemm, and costs nothing there.
"""

from __future__ import annotations

import onnx_ir as ir

from graphopt import dims
from graphopt.quantization.placement import Placement
from graphopt.rewrite.edit import Cursor, Edit


def guard(edit: Edit, placement: Placement) -> None:
    """Put the identity behind every node of ``Placement.guarded``; call it when Q and DQ are there."""
    for node in placement.guarded:
        out = node.outputs[0]
        uses = list(out.uses())
        slope = [ir.AttrFloat32("alpha", 1.0)]
        kept = edit.node(
            "LeakyRelu", [out], Cursor(edit.graph, after=node), f"{out.name}_kept", dims.sizes(out), out, slope
        )
        for use in uses:
            use.node.replace_input_with(use.idx, kept)
