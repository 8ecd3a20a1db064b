"""Any runtime that takes QuantizeLinear and DequantizeLinear by the standard of ONNX.

The rows are those of onnxruntime's CPU provider: around these operators every runtime at hand looks for Q and DQ.
"""

from __future__ import annotations

from graphopt.quantization.tables import onnxruntime_cpu
from graphopt.quantization.tables.rows import Table

TABLE = Table(
    onnxruntime_cpu.ROWS,
    activations=("uint8", "int8", "none", "uint16", "int16", "uint7", "uint6", "uint5", "uint3", "levels"),
    weights=("int8", "int4", "int7", "int6", "int5", "int3", "int16", "ternary", "levels"),
    takes=onnxruntime_cpu.TABLE.takes,
    pulled=onnxruntime_cpu.TABLE.pulled,
    thrifty=False,
    reasons=dict.fromkeys(
        ("int4", "uint4", "int2", "uint2", "float8e4m3fn", "float8e5m2"),
        "onnxruntime does not load it beside a convolution under default options",
    ),
)
