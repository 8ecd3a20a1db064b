"""``Gather``: numbers along an axis, or a fill where there is none."""

from __future__ import annotations

from graphopt.runtime_ops.gather.reference import gather
from graphopt.runtime_ops.operator import Operator

PLACED = """
  zero = Constant <value = int64 {0}> ()
  one = Constant <value = int64 {1}> ()
  flat = Constant <value = int64[1] {-1}> ()
  given_axis = Constant <value_int: int = @axis> ()
  sizes = Shape (source)
  ranks = Shape (sizes)
  rank = Squeeze (ranks)
  at = Mod (given_axis, rank)
  axes = Range (zero, rank, one)
  here = Equal (axes, at)
  fills = Reshape (fill, flat)
  kind = Shape (fills)
  kinds = Squeeze (kind)
  plane = Where (here, kinds, sizes)
  column = Where (here, kinds, one)
  numbers = Range (zero, kinds, one)
  numbered = Reshape <allowzero: int = 1> (numbers, column)
  spread = Expand (numbered, plane)
  filled = Gather <axis: int = 0> (fills, spread)
  wide = Concat <axis: int = @axis> (source, filled)
  size = Gather (sizes, at)
  counted = Shape (places)
  count = Squeeze (counted)
  order = Range (zero, count, one)
  modulus = Max (kinds, one)
  which = Mod (order, modulus)
  behind = Add (size, which)
  absent = Less (places, zero)
  there = Where (absent, behind, places)
  placed = Gather <axis: int = @axis> (wide, there)
"""
"""``placed[..., j, ...] = source[..., places[j], ...]``, ``fill[j]`` where ``places[j] < 0``.

The fills become a slice behind the source, so that one more Gather does it: Concat and Gather are there for every type.
The slice itself is gathered, too (by numbers that Expand spread out), for bfloat16 is not expanded everywhere. Numbers
are counted with Shape: onnxruntime takes the Size of a shape for the product of what the shape holds.
"""

OPERATOR = Operator(
    name="Gather",
    summary="out[..., j, ...] = data[..., indices[j], ...]; fill, or fill[j], where indices[j] < 0",
    text=f"""
<domain: "graphopt", opset_import: ["" : {{opset}}]>
Gather <axis> (data, indices, fill) => (out)
{{
  source = Identity (data)
  places = Identity (indices)
{PLACED}
  out = Identity (placed)
}}
""",
    since=18,
    reference=gather,
    providers=("cpu", "cuda"),
    inputs=("data", "indices", "fill"),
    attributes={"axis": 0},
)
