"""``ScatterAdd``: the join of a narrowed branch into a full residual stream."""

from __future__ import annotations

from graphopt.runtime_ops.gather.definition import PLACED
from graphopt.runtime_ops.operator import Operator
from graphopt.runtime_ops.scatter.definition import INVERSE
from graphopt.runtime_ops.scatter_add.reference import scatter_add

OPERATOR = Operator(
    name="ScatterAdd",
    summary="out = data; out[..., indices[i], ...] += updates[..., i, ...]; += fill[j] elsewhere; at least floor",
    text=f"""
<domain: "graphopt", opset_import: ["" : {{opset}}]>
ScatterAdd <axis> (data, indices, updates, fill, floor) => (out)
{{
  source = Identity (updates)
  place = Constant <value_ints: ints = [0]> ()
  data_axis = Constant <value_int: int = @axis> ()
  data_sizes = Shape (data)
  all = Gather (data_sizes, data_axis)
  total = Unsqueeze (all, place)
{INVERSE}
{PLACED}
  sum = Add (data, placed)
  out = Clip (sum, floor)
}}
""",
    since=18,
    reference=scatter_add,
    providers=("cpu", "cuda"),
    inputs=("data", "indices", "updates", "fill", "floor"),
    attributes={"axis": 0},
)
