"""What runtimes do with quantized tensors: one table a target, one row an operator."""

from __future__ import annotations

from collections.abc import Mapping

from graphopt.quantization.tables import graphopt_cuda, onnxruntime_cpu, onnxruntime_cuda, portable, tensorrt
from graphopt.quantization.tables.rows import Table

TABLES: Mapping[str, Table] = {
    "cpu": onnxruntime_cpu.TABLE,
    "cuda": onnxruntime_cuda.TABLE,
    "tensorrt": tensorrt.TABLE,
    "portable": portable.TABLE,
}
"""By the name of the target (``Request.target``)."""

WITH_OPERATORS: Mapping[str, Table] = {"cuda": graphopt_cuda.TABLE}
"""The same where graphopt's runtime operators may be inserted, for the types of activations that these tables have."""


def table_of(target: str, activations: str | None, operators: bool | None) -> Table:
    """Return what holds on a target for a type of activations; None stands for the target's default."""
    more = WITH_OPERATORS.get(target) if operators else None
    return more if more is not None and activations in more.activations else TABLES[target]
