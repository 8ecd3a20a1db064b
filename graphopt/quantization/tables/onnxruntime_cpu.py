"""onnxruntime's CPU provider, as measured on 1.31: which patterns of DQ, operator, Q become integer kernels.

``tests/quantization/test_tables.py`` builds each row and reads onnxruntime's optimized graph. There is no row for
Softmax: QLinearSoftmax takes five times as long as Softmax, and leaves its output missing where the batch is empty.
"""

from __future__ import annotations

from dataclasses import replace

from graphopt.quantization.tables import conditions as on
from graphopt.quantization.tables.rows import Row, Table

_VIEW = Row("move", cost=(0.01, 0.01))
_MOVE = Row("move", cost=(0.16, 0.07))
_SUM = Row("follow", data=(0, 1), constants=True, cost=(0.28, 0.17))

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
    "Add": _SUM,
    "Mul": replace(_SUM, cost=(0.29, 0.24)),
    "Concat": Row("follow", data=(), constants=True, cost=(0.32, 0.28)),
    "Where": Row("follow", data=(1, 2), constants=True, cost=(0.3, 0.3)),
    "AveragePool": Row("follow", cost=(0.25, 1.2)),
    "GlobalAveragePool": Row("follow", cost=(0.2, 0.06)),
    "Sigmoid": Row("follow", cost=(0.31, 0.27)),
    "LeakyRelu": Row("follow", cost=(0.2, 0.27)),
    "ArgMax": Row("follow", output="other"),
    "MaxPool": Row("move", cost=(0.28, 0.1), apart=2.5, when=(on.one_output,)),
    "ReduceMax": _MOVE,
    "ReduceMin": _MOVE,
    "Reshape": _VIEW,
    "Squeeze": _VIEW,
    "Unsqueeze": _VIEW,
    "Flatten": _VIEW,
    "Transpose": _MOVE,
    "Slice": _MOVE,
    "Split": _MOVE,
    "Gather": _MOVE,
    "GatherElements": _MOVE,
    "Expand": _MOVE,
    "Tile": _MOVE,
    "DepthToSpace": _MOVE,
    "Resize": Row("move", cost=(4.0, 4.0), when=(on.nearest,)),
    "Pad": Row("move", cost=(0.2, 0.06), direct=True, when=(on.zero_padding,)),
    "SpaceToDepth": replace(_MOVE, direct=True),
    "Relu": Row("absorb"),
    "Clip": Row("absorb"),
}

_LOADS_NOT = "onnxruntime's CPU provider does not load it under default options"
_NO_KERNEL = "onnxruntime's CPU provider has no integer kernel for it: every operator would dequantize and run in float"

TABLE = Table(
    ROWS,
    activations=("uint8", "none", "uint7", "uint6", "uint5", "uint4", "uint3", "uint2", "levels"),
    weights=("int8", "int7", "int6", "int5", "int4", "int3", "int2", "ternary", "levels"),
    bytes=True,
    fused={"HardSwish": 0.35, "HardSigmoid": 0.16, "LeakyRelu": 0.2, "Sigmoid": 0.31, "Tanh": 0.28},
    takes=frozenset({"AveragePool", "Conv", "ConvTranspose", "Gemm", "Softmax"}),
    pulled=frozenset({"MaxPool"}),
    reasons={
        "int8": "signed activations lose the kernel of every tensor that two operators read; uint8 is as exact",
        **dict.fromkeys(("int16", "uint16", "int10", "uint10", "int12", "uint12", "int14", "uint14"), _NO_KERNEL),
        **dict.fromkeys(("float8e4m3fn", "float8e5m2"), _LOADS_NOT),
        "levels": "more than 256 levels have no integer kernel",
    },
)
