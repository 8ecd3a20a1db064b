"""TensorRT's form of an explicitly quantized network: int8 with zero point 0 everywhere, biases in float.

Q and DQ stand on the inputs of operators that shall run on integers, weights included, and on both inputs of a residual
addition; none stands between a convolution and its ReLU, which are one layer there. Where integers pay is TensorRT's
business: it measures every layer in each type.

Source: NVIDIA, developer guide of TensorRT 10, "Working with Quantized Types".
"""

from __future__ import annotations

from graphopt.quantization.tables import conditions as on
from graphopt.quantization.tables.rows import Row, Table

_FOLLOW = Row("follow", output="either", cost=(0.25, 0.1))

ROWS = {
    "Conv": Row("compute", weight=1, bias=2, channels=on.first_output_channels, output="either"),
    "ConvTranspose": Row(
        "compute", weight=1, bias=2, channels=on.second_output_channels, output="either", when=(on.ungrouped,)
    ),
    "MatMul": Row("compute", data=(0, 1), weight=1, channels=on.product_columns, output="either"),
    "Gemm": Row(
        "compute", data=(0, 1), weight=1, bias=2, channels=on.gemm_columns, output="either", when=(on.plain_gemm,)
    ),
    "Add": Row("follow", data=(0, 1), output="either", cost=(0.25, 0.1), when=(on.residual,)),
    "AveragePool": _FOLLOW,
    "GlobalAveragePool": _FOLLOW,
    "MaxPool": Row("follow", output="either", cost=(0.25, 0.1), when=(on.one_output,)),
}

TABLE = Table(
    ROWS,
    activations=("int8", "none"),
    weights=("int8",),
    symmetric=True,
    bias="float",
    absorbs=False,
    thrifty=False,
    reasons={name: "TensorRT's integers are signed, with zero point 0" for name in ("uint8", "uint16", "int16")},
)
