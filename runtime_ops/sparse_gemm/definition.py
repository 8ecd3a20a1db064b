"""``SparseGemm``: a product with a constant weight of which most numbers are zero."""

from __future__ import annotations

from graphopt.runtime_ops.operator import Operator
from graphopt.runtime_ops.sparse_gemm.reference import sparse_gemm

OPERATOR = Operator(
    name="SparseGemm",
    summary="out[..., n] = act(bias[n] + sum over k of x[..., k] * weight[k, n]); act = Relu if relu",
    text="""
<domain: "graphopt", opset_import: ["" : {opset}]>
SparseGemm <shape, relu> (x, values, gaps, bias) => (out)
{
  sizes = Constant <value_ints: ints = @shape> ()
  size = ReduceProd <keepdims = 1> (sizes)
  empty = ConstantOfShape <value = float[1] {0}> (size)
  steps = Cast <to = 7> (gaps)
  axis = Constant <value = int64 {0}> ()
  positions = CumSum (steps, axis)
  flat = ScatterElements <axis = 0> (empty, positions, values)
  weight = Reshape <allowzero = 1> (flat, sizes)
  product = MatMul (x, weight)
  sum = Add (product, bias)
  flag = Constant <value_int: int = @relu> ()
  positive = Cast <to = 9> (flag)
  zero = Constant <value = float {0}> ()
  lowest = Constant <value = float {-inf}> ()
  least = Where (positive, zero, lowest)
  out = Clip (sum, least)
}
""",
    since=18,
    reference=sparse_gemm,
    providers=("cpu",),
    inputs=("x", "values", "gaps", "bias"),
    attributes={"shape": [0, 0], "relu": 0},
)
"""Inputs: ``x`` float32 ``[..., K]`` (two axes or more), ``bias`` float32 ``[N]``; the weight ``[K, N]`` in compact
form (``graphopt.runtime_ops.compact``), two initializers: ``values`` float32, ``gaps`` uint8, int32 or int64. ``shape``
is ``[K, N]``.

Zeros are left out, so that the kernel equals the function for finite inputs: ``0 * inf`` is no number, and is not
computed. The order of the sums differs from a dense product; either differs from the exact result by at most
``(n + 1) u (|bias| + |x| |weight|)`` to first order, ``u = 2^-24``, where n is the number of nonzeros of the column
(K for the dense product): N. Higham, *Accuracy and Stability of Numerical Algorithms*, 2nd ed., section 3.1.
"""
