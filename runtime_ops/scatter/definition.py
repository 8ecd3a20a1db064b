"""``Scatter``: numbers are written along an axis, fills elsewhere."""

from __future__ import annotations

from graphopt.runtime_ops.gather.definition import PLACED
from graphopt.runtime_ops.operator import Operator
from graphopt.runtime_ops.scatter.reference import scatter

INVERSE = """
  second = Constant <value = int64[1] {1}> ()
  none = ConstantOfShape <value = int64[1] {-1}> (total)
  rows = Unsqueeze (indices, second)
  nought = Constant <value = int64 {0}> ()
  step = Constant <value = int64 {1}> ()
  all_given = Shape (indices)
  given = Squeeze (all_given)
  sequence = Range (nought, given, step)
  places = ScatterND (none, rows, sequence)
"""
"""``places[indices[i]] = i`` and -1 elsewhere; ``total`` (``[1]``) is their number."""

OPERATOR = Operator(
    name="Scatter",
    summary="out[..., indices[i], ...] = updates[..., i, ...]; fill[j] elsewhere",
    text=f"""
<domain: "graphopt", opset_import: ["" : {{opset}}]>
Scatter <axis> (updates, indices, fill) => (out)
{{
  source = Identity (updates)
  total = Shape (fill)
{INVERSE}
{PLACED}
  out = Identity (placed)
}}
""",
    since=18,
    reference=scatter,
    providers=("cpu", "cuda"),
    inputs=("updates", "indices", "fill"),
    attributes={"axis": 0},
)
