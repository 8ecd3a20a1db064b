"""onnxruntime's CPU provider, as measured on 1.31: which patterns of DQ, operator, Q become integer kernels.

``tests/quantization/test_tables.py`` builds each row and reads onnxruntime's optimized graph.
"""

from __future__ import annotations

from graphopt.quantization.tables import conditions as on
from graphopt.quantization.tables.rows import Row, Table

_MOVE = Row("move")
_FOLLOW = Row("follow")
_BOTH = Row("follow", data=(0, 1), constants=True)

ROWS = {
    "Conv": Row("compute", weight=1, bias=2, channels=on.first_output_channels),
    "MatMul": Row(
        "compute",
        data=(0, 1),
        weight=1,
        channels=on.product_columns,
        constants=True,
        output="either",
        joined=on.product_as_gemm,
    ),
    "Gemm": Row(
        "compute",
        data=(0, 1),
        weight=1,
        bias=2,
        channels=on.gemm_columns,
        output="either",
        joined=on.clipped_product,
        when=(on.plain_gemm,),
    ),
    "Add": _BOTH,
    "Mul": _BOTH,
    "Concat": Row("follow", data=(), constants=True),
    "Where": Row("follow", data=(1, 2), constants=True),
    "AveragePool": _FOLLOW,
    "GlobalAveragePool": _FOLLOW,
    "Softmax": _FOLLOW,
    "Sigmoid": _FOLLOW,
    "LeakyRelu": _FOLLOW,
    "ArgMax": Row("follow", output="other"),
    "MaxPool": Row("move", when=(on.one_output,)),
    "ReduceMax": _MOVE,
    "ReduceMin": _MOVE,
    "Reshape": _MOVE,
    "Transpose": _MOVE,
    "Squeeze": _MOVE,
    "Unsqueeze": _MOVE,
    "Flatten": _MOVE,
    "Slice": _MOVE,
    "Split": _MOVE,
    "Gather": _MOVE,
    "GatherElements": _MOVE,
    "Expand": _MOVE,
    "Tile": _MOVE,
    "DepthToSpace": _MOVE,
    "Resize": Row("move", when=(on.nearest,)),
    "Relu": Row("absorb"),
    "Clip": Row("absorb"),
}

TABLE = Table(
    ROWS,
    activations=("uint8", "none", "uint7", "uint6", "uint5", "uint4", "uint3", "levels"),
    weights=("int8", "int7", "int6", "int5", "int4", "int3", "ternary", "levels"),
    takes=frozenset({"Conv", "ConvTranspose", "Gemm"}),
)
