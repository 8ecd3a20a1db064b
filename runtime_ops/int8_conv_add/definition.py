"""``Int8ConvAdd``: ``Int8Conv`` with a quantized residual added before it is rounded."""

from __future__ import annotations

from graphopt.runtime_ops.int8_conv.definition import CONVOLUTION, WINDOW
from graphopt.runtime_ops.int8_conv_add.reference import int8_conv_add
from graphopt.runtime_ops.int8_gemm.definition import ADD, REQUANTIZE, RESIDUAL, ROUND
from graphopt.runtime_ops.operator import Operator

OPERATOR = Operator(
    name="Int8ConvAdd",
    summary="Int8Conv with (residual - residual_zero_point) residual_scale added before rounding",
    text="""
<domain: "graphopt", opset_import: ["" : {opset}]>
Int8ConvAdd <pads, strides, dilations, group, input_perm, output_perm, x_zero_point, y_zero_point, low, high,
  residual_scale, residual_zero_point> (x, w, scale, bias, residual) => (y)
{"""
    + CONVOLUTION
    + ADD
    + ROUND.replace("{value}", "joined")
    + "}\n",
    since=13,
    reference=int8_conv_add,
    providers=("cpu", "cuda"),
    inputs=("x", "w", "scale", "bias", "residual"),
    attributes={**WINDOW, **REQUANTIZE, **RESIDUAL},
)
