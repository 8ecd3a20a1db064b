"""``BinaryConv``: a convolution of signs, scaled per channel."""

from __future__ import annotations

from graphopt.runtime_ops.binary_conv.reference import binary_conv
from graphopt.runtime_ops.operator import Operator

ATTRIBUTES = "channels, group, strides, pads, dilations"

# The sums: x [B, C, H, W], bytes [M, kH, kW, ceil(C / group / 8)] -> acc [B, M, H', W'], float; a place in the padding
# adds 0. Bits beyond the channels are cut off.
SUMS = """
  none = Constant <value = float {0.0}> ()
  plus = Constant <value = float {1.0}> ()
  minus = Constant <value = float {-1.0}> ()
  numbers = Cast <to: int = 1> (x)
  positive = Greater (numbers, none)
  signs = Where (positive, plus, minus)
  powers = Constant <value = uint8[8] {1, 2, 4, 8, 16, 32, 64, 128}> ()
  last = Constant <value = int64[1] {-1}> ()
  bytes = Unsqueeze (weights, last)
  masked = BitwiseAnd (bytes, powers)
  set = Cast <to: int = 9> (masked)
  spread = Where (set, plus, minus)
  packed_sizes = Shape (weights)
  eight = Constant <value = int64[4] {1, 1, 1, 8}> ()
  sizes = Mul (packed_sizes, eight)
  whole = Reshape <allowzero: int = 1> (spread, sizes)
  first = Constant <value = int64[1] {0}> ()
  count = Constant <value_int: int = @channels> ()
  end = Unsqueeze (count, first)
  behind = Slice (whole, first, end, last)
  filters = Transpose <perm: ints = [0, 3, 1, 2]> (behind)
  acc = Conv <group: int = @group, strides: ints = @strides, pads: ints = @pads, dilations: ints = @dilations>
    (signs, filters)
  image = Constant <value = int64[2] {1, 2}> ()
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
