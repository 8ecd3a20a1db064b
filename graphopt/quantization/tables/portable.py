"""Any runtime that takes QuantizeLinear and DequantizeLinear by the standard of ONNX.

The rows are those of onnxruntime's CPU provider: around these operators every runtime at hand looks for Q and DQ.
"""

from __future__ import annotations

from graphopt.quantization.tables import onnxruntime_cpu
from graphopt.quantization.tables.rows import Table

TABLE = Table(
    onnxruntime_cpu.ROWS,
    activations=("uint8", "int8", "none", "uint16", "int16"),
    weights=("int8", "uint8", "int4", "uint4"),
    takes=onnxruntime_cpu.TABLE.takes,
    thrifty=False,
)
