"""``Histogram``: hands a tensor on, and keeps a histogram of all that passed.

What the function promises, and the kernel too: the input as it is, and how many of the numbers in each row, along the
first axis, are NaN and infinite. Either output may be left out. What the kernel does beside that, in a session that has
the library, is to count the numbers into the statistics that lie under ``handle``
(:mod:`graphopt.runtime_ops.histogram.handle`): no output depends on them, and where the function runs instead, they
stay empty. A handle belongs to a process, so a model with one is not for keeping; with handle 0 nothing is kept.
"""

from __future__ import annotations

from graphopt.runtime_ops.histogram.reference import histogram
from graphopt.runtime_ops.operator import Operator

OPERATOR = Operator(
    name="Histogram",
    summary="same = x, nonfinite[i] = [NaN in x[i], infinities in x[i]]; the library counts x into statistics `handle`",
    text="""
<domain: "graphopt", opset_import: ["" : {opset}]>
Histogram <handle> (x) => (same, nonfinite)
{
  same = Identity (x)
  wide = Cast <to = 11> (x)
  is_nan = IsNaN (wide)
  is_infinite = IsInf (wide)
  nan = Cast <to = 7> (is_nan)
  infinite = Cast <to = 7> (is_infinite)
  one = Constant <value = int64 {1}> ()
  sizes = Shape (x)
  rank = Size (sizes)
  inner = Range (one, rank, one)
  nans = ReduceSum <keepdims = 0, noop_with_empty_axes = 1> (nan, inner)
  infinities = ReduceSum <keepdims = 0, noop_with_empty_axes = 1> (infinite, inner)
  column = Constant <value = int64[2] {-1, 1}> ()
  nan_column = Reshape (nans, column)
  infinite_column = Reshape (infinities, column)
  nonfinite = Concat <axis = 1> (nan_column, infinite_column)
}
""",
    since=18,
    reference=histogram,
    providers=("cpu", "cuda"),
    inputs=("x",),
    attributes={"handle": 0},
)
