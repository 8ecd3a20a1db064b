"""``BinaryConv``: a convolution of signs, scaled per channel."""

from __future__ import annotations

from graphopt.runtime_ops.binary_conv.reference import binary_conv
from graphopt.runtime_ops.binary_gemm.definition import signs
from graphopt.runtime_ops.operator import Operator

ATTRIBUTES = "channels, group, strides, pads, dilations"

# The sums: x [B, C, H, W], bytes [M, kH, kW, ceil(C / group / 8)] -> acc [B, M, H', W'], float; a place in the padding
# adds 0.
SUMS = f"""{signs(4, "channels")}
  filters = Transpose <perm: ints = [0, 3, 1, 2]> (rows)
  acc = Conv <group: int = @group, strides: ints = @strides, pads: ints = @pads, dilations: ints = @dilations>
    (signs, filters)
  image = Constant <value = int64[2] {{1, 2}}> ()
"""

DEFAULTS = {"channels": 0, "group": 1, "strides": [1, 1], "pads": [0, 0, 0, 0], "dilations": [1, 1]}

OPERATOR = Operator(
    name="BinaryConv",
    summary="y = scale * conv(sign(x), weights) + bias; sign(0) = -1, weights are bits [M, kH, kW, bytes of channels]",
    text=f"""
<domain: "graphopt", opset_import: ["" : {{opset}}]>
BinaryConv <{ATTRIBUTES}> (x, weights, scale, bias) => (y)
{{{SUMS}
  scales = Unsqueeze (scale, image)
  scaled = Mul (acc, scales)
  biases = Unsqueeze (bias, image)
  y = Add (scaled, biases)
}}
""",
    since=18,
    reference=binary_conv,
    providers=("cpu", "cuda"),
    inputs=("x", "weights", "scale", "bias"),
    attributes=DEFAULTS,
)
