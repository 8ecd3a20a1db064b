"""``Int8Conv``: a convolution of int8 numbers, requantized for every channel, in the layout that is at hand."""

from __future__ import annotations

from typing import Any

from graphopt.runtime_ops.int8_conv.reference import int8_conv
from graphopt.runtime_ops.int8_gemm.definition import REQUANTIZE, ROUND, SUM
from graphopt.runtime_ops.operator import Operator

CONVOLUTION = (
    """
  planes = Transpose <perm: ints = @input_perm> (x)
"""
    + SUM.replace("(x)", "(planes)")
    + """
  sum = ConvInteger <pads: ints = @pads, strides: ints = @strides, dilations: ints = @dilations, group: int = @group>
    (byte_x, byte_w, byte_zero_x, byte_middle)
  steps = Constant <value_ints: ints = @strides> ()
  spatial = Shape (steps)
  ones = ConstantOfShape <value = int64[1] {1}> (spatial)
  all = Constant <value = int64[1] {-1}> ()
  columns = Concat <axis: int = 0> (all, ones)
  bias_column = Reshape (bias, columns)
  scale_column = Reshape (scale, columns)
  whole = Add (sum, bias_column)
  real = Cast <to: int = 1> (whole)
  scaled_planes = Mul (real, scale_column)
  scaled = Transpose <perm: ints = @output_perm> (scaled_planes)
"""
)
"""``scaled = float32(convolution of (x - x_zero_point) with w + bias) scale``, in the layout of the output."""

WINDOW: dict[str, Any] = {
    "pads": [0, 0, 0, 0],
    "strides": [1, 1],
    "dilations": [1, 1],
    "group": 1,
    "input_perm": [0, 1, 2, 3],
    "output_perm": [0, 1, 2, 3],
}

OPERATOR = Operator(
    name="Int8Conv",
    summary="y = clip(round((convolution of x - x_zero_point with w + bias) scale) + y_zero_point), NCHW or NHWC",
    text="""
<domain: "graphopt", opset_import: ["" : {opset}]>
Int8Conv <pads, strides, dilations, group, input_perm, output_perm, x_zero_point, y_zero_point, low, high>
  (x, w, scale, bias) => (y)
{"""
    + CONVOLUTION
    + ROUND.replace("{value}", "scaled")
    + "}\n",
    since=13,
    reference=int8_conv,
    providers=("cpu", "cuda"),
    inputs=("x", "w", "scale", "bias"),
    attributes={**WINDOW, **REQUANTIZE},
)
