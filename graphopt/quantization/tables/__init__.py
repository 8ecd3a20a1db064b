"""What runtimes do with quantized tensors: one table a target, one row an operator."""

from __future__ import annotations

from collections.abc import Mapping

from graphopt.quantization.tables import onnxruntime_cpu, onnxruntime_cuda, portable, tensorrt
from graphopt.quantization.tables.rows import Table

TABLES: Mapping[str, Table] = {
    "cpu": onnxruntime_cpu.TABLE,
    "cuda": onnxruntime_cuda.TABLE,
    "tensorrt": tensorrt.TABLE,
    "portable": portable.TABLE,
}
"""By the name of the target (``Request.target``)."""
