"""onnxruntime's CUDA provider with graphopt's operators: Int8Conv and Int8Gemm, and what moves their integers about.

The provider itself has kernels for QuantizeLinear, DequantizeLinear and for copies of int8, and nothing that computes
with them. So every Conv and every product with a constant matrix runs as ``Int8Conv`` or ``Int8Gemm``, whose kernels
read int8 with any zero point, weights with a scale for each output channel, and add the residual of a block before they
round (no Q stands between a convolution and the addition that takes its sum). What has no row is computed in float.
Which pass writes the calls is in ``graphopt.targets.lowerings``; what it declines is returned to float.

Costs decide nothing here: the operators are not measured yet, and a Conv between DQ and Q gains nothing otherwise.
"""

from __future__ import annotations

from graphopt.quantization.tables import conditions as on
from graphopt.quantization.tables.rows import Row, Table

_COPY = Row("move", direct=True, cost=(0.01, 0.005))

ROWS = {
    "Conv": Row("compute", weight=1, bias=2, channels=on.first_output_channels, adds=True),
    "Gemm": Row(
        "compute", weight=1, bias=2, channels=on.gemm_columns, adds=True, when=(on.plain_gemm, on.rows_as_they_are)
    ),
    "MatMul": Row("compute", weight=1, channels=on.product_columns, adds=True, when=(on.one_matrix,)),
    "Add": Row("follow", data=(0, 1), when=(on.residual, on.behind_a_product)),
    "MaxPool": Row("move", direct=True, cost=(0.01, 0.005), when=(on.one_output,)),
    "Reshape": _COPY,
    "Squeeze": _COPY,
    "Unsqueeze": _COPY,
    "Flatten": _COPY,
    "Transpose": _COPY,
    "Slice": _COPY,
    "Relu": Row("absorb"),
    "Clip": Row("absorb"),
}

TABLE = Table(
    ROWS,
    activations=("int8",),
    weights=("int8",),
    thrifty=False,
    kernels={"Conv": "Int8Conv", "Gemm": "Int8Gemm", "MatMul": "Int8Gemm", "Add": "in the operator before it"},
    reasons={
        name: "onnxruntime's CUDA provider has no integer convolution or product, and graphopt's operators read int8"
        for name in ("uint8", "uint16", "int16")
    },
)
