"""``BinaryConvSign``: a convolution of signs, and the sign of what it exceeds a threshold by."""

from __future__ import annotations

from graphopt.runtime_ops.binary_conv.definition import ATTRIBUTES, DEFAULTS, SUMS
from graphopt.runtime_ops.binary_conv_sign.reference import binary_conv_sign
from graphopt.runtime_ops.operator import Operator

OPERATOR = Operator(
    name="BinaryConvSign",
    summary="y = +1 where conv(sign(x), weights) > threshold, else -1, as int8; weights are bits as in BinaryConv",
    text=f"""
<domain: "graphopt", opset_import: ["" : {{opset}}]>
BinaryConvSign <{ATTRIBUTES}> (x, weights, threshold) => (y)
{{{SUMS}
  limits = Unsqueeze (threshold, image)
  above = Greater (acc, limits)
  up = Constant <value = int8 {{1}}> ()
  down = Constant <value = int8 {{-1}}> ()
  y = Where (above, up, down)
}}
""",
    since=18,
    reference=binary_conv_sign,
    providers=("cpu", "cuda"),
    inputs=("x", "weights", "threshold"),
    attributes=DEFAULTS,
)
