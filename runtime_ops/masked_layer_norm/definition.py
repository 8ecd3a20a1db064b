"""``MaskedLayerNorm``: LayerNorm of the positions that are left, with the statistics of all."""

from __future__ import annotations

from graphopt.runtime_ops.masked_layer_norm.reference import masked_layer_norm
from graphopt.runtime_ops.operator import Operator

OPERATOR = Operator(
    name="MaskedLayerNorm",
    summary="y = (x - m) / sqrt(v + epsilon) * scale + bias; m, v over x and `missing` more numbers of mean `fill`",
    text="""
<domain: "graphopt", opset_import: ["" : {opset}]>
MaskedLayerNorm <missing: int = 0, fill: float = 0.0, spread: float = 0.0, epsilon: float = 0.00001>
  (x, scale, bias) => (y)
{
  last = Constant <value = int64[1] {-1}> ()
  size = Shape <start = -1> (x)
  present = Cast <to = 1> (size)
  count = Constant <value_int: int = @missing> ()
  absent = Cast <to = 1> (count)
  total = Add (present, absent)
  fill = Constant <value_float: float = @fill> ()
  spread = Constant <value_float: float = @spread> ()
  epsilon = Constant <value_float: float = @epsilon> ()
  wide = Cast <to = 1> (x)
  sum = ReduceSum <keepdims = 1> (wide, last)
  rest = Mul (absent, fill)
  all = Add (sum, rest)
  mean = Div (all, total)
  centred = Sub (wide, mean)
  squares = ReduceSumSquare <keepdims = 1> (centred, last)
  off = Sub (fill, mean)
  square = Mul (off, off)
  others = Mul (absent, square)
  every = Add (squares, others)
  known = Div (every, total)
  variance = Add (known, spread)
  safe = Add (variance, epsilon)
  deviation = Sqrt (safe)
  normal = Div (centred, deviation)
  factor = Cast <to = 1> (scale)
  scaled = Mul (normal, factor)
  shift = Cast <to = 1> (bias)
  shifted = Add (scaled, shift)
  y = CastLike (shifted, x)
}
""",
    since=18,
    reference=masked_layer_norm,
    providers=("cpu", "cuda"),
    inputs=("x", "scale", "bias"),
    attributes={"missing": 0, "fill": 0.0, "spread": 0.0, "epsilon": 1e-5},
)
