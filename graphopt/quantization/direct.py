"""Operators that copy integers without a pattern: ``Q -> Pad -> DQ`` in place of ``Q -> DQ -> Pad -> Q -> DQ``.

onnxruntime has Pad for 8-bit types, but does not look for it between DQ and Q. As both sides have equal parameters,
``Q(DQ(q)) = q`` and the operator can stand between them itself: the same numbers, and they stay integers. What a Pad
fills with is 0, which is the zero point.
"""

from __future__ import annotations

import onnx_ir as ir

from graphopt.quantization.placement import Placement
from graphopt.rewrite.edit import Edit


def copy_integers(edit: Edit, placement: Placement) -> None:
    """Let every node of ``Placement.direct`` read and write integers; call it when Q and DQ are there."""
    for node in placement.direct:
        before = node.inputs[0]
        dequantize = None if before is None else before.producer()
        readers = {use.node for use in node.outputs[0].uses()}
        if dequantize is None or dequantize.op_type != "DequantizeLinear" or len(readers) != 1:
            continue
        (quantize,) = readers
        integers = dequantize.inputs[0]
        if quantize.op_type != "QuantizeLinear" or integers is None or node.outputs[0].is_graph_output():
            continue
        kind = integers.dtype
        if kind is None or kind not in (ir.DataType.INT8, ir.DataType.UINT8):
            continue
        node.replace_input_with(0, integers)
        if node.op_type == "Pad":
            zero = dequantize.inputs[2] if len(dequantize.inputs) > 2 else None
            assert zero is not None
            if len(node.inputs) < 3:
                node.resize_inputs(3)
            node.replace_input_with(2, zero)
        out, written = node.outputs[0], quantize.outputs[0]
        out.type = ir.TensorType(kind)
        out.name = edit.name(f"{out.name}_integers")  # who looks for the float value by its name shall not find this
        for use in list(written.uses()):
            use.node.replace_input_with(use.idx, out)
        edit.graph.remove(quantize, safe=True)
