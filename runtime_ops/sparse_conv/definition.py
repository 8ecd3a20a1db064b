"""``SparseConv``: a convolution with a constant weight of which most numbers are zero."""

from __future__ import annotations

from graphopt.runtime_ops.operator import Operator
from graphopt.runtime_ops.sparse_conv.reference import sparse_conv

OPERATOR = Operator(
    name="SparseConv",
    summary="out = act(Conv(x, weight, bias)); act = Relu if relu",
    text="""
<domain: "graphopt", opset_import: ["" : {opset}]>
SparseConv <shape, strides, pads, dilations, group, relu> (x, values, gaps, bias) => (out)
{
  sizes = Constant <value_ints: ints = @shape> ()
  size = ReduceProd <keepdims = 1> (sizes)
  empty = ConstantOfShape <value = float[1] {0}> (size)
  steps = Cast <to = 7> (gaps)
  axis = Constant <value = int64 {0}> ()
  positions = CumSum (steps, axis)
  flat = ScatterElements <axis = 0> (empty, positions, values)
  weight = Reshape (flat, sizes)
  sum = Conv
    <strides: ints = @strides, pads: ints = @pads, dilations: ints = @dilations, group: int = @group>
    (x, weight, bias)
  flag = Constant <value_int: int = @relu> ()
  positive = Cast <to = 9> (flag)
  zero = Constant <value = float {0}> ()
  lowest = Constant <value = float {-inf}> ()
  least = Where (positive, zero, lowest)
  out = Clip (sum, least)
}
""",
    since=18,
    reference=sparse_conv,
    providers=("cpu",),
    inputs=("x", "values", "gaps", "bias"),
    attributes={"shape": [1, 1, 1, 1], "strides": [1, 1], "pads": [0] * 4, "dilations": [1, 1], "group": 1, "relu": 0},
)
"""Inputs: ``x`` float32 ``[N, C, H, W]`` or ``[N, C, L]``, ``bias`` float32 ``[M]``; the weight
``[M, C/group, kH, kW]`` or ``[M, C/group, k]`` in compact form (``graphopt.runtime_ops.compact``), two initializers:
``values`` float32, ``gaps`` uint8, int32 or int64. ``shape`` is the weight's; the other attributes are those of
``Conv``, with one number an axis.

Zeros are left out, so that the kernel equals the function for finite inputs. The bound on the difference to the exact
result is that of ``SparseGemm``, n being the number of nonzeros of the filter.
"""
