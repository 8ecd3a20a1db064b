"""graphopt: makes pruned, masked and quantized ONNX models small and fast, and proves that they still compute the same.

Names are imported when they are first used, so that ``import graphopt`` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOME = {
    "optimize": "graphopt.pipeline",
    "Result": "graphopt.pipeline",
    "quantize": "graphopt.quantization.pipeline",
    "inspect": "graphopt.inspection",
    "explain": "graphopt.inspection",
    "export": "graphopt.torch_export",
    "verify": "graphopt.verify",
    "bench": "graphopt.bench",
    "load": "graphopt.model",
    "save": "graphopt.model",
}

__all__ = [
    "Result", "__version__", "bench", "explain", "export", "inspect", "load", "optimize", "quantize",
    "save", "verify",
]  # fmt: skip

if TYPE_CHECKING:
    from graphopt.bench import bench
    from graphopt.inspection import explain, inspect
    from graphopt.model import load, save
    from graphopt.pipeline import Result, optimize
    from graphopt.quantization.pipeline import quantize
    from graphopt.torch_export import export
    from graphopt.verify import verify


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'graphopt' has no attribute {name!r}")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value
