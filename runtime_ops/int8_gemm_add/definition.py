"""``Int8GemmAdd``: ``Int8Gemm`` with a quantized residual added before it is rounded."""

from __future__ import annotations

from graphopt.runtime_ops.int8_gemm.definition import ADD, PRODUCT, REQUANTIZE, RESIDUAL, ROUND
from graphopt.runtime_ops.int8_gemm_add.reference import int8_gemm_add
from graphopt.runtime_ops.operator import Operator

OPERATOR = Operator(
    name="Int8GemmAdd",
    summary="Int8Gemm with (residual - residual_zero_point) residual_scale added before rounding",
    text="""
<domain: "graphopt", opset_import: ["" : {opset}]>
Int8GemmAdd <x_zero_point, y_zero_point, low, high, residual_scale, residual_zero_point>
  (x, w, scale, bias, residual) => (y)
{"""
    + PRODUCT
    + ADD
    + ROUND.replace("{value}", "joined")
    + "}\n",
    since=13,
    reference=int8_gemm_add,
    providers=("cpu", "cuda"),
    inputs=("x", "w", "scale", "bias", "residual"),
    attributes={**REQUANTIZE, **RESIDUAL},
)
