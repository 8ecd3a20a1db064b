"""Runtime operators for onnxruntime: what its own operators cannot do fast.

A model that calls one carries its definition as an ONNX function. It runs wherever onnxruntime runs, and faster where
the library of this package is loaded: ``register(session_options)``.
"""

from __future__ import annotations

import ctypes
import functools
import importlib
from pathlib import Path
from typing import Any

from graphopt.runtime_ops.operator import DOMAIN, VERSION, Operator

__all__ = ["DOMAIN", "VERSION", "Operator", "cpu_features", "library", "operators", "register"]

_HERE = Path(__file__).parent
_REGISTERED = "graphopt.registered"


@functools.cache
def operators() -> dict[str, Operator]:
    """Return every operator by its name; each is a folder with a ``definition.py``."""
    found = [
        importlib.import_module(f"graphopt.runtime_ops.{folder.name}.definition").OPERATOR
        for folder in sorted(_HERE.iterdir())
        if (folder / "definition.py").is_file()
    ]
    return {one.name: one for one in found}


@functools.cache
def library() -> Path | None:
    """Return the native library; None where it was not built (no compiler when graphopt was installed)."""
    for folder in [*importlib.import_module("graphopt.runtime_ops").__path__, str(_HERE)]:
        for path in sorted(Path(folder).glob("libgraphopt_ops.*")):
            return path
    return None


def register(session_options: Any) -> bool:
    """Let sessions with these options use the native kernels; return whether the library is there.

    Safe to call twice. Without the library nothing happens: the operators run as ONNX functions.

    Args:
        session_options: An ``onnxruntime.SessionOptions``.
    """
    path = library()
    if path is None:
        return False
    try:
        session_options.get_session_config_entry(_REGISTERED)  # raises where there is none
    except RuntimeError:
        session_options.register_custom_ops_library(str(path))
        session_options.add_session_config_entry(_REGISTERED, "1")
    return True


def cpu_features() -> str | None:
    """Return the newest instructions that kernels use here; None without the library."""
    path = library()
    if path is None:
        return None
    ask = ctypes.CDLL(str(path)).graphopt_cpu
    ask.restype = ctypes.c_char_p
    return ask().decode()
