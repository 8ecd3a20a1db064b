"""``TernaryGemm``: weights of a few levels, two or four bits each, times 8-bit activations."""

from __future__ import annotations

from graphopt.runtime_ops.operator import Operator
from graphopt.runtime_ops.ternary_gemm.reference import ternary_gemm

OPERATOR = Operator(
    name="TernaryGemm",
    summary="y[..., n] = (sum_k (q(x)[..., k] - x_zero_point) levels[codes[n, k]]) x_scale scale[n] + bias[n]",
    text="""
<domain: "graphopt", opset_import: ["" : {opset}]>
TernaryGemm <bits: int = 2, stored: int = 0>
  (x, codes, levels, scale, bias, x_scale, x_zero_point) => (y)
{
  zero = Constant <value = int64 {0}> ()
  eight = Constant <value = int64 {8}> ()
  first = Constant <value = int64[1] {0}> ()
  second = Constant <value = int64[1] {1}> ()
  third = Constant <value = int64[1] {2}> ()
  one = Constant <value = float {1.0}> ()
  bits = Constant <value_int: int = @bits> ()
  rest = Sub (eight, bits)
  right = Range (zero, eight, bits)
  left = Sub (rest, right)
  lefts = Cast <to = 2> (left)
  rests = Cast <to = 2> (rest)
  packed = Unsqueeze (codes, third)
  raised = BitShift <direction = "LEFT"> (packed, lefts)
  spread = BitShift <direction = "RIGHT"> (raised, rests)
  wide = Flatten <axis = 1> (spread)
  size = Shape <start = -1> (x)
  narrow = Slice (wide, first, size, second)
  places = Cast <to = 7> (narrow)
  rows = Gather (levels, places)
  weight = Transpose <perm = [1, 0]> (rows)
  is_stored = Constant <value_int: int = @stored> ()
  given = Cast <to = 9> (is_stored)
  number = Cast <to = 1> (x)
  origin = Cast <to = 1> (x_zero_point)
  step = Sub (number, origin)
  value = Where (given, step, number)
  unit = Where (given, one, x_scale)
  quantized = QuantizeLinear (value, unit, x_zero_point)
  sums = MatMulInteger (quantized, weight, x_zero_point)
  exact = Cast <to = 1> (sums)
  factor = Mul (x_scale, scale)
  product = Mul (exact, factor)
  y = Add (product, bias)
}
""",
    since=18,
    reference=ternary_gemm,
    providers=("cpu", "cuda"),
    inputs=("x", "codes", "levels", "scale", "bias", "x_scale", "x_zero_point"),
    attributes={"bits": 2, "stored": 0},
)
