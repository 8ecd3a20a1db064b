"""TensorRT's form of an explicitly quantized network: int8 with zero point 0 everywhere, bias in float.

Source: NVIDIA, "Working with Quantized Types", developer guide of TensorRT 10: Q/DQ on the inputs of the operators that
shall run on integers; both inputs of a residual addition; none between a convolution and its ReLU.
"""

from __future__ import annotations

from graphopt.quantization.tables import onnxruntime_cpu
from graphopt.quantization.tables.rows import Table

TABLE = Table(
    onnxruntime_cpu.ROWS,
    activations=("int8", "none"),
    weights=("int8",),
    symmetric=True,
    bias="float",
    absorbs=False,
)
