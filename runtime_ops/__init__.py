"""Runtime operators for onnxruntime: what its own operators cannot do fast.

A model that calls one carries its definition as an ONNX function. It runs wherever onnxruntime runs, and faster where
the library of this package is loaded: ``register(session_options)``.
"""

from __future__ import annotations

import ctypes
import functools
import importlib
import os
import warnings
from pathlib import Path
from typing import Any

from graphopt.runtime_ops.operator import DOMAIN, VERSION, Operator

__all__ = [
    "DOMAIN",
    "VERSION",
    "Operator",
    "cpu_features",
    "kernels",
    "library",
    "limit_cpu",
    "operators",
    "register",
    "sparse24",
]

_HERE = Path(__file__).parent
_REGISTERED = "graphopt.registered"
_CHOSEN = "GRAPHOPT_OPS_LIBRARY"


@functools.cache
def operators() -> dict[str, Operator]:
    """Return every operator by its name; each is a folder with a ``definition.py``."""
    found = [
        importlib.import_module(f"graphopt.runtime_ops.{folder.name}.definition").OPERATOR
        for folder in sorted(_HERE.iterdir())
        if (folder / "definition.py").is_file()
    ]
    return {one.name: one for one in found}


def library() -> Path | None:
    """Return the native library; None where it was not built (no compiler when graphopt was installed).

    The environment variable ``GRAPHOPT_OPS_LIBRARY`` names another one; set to nothing, it means that there is none.
    Beside that, a library that was built into the sources (``make ops``) comes before the installed one.
    """
    chosen = os.environ.get(_CHOSEN)
    if chosen is not None:
        return Path(chosen) if Path(chosen).is_file() else None
    return _installed()


def register(session_options: Any) -> bool:
    """Let sessions with these options use the native kernels; return whether the library is there.

    Safe to call twice. Without the library nothing happens: the operators run as ONNX functions. So they do, with a
    warning, where the library is there but cannot be loaded.

    Args:
        session_options: An ``onnxruntime.SessionOptions``.
    """
    path = library()
    if path is None:
        return False
    try:
        session_options.get_session_config_entry(_REGISTERED)  # raises where there is none
    except RuntimeError:
        try:
            session_options.register_custom_ops_library(str(path))
        except Exception as error:
            warnings.warn(f"runtime operators run as ONNX functions: {path} does not load ({error})", stacklevel=2)
            return False
        session_options.add_session_config_entry(_REGISTERED, "1")
    return True


def cpu_features() -> str | None:
    """Return the newest instructions that kernels use here; None without the library."""
    return _said("graphopt_cpu")


def kernels() -> list[tuple[str, str, str]]:
    """Return operator, provider (``cpu``, ``cuda``) and types of each native kernel; nothing without the library.

    Types are those of the inputs, joined by commas.
    """
    said = _said("graphopt_kernels") or ""
    return [(name, provider, types) for name, provider, types in (line.split() for line in said.splitlines())]


def limit_cpu(level: str) -> str | None:
    """Let kernels that are made from now on use no newer instructions than a level; return the level in force.

    For tests: every path runs on a machine that has the newest. The environment variable ``GRAPHOPT_CPU`` does the same
    for a whole process. None without the library.

    Args:
        level: ``portable``, ``avx2``, ``avx512`` or ``avx512_vnni``; nothing takes the limit away.
    """
    return _said("graphopt_limit_cpu", level.encode())


def sparse24() -> str | None:
    """Return what the CUDA kernel of SparseGemm24 that was made last multiplies with: cuSPARSELt, or why not.

    Nothing before one was made; None where the library has no CUDA kernels.
    """
    return _said("graphopt_sparse24")


@functools.cache
def _installed() -> Path | None:
    for folder in [str(_HERE), *importlib.import_module("graphopt.runtime_ops").__path__]:
        for path in sorted(Path(folder).glob("libgraphopt_ops.*")):
            return path
    return None


def _said(function: str, *arguments: bytes) -> str | None:
    """What a function of the library that returns text says."""
    path = library()
    if path is None:
        return None
    try:
        ask = ctypes.CDLL(str(path))[function]
    except (OSError, AttributeError):
        return None
    ask.restype = ctypes.c_char_p
    return ask(*arguments).decode()
