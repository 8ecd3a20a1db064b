"""``SparseGemm24``: a product with a constant weight of which two of every four numbers are zero.

Float16 and bfloat16: what the tensor cores of a GPU take twice as fast with such weights. On a processor, where half of
the multiplications do not pay for finding the other half, the weight is rebuilt when a model is loaded.
"""

from __future__ import annotations

from graphopt.runtime_ops.operator import Operator
from graphopt.runtime_ops.sparse_gemm24.reference import sparse_gemm24

OPERATOR = Operator(
    name="SparseGemm24",
    summary="out[..., n] = sum over k of x[..., k] * weight[k, n]; the weight is 2:4 along k",
    text="""
<domain: "graphopt", opset_import: ["" : {opset}]>
SparseGemm24 (x, values, indices) => (out)
{
  zero = Constant <value = int64[1] {0}> ()
  one = Constant <value = int64[1] {1}> ()
  two = Constant <value = int64[1] {2}> ()
  two_scalar = Constant <value = int64 {2}> ()
  four = Constant <value = int64 {4}> ()
  start = Constant <value = int64 {0}> ()
  step = Constant <value = int64 {1}> ()
  shifts = Constant <value = int32[4] {1, 4, 16, 64}> ()
  last = Constant <value = int64[1] {2}> ()
  values_shape = Shape (values)
  columns = Slice (values_shape, zero, one)
  half = Slice (values_shape, one, two)
  rows = Mul (half, two)
  bytes = Cast <to = 6> (indices)
  each = Unsqueeze (bytes, last)
  shifted = Div (each, shifts)
  modulus = Constant <value = int32 {4}> ()
  places = Mod (shifted, modulus)
  width_of_bytes = Shape <start = 1, end = 2> (indices)
  fours = Constant <value = int64[1] {4}> ()
  width = Mul (width_of_bytes, fours)
  places_shape = Concat <axis = 0> (columns, width)
  all_places = Reshape <allowzero = 1> (places, places_shape)
  used = Slice (all_places, zero, half, one)
  used_places = Cast <to = 7> (used)
  half_scalar = Squeeze (half, zero)
  numbers = Range (start, half_scalar, step)
  groups = Div (numbers, two_scalar)
  firsts = Mul (groups, four)
  positions = Add (firsts, used_places)
  dense_shape = Concat <axis = 0> (columns, rows)
  nothing = ConstantOfShape <value = float[1] {0}> (dense_shape)
  empty = CastLike (nothing, values)
  turned = ScatterElements <axis = 1> (empty, positions, values)
  weight = Transpose <perm = [1, 0]> (turned)
  out = MatMul (x, weight)
}
""",
    since=18,
    reference=sparse_gemm24,
    providers=("cpu", "cuda"),
    inputs=("x", "values", "indices"),
)
