"""TernaryGemm's CUDA kernel, compiled for the processor with a GPU that is played (``cuda_emulator.h``)."""

from __future__ import annotations

import ctypes
import functools
import subprocess
import tempfile
from pathlib import Path

import numpy as np

from graphopt import runtime_ops
from tests.runtime_ops.emulator.int8 import aligned

_ACTIVATIONS = {"float32": 0, "uint8": 1, "int8": 2}


class Product(ctypes.Structure):
    """``graphopt::ternary::Product``."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("x", "codes", "levels", "scale", "bias", "step", "zero", "y")),
        *((name, ctypes.c_int64) for name in ("rows", "columns", "outputs", "bytes")),
        *((name, ctypes.c_int) for name in ("scale_step", "bias_step", "bits", "activation")),
        *((name, ctypes.c_bool) for name in ("unsigned_zero", "wide_x", "wide_codes")),
    ]


@functools.cache
def library() -> ctypes.CDLL | None:
    """Compile the kernel; None without a compiler."""
    home = Path(runtime_ops.__file__).parent
    target = f"{tempfile.mkdtemp(prefix='graphopt-emulator-')}/libternary.so"
    flags = ["-std=c++17", "-O2", "-ffp-contract=off", "-shared", "-fPIC", "-DGRAPHOPT_EMULATED"]
    flags += ["-fsanitize=alignment", "-fno-sanitize-recover=alignment"]  # as the GPU does not forgive it
    source = home / "ternary_gemm" / "kernel.cu"
    include = [f"-I{home / 'core'}", f"-I{Path(__file__).parent}"]
    try:
        subprocess.run(
            ["g++", *flags, *include, "-x", "c++", str(source), "-o", target],
            check=True,
            capture_output=True,
            text=True,
        )
    except FileNotFoundError:
        return None
    except subprocess.CalledProcessError as error:
        raise AssertionError(error.stderr) from error
    return ctypes.CDLL(target)


def run(inputs: dict[str, np.ndarray], bits: int) -> np.ndarray:
    """Return what the kernel makes of TernaryGemm's inputs. Behind each array lies garbage that it must not use."""
    loaded = library()
    assert loaded is not None
    given = {name: aligned(np.asarray(array)) for name, array in inputs.items()}
    x, codes = given["x"], given["codes"]
    y = aligned(np.full((*x.shape[:-1], len(codes)), np.nan, np.float32))
    columns = x.shape[-1]
    told = Product(
        rows=int(np.prod(x.shape[:-1])),
        columns=columns,
        outputs=codes.shape[0],
        bytes=codes.shape[1],
        scale_step=int(given["scale"].size > 1),
        bias_step=int(given["bias"].size > 1),
        bits=bits,
        activation=_ACTIVATIONS[x.dtype.name],
        unsigned_zero=given["x_zero_point"].dtype == np.uint8,
        wide_x=columns % (4 if x.dtype == np.float32 else 16) == 0,
        wide_codes=codes.shape[1] % 8 == 0,
    )
    places = {"step": given["x_scale"], "zero": given["x_zero_point"], "y": y}
    places |= {name: given[name] for name in ("x", "codes", "levels", "scale", "bias")}
    for name, array in places.items():
        setattr(told, name, array.ctypes.data)
    assert loaded.graphopt_cuda_ternary_gemm(ctypes.byref(told), None) == 0
    return y
