"""``Int8Gemm``: a product of int8 matrices, requantized for every column."""

from __future__ import annotations

from typing import Any

from graphopt.runtime_ops.int8_gemm.reference import int8_gemm
from graphopt.runtime_ops.operator import Operator

# Both operands are moved to uint8: onnxruntime's products of uint8 with uint8 are exact on every processor, those with
# int8 saturate where there are no VNNI instructions.
SUM = """
  int_x = Cast <to: int = 6> (x)
  middle = Constant <value = int32 {128}> ()
  shifted_x = Add (int_x, middle)
  byte_x = Cast <to: int = 2> (shifted_x)
  zero_x = Constant <value_int: int = @x_zero_point> ()
  int_zero_x = Cast <to: int = 6> (zero_x)
  shifted_zero_x = Add (int_zero_x, middle)
  byte_zero_x = Cast <to: int = 2> (shifted_zero_x)
  int_w = Cast <to: int = 6> (w)
  shifted_w = Add (int_w, middle)
  byte_w = Cast <to: int = 2> (shifted_w)
  byte_middle = Constant <value = uint8 {128}> ()
"""
"""The operands of an integer sum: ``byte_x - byte_zero_x = x - x_zero_point``, ``byte_w - byte_middle = w``."""

PRODUCT = (
    SUM
    + """
  sum = MatMulInteger (byte_x, byte_w, byte_zero_x, byte_middle)
  whole = Add (sum, bias)
  real = Cast <to: int = 1> (whole)
  scaled = Mul (real, scale)
"""
)
"""``scaled = float32(sum over k of (x - x_zero_point) w + bias) scale``."""

ADD = """
  int_r = Cast <to: int = 6> (residual)
  zero_r = Constant <value_int: int = @residual_zero_point> ()
  int_zero_r = Cast <to: int = 6> (zero_r)
  centred_r = Sub (int_r, int_zero_r)
  real_r = Cast <to: int = 1> (centred_r)
  scale_r = Constant <value_float: float = @residual_scale> ()
  scaled_r = Mul (real_r, scale_r)
  joined = Add (scaled, scaled_r)
"""

ROUND = """
  rounded = Round ({value})
  zero_y = Constant <value_int: int = @y_zero_point> ()
  real_zero_y = Cast <to: int = 1> (zero_y)
  placed = Add (rounded, real_zero_y)
  int_low = Constant <value_int: int = @low> ()
  real_low = Cast <to: int = 1> (int_low)
  int_high = Constant <value_int: int = @high> ()
  real_high = Cast <to: int = 1> (int_high)
  clipped = Clip (placed, real_low, real_high)
  y = Cast <to: int = 3> (clipped)
"""

REQUANTIZE: dict[str, Any] = {"x_zero_point": 0, "y_zero_point": 0, "low": -128, "high": 127}
RESIDUAL: dict[str, Any] = {"residual_scale": 1.0, "residual_zero_point": 0}

OPERATOR = Operator(
    name="Int8Gemm",
    summary="y[..., n] = clip(round((sum_k (x[..., k] - x_zero_point) w[k, n] + bias[n]) scale[n]) + y_zero_point)",
    text="""
<domain: "graphopt", opset_import: ["" : {opset}]>
Int8Gemm <x_zero_point, y_zero_point, low, high> (x, w, scale, bias) => (y)
{"""
    + PRODUCT
    + ROUND.replace("{value}", "scaled")
    + "}\n",
    since=13,
    reference=int8_gemm,
    providers=("cpu", "cuda"),
    inputs=("x", "w", "scale", "bias"),
    attributes=REQUANTIZE,
)
