"""The int8 kernels of CUDA, compiled for the processor with a GPU that is played (``cuda_emulator.h``)."""

from __future__ import annotations

import ctypes
import functools
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from graphopt import runtime_ops

TILES = ("64x64", "128x128", "wide 128x64", "wide 128x128", "wide 128x256", "pair 128x256")

SOURCES = ("int8_product.cu", "int8_pair.cu")

_INTS = (
    "batch height width out_height out_width channels x_step groups columns kernel_height kernel_width "
    "pad_top pad_left stride_height stride_width dilation_height dilation_width depth rows"
).split()


class Product(ctypes.Structure):
    """``graphopt::int8::Product``."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("x", "w", "w_tiles", "scale", "bias", "residual", "y")),
        *((name, ctypes.c_int) for name in _INTS),
        ("zero", ctypes.c_uint32),
        ("planes", ctypes.c_bool),
        ("low", ctypes.c_float),
        ("high", ctypes.c_float),
        ("y_zero_point", ctypes.c_int),
        ("residual_zero_point", ctypes.c_int),
        ("residual_scale", ctypes.c_float),
    ]


class Rearrange(ctypes.Structure):
    """``graphopt::int8::Rearrange``."""

    _fields_ = [
        ("x", ctypes.c_void_p),
        ("to", ctypes.c_void_p),
        *((name, ctypes.c_int) for name in ("batch", "positions", "groups", "channels", "wide")),
        ("planes", ctypes.c_bool),
    ]


class Direct(ctypes.Structure):
    """``graphopt::int8::Direct``."""

    _fields_ = [
        ("product", Product),
        ("x_position", ctypes.c_int),
        ("x_channel", ctypes.c_int),
        ("x_image", ctypes.c_int64),
    ]


@functools.cache
def library() -> ctypes.CDLL | None:
    """Compile the kernels; None without a compiler."""
    core = Path(runtime_ops.__file__).parent / "core"
    folder = tempfile.mkdtemp(prefix="graphopt-emulator-")
    target = f"{folder}/libint8.so"
    flags = ["-std=c++17", "-O2", "-ffp-contract=off", "-shared", "-fPIC", "-DGRAPHOPT_EMULATED"]
    flags += ["-fsanitize=alignment", "-fno-sanitize-recover=alignment"]  # as the GPU does not forgive it
    include = [f"-I{core}", f"-I{Path(__file__).parent}"]
    try:
        subprocess.run(
            ["g++", *flags, *include, "-x", "c++", *(str(core / name) for name in SOURCES), "-o", target],
            check=True,
            capture_output=True,
            text=True,
        )
    except FileNotFoundError:
        return None
    except subprocess.CalledProcessError as error:
        raise AssertionError(error.stderr) from error
    return ctypes.CDLL(target)


def aligned(array: np.ndarray, alignment: int = 16) -> np.ndarray:
    """Return a copy whose first byte lies at a multiple of ``alignment``, as memory of a GPU does."""
    memory = np.empty(array.nbytes + alignment, np.uint8)
    start = -memory.ctypes.data % alignment
    copy = memory[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


def announce(*arrays: np.ndarray, order: int = 0) -> ctypes.CDLL:
    """Name the memory that kernels may copy from, and the order in which threads run."""
    loaded = library()
    assert loaded is not None
    loaded.emulator_begin(order)
    for array in arrays:
        loaded.emulator_announce(ctypes.c_void_p(array.ctypes.data), ctypes.c_size_t(array.nbytes))
    return loaded


def pack(w: np.ndarray, groups: int, wide: int) -> np.ndarray:
    """Return weights ``[N, C, taps…]`` as ``[N, depth]``: taps, then channels, in whole steps of 128 bytes."""
    filters, channels = w.shape[:2]
    flat = np.moveaxis(w.reshape(filters, channels, -1), 1, 2)
    rows = np.zeros((filters, flat.shape[1], wide), np.int8)
    rows[:, :, :channels] = flat
    depth = -(-rows[0].size // 128) * 128
    packed = np.zeros((filters, depth), np.int8)
    packed[:, : rows[0].size] = rows.reshape(filters, -1)
    return packed


def pair_tiles(packed: np.ndarray, groups: int) -> np.ndarray:
    """Return packed weights as pairs of blocks fetch them: ``[groups, tiles, steps, 256, 128]``, pieces exchanged."""
    columns, steps = packed.shape[0] // groups, packed.shape[1] // 128
    tiles = -(-columns // 256)
    rows = np.zeros((groups, tiles * 256, steps, 8, 16), np.int8)
    rows[:, :columns] = packed.reshape(groups, columns, steps, 8, 16)
    for line in range(8):
        rows[:, line::8] = rows[:, line::8][:, :, :, np.arange(8) ^ line]
    return np.ascontiguousarray(rows.reshape(groups, tiles, 256, steps, 128).swapaxes(2, 3))


def pointers(problem: Any, **arrays: np.ndarray | None) -> None:
    """Let a structure point to arrays."""
    for name, array in arrays.items():
        setattr(problem, name, None if array is None else array.ctypes.data)
