"""``Gather``: numbers along an axis, or a fill where there is none."""

from __future__ import annotations

from graphopt.runtime_ops.gather.reference import gather
from graphopt.runtime_ops.operator import Operator

OPERATOR = Operator(
    name="Gather",
    summary="out[..., i, ...] = data[..., indices[i], ...]; fill where indices[i] < 0",
    text="""
<domain: "graphopt", opset_import: ["" : {opset}]>
Gather <axis> (data, indices, fill) => (out)
{
  zero = Constant <value = int64 {0}> ()
  first = Constant <value = int64[1] {0}> ()
  behind = Constant <value = int64[2] {0, 1}> ()
  axis = Constant <value_int: int = @axis> ()
  axes = Unsqueeze (axis, first)
  padded = Pad (data, behind, fill, axes)
  sizes = Shape (data)
  size = Gather (sizes, axis)
  absent = Less (indices, zero)
  there = Where (absent, size, indices)
  out = Gather <axis: int = @axis> (padded, there)
}
""",
    since=18,
    reference=gather,
    providers=("cpu", "cuda"),
    inputs=("data", "indices", "fill"),
    attributes={"axis": 0},
)
