"""``GatherGemmScatter``: a product with a weight that consists of blocks."""

from __future__ import annotations

from graphopt.runtime_ops.gather_gemm_scatter.reference import gather_gemm_scatter
from graphopt.runtime_ops.operator import Operator

OPERATOR = Operator(
    name="GatherGemmScatter",
    summary="out = max(y + sum over b of (x[..., columns[b]] weights[b] at [..., rows[b]]), floor)",
    text="""
<domain: "graphopt", opset_import: ["" : {opset}]>
GatherGemmScatter (y, x, columns, rows, weights, floor) => (out)
{
  zero = Constant <value = int64 {0}> ()
  one = Constant <value = int64[1] {1}> ()
  two = Constant <value = int64[1] {2}> ()
  three = Constant <value = int64[1] {3}> ()
  origin = Constant <value = int64[2] {0, 0}> ()
  read = Shape <start: int = -1> (x)
  added = Shape <start: int = -1> (y)
  no_column = Less (columns, zero)
  column = Where (no_column, read, columns)
  no_row = Less (rows, zero)
  row = Where (no_row, added, rows)
  sizes = Shape (weights)
  down = Unsqueeze (column, two)
  across = Unsqueeze (row, one)
  grid = ConstantOfShape <value = int64[1] {0}> (sizes)
  all_down = Add (down, grid)
  all_across = Add (across, grid)
  first = Unsqueeze (all_down, three)
  second = Unsqueeze (all_across, three)
  places = Concat <axis: int = 3> (first, second)
  whole = Concat <axis: int = 0> (read, added)
  wide = Add (whole, one)
  zeros = ConstantOfShape <value = float[1] {0}> (wide)
  empty = CastLike (zeros, weights)
  filled = ScatterND (empty, places, weights)
  dense = Slice (filled, origin, whole)
  product = MatMul (x, dense)
  sum = Add (product, y)
  out = Clip (sum, floor)
}
""",
    since=18,
    reference=gather_gemm_scatter,
    providers=("cpu", "cuda"),
    inputs=("y", "x", "columns", "rows", "weights", "floor"),
)
