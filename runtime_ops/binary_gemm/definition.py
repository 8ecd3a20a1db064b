"""``BinaryGemm``: a matrix product of signs, scaled per channel."""

from __future__ import annotations

from graphopt.runtime_ops.binary_gemm.reference import binary_gemm
from graphopt.runtime_ops.operator import Operator


def signs(rank: int, count: str) -> str:
    """Return the text that makes ``signs`` of ``x``, and of ``weights``, bytes ``[..., ceil(k / 8)]``, ``rows``.

    Both are floats, -1 or 1; ``rows`` is ``[..., k]``: bits beyond the attribute ``count``, which is k, are cut off.

    Args:
        rank: Of the weights.
        count: The name of the attribute.
    """
    eight = ", ".join(["1"] * (rank - 1) + ["8"])
    return f"""
  none = Constant <value = float {{0.0}}> ()
  plus = Constant <value = float {{1.0}}> ()
  minus = Constant <value = float {{-1.0}}> ()
  numbers = Cast <to: int = 1> (x)
  positive = Greater (numbers, none)
  signs = Where (positive, plus, minus)
  powers = Constant <value = uint8[8] {{1, 2, 4, 8, 16, 32, 64, 128}}> ()
  last = Constant <value = int64[1] {{-1}}> ()
  bytes = Unsqueeze (weights, last)
  masked = BitwiseAnd (bytes, powers)
  set = Cast <to: int = 9> (masked)
  spread = Where (set, plus, minus)
  packed_sizes = Shape (weights)
  eight = Constant <value = int64[{rank}] {{{eight}}}> ()
  sizes = Mul (packed_sizes, eight)
  whole = Reshape <allowzero: int = 1> (spread, sizes)
  first = Constant <value = int64[1] {{0}}> ()
  count = Constant <value_int: int = @{count}> ()
  end = Unsqueeze (count, first)
  rows = Slice (whole, first, end, last)"""


# The sums: x [..., K], bytes [N, ceil(K / 8)] -> acc [..., N], float.
PRODUCT = f"""{signs(2, "k")}
  columns = Transpose <perm: ints = [1, 0]> (rows)
  acc = MatMul (signs, columns)
"""

OPERATOR = Operator(
    name="BinaryGemm",
    summary="y = scale * (sign(x) @ weights.T) + bias; sign(0) = -1, weights are bits, 1 for +1 and 0 for -1",
    text=f"""
<domain: "graphopt", opset_import: ["" : {{opset}}]>
BinaryGemm <k> (x, weights, scale, bias) => (y)
{{{PRODUCT}
  scaled = Mul (acc, scale)
  y = Add (scaled, bias)
}}
""",
    since=18,
    reference=binary_gemm,
    providers=("cpu", "cuda"),
    inputs=("x", "weights", "scale", "bias"),
    attributes={"k": 0},
)
