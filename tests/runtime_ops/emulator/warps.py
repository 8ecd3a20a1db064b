"""CUDA kernels with warps and atomic operations, on a GPU that is played (``warps/cuda_runtime_api.h``)."""

from __future__ import annotations

import ctypes
import functools
import re
import subprocess
import tempfile
from pathlib import Path

import numpy as np

from graphopt import runtime_ops

_LAUNCH = re.compile(r"([\w:]+(?:<[\w:, ]+>)?)<<<(.*?)>>>\((.*?)\);", re.DOTALL)
_DYNAMIC = re.compile(r"extern __shared__ (\w+) (\w+)\[\];")


@functools.cache
def library(operator: str) -> ctypes.CDLL | None:
    """Compile an operator's CUDA kernels for the processor; None without a compiler."""
    home, here = Path(runtime_ops.__file__).parent, Path(__file__).parent
    folder = Path(tempfile.mkdtemp(prefix="graphopt-emulator-"))
    text = (home / operator / "kernel.cu").read_text(encoding="utf-8")
    text = _DYNAMIC.sub(r"static \1 \2[1 << 16];", text)
    source, target = folder / "kernel.cc", folder / "libwarps.so"
    source.write_text(_LAUNCH.sub(r"play(\2, [&] { \1(\3); });", text), encoding="utf-8")
    flags = ["-std=c++17", "-O1", "-ffp-contract=off", "-fsanitize=undefined", "-fno-sanitize-recover=all"]
    include = [f"-I{path}" for path in (here / "warps", here / "stubs", home / "core", home / operator)]
    try:
        subprocess.run(
            ["g++", *flags, "-shared", "-fPIC", "-w", *include, str(source), "-o", str(target)],
            check=True,
            capture_output=True,
            text=True,
        )
    except FileNotFoundError:
        return None
    except subprocess.CalledProcessError as error:
        raise AssertionError(error.stderr) from error
    return ctypes.CDLL(str(target))


def address(array: np.ndarray) -> ctypes.c_void_p:
    """Where an array lies."""
    return ctypes.c_void_p(array.ctypes.data)
