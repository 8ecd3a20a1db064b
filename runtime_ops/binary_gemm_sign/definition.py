"""``BinaryGemmSign``: a matrix product of signs, and the sign of what it exceeds a threshold by."""

from __future__ import annotations

from graphopt.runtime_ops.binary_gemm.definition import PRODUCT
from graphopt.runtime_ops.binary_gemm_sign.reference import binary_gemm_sign
from graphopt.runtime_ops.operator import Operator

OPERATOR = Operator(
    name="BinaryGemmSign",
    summary="y = +1 where sign(x) @ weights.T > threshold, else -1, as int8; weights are bits as in BinaryGemm",
    text=f"""
<domain: "graphopt", opset_import: ["" : {{opset}}]>
BinaryGemmSign <k> (x, weights, threshold) => (y)
{{{PRODUCT}
  above = Greater (acc, threshold)
  up = Constant <value = int8 {{1}}> ()
  down = Constant <value = int8 {{-1}}> ()
  y = Where (above, up, down)
}}
""",
    since=18,
    reference=binary_gemm_sign,
    providers=("cpu", "cuda"),
    inputs=("x", "weights", "threshold"),
    attributes={"k": 0},
)
