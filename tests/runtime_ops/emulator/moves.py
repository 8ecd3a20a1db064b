"""CUDA kernels that move numbers, and the grouped product, on a GPU that is played (``stubs/cuda_runtime_api.h``)."""

from __future__ import annotations

import ctypes
import functools
import mmap
import re
import subprocess
import tempfile
from pathlib import Path

import numpy as np

from graphopt import runtime_ops

_LAUNCH = re.compile(r"([\w:]+(?:<[\w:, ]+>)?)<<<(.*?)>>>\((.*?)\);", re.DOTALL)
NUMBERS = {"float32": 1, "uint8": 2, "int8": 3, "float16": 10, "bfloat16": 16}
"""onnxruntime's numbers of types."""
GARBAGE = 0x5A


@functools.cache
def library(operator: str) -> ctypes.CDLL | None:
    """Compile an operator's CUDA kernels for the processor; None without a compiler."""
    home, here = Path(runtime_ops.__file__).parent, Path(__file__).parent
    folder = Path(tempfile.mkdtemp(prefix="graphopt-emulator-"))
    source = folder / "kernel.cc"
    text = (home / operator / "kernel.cu").read_text(encoding="utf-8")
    source.write_text(_LAUNCH.sub(r"play(\2, [&] { \1(\3); });", text), encoding="utf-8")
    flags = ["-std=c++17", "-O1", "-ffp-contract=off", "-shared", "-fPIC", "-fpermissive", "-w"]
    flags += ["-fsanitize=alignment", "-fno-sanitize-recover=alignment"]  # as the GPU does not forgive it
    include = [f"-I{here / 'stubs'}", f"-I{home / 'core'}", f"-I{home / operator}"]
    target = folder / "libmoves.so"
    try:
        subprocess.run(
            ["g++", *flags, *include, str(source), "-o", str(target)], check=True, capture_output=True, text=True
        )
    except FileNotFoundError:
        return None
    except subprocess.CalledProcessError as error:
        raise AssertionError(error.stderr) from error
    return ctypes.CDLL(str(target))


def placed(array: np.ndarray, shift: int = 0) -> np.ndarray:
    """Return a copy at a multiple of 16 bytes plus ``shift``, close in front of memory that ends the run if it is read.

    What lies between, and before, is garbage.
    """
    pages = (array.nbytes + shift + 16) // mmap.PAGESIZE + 1
    memory = mmap.mmap(-1, (pages + 1) * mmap.PAGESIZE)
    whole = np.frombuffer(memory, np.uint8)
    assert ctypes.CDLL(None).mprotect(ctypes.c_void_p(whole.ctypes.data + pages * mmap.PAGESIZE), mmap.PAGESIZE, 0) == 0
    usable = whole[: pages * mmap.PAGESIZE]
    usable[...] = GARBAGE
    start = (usable.size - array.nbytes - shift) // 16 * 16 + shift
    found = usable[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    found[...] = array
    return found


def untouched(array: np.ndarray) -> bool:
    """Tell whether the garbage around an array of :func:`placed` is what it was."""
    start = array.ctypes.data % mmap.PAGESIZE  # of the first page: smaller arrays fill no more
    before = (ctypes.c_uint8 * start).from_address(array.ctypes.data - start)
    end = array.ctypes.data + array.nbytes
    behind = (ctypes.c_uint8 * (-end % mmap.PAGESIZE)).from_address(end)
    return all(byte == GARBAGE for byte in (*before, *behind))


def address(array: np.ndarray | None) -> ctypes.c_void_p:
    """Return where an array lies."""
    return ctypes.c_void_p(None if array is None else array.ctypes.data)


def spread(
    data: np.ndarray, places: np.ndarray, fill: np.ndarray, axis: int, *, wide: bool = False, shift: int = 0
) -> np.ndarray:
    """Gather with fill; ``wide``: the places are numbers of eight bytes; ``shift``: how far off alignment data lies."""
    loaded = library("gather")
    assert loaded is not None
    shape = list(data.shape)
    shape[axis] = places.size
    out = placed(np.zeros(shape, data.dtype), shift)
    given, filling = placed(data, shift), placed(fill)
    map_ = placed(places.astype(np.int64 if wide else np.int32))
    before, behind = int(np.prod(data.shape[:axis])), int(np.prod(data.shape[axis + 1 :]))
    sizes = [ctypes.c_int64(size) for size in (data.shape[axis], places.size, before, behind, fill.size)]
    pointers = [address(array) for array in (given, map_, filling, out)]
    assert loaded.graphopt_cuda_spread(data.itemsize, 8 if wide else 4, *pointers, *sizes, None) == 0
    assert untouched(out)
    return out


def scatter_add(
    data: np.ndarray,
    indices: np.ndarray,
    updates: np.ndarray,
    fill: np.ndarray,
    floor: np.ndarray | None,
    axis: int,
    *,
    in_place: bool,
    sparse: bool,
    shift: int = 0,
) -> np.ndarray:
    """``sparse``: as the kernel is called where the fill changes nothing."""
    loaded = library("scatter_add")
    assert loaded is not None
    given = placed(data, shift)
    out = given if in_place else placed(np.zeros_like(data), shift)
    mapped = int(indices.max(initial=-1)) + 1
    map_ = np.full(mapped, -1, np.int32)
    map_[indices] = np.arange(indices.size)
    arrays = [placed(array) for array in (indices.astype(np.int32), map_)]
    added, filling = placed(updates, shift), placed(fill)
    least = None if floor is None else placed(floor)
    before, behind = int(np.prod(data.shape[:axis])), int(np.prod(data.shape[axis + 1 :]))
    sizes = [ctypes.c_int64(size) for size in (data.shape[axis], indices.size, before, behind, fill.size)]
    pointers = [address(array) for array in (given, added, filling, least, out, *arrays)]
    kind = NUMBERS[data.dtype.name]
    assert loaded.graphopt_cuda_scatter_add(kind, *pointers, mapped, *sizes, int(sparse), None) == 0
    assert untouched(out)
    return out


class Part(ctypes.Structure):
    """``GroupPart``."""

    _fields_ = [
        *((name, ctypes.c_int32) for name in ("depth", "width", "start", "column_at", "row_at")),
        ("weight_at", ctypes.c_int64),
    ]


class Group(ctypes.Structure):
    """``Group``."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("y", "x", "weights", "floor", "out", "columns", "rows", "parts")),
        ("set_ends", ctypes.c_void_p),
        ("sets", ctypes.c_int),
        ("covered", ctypes.c_bool),
        *((name, ctypes.c_int64) for name in ("count", "depth", "width", "y_step")),
    ]


def product(
    y: np.ndarray,
    x: np.ndarray,
    columns: np.ndarray,
    rows: np.ndarray,
    weights: np.ndarray,
    floor: np.ndarray | None,
    *,
    sets: list[list[int]],
) -> np.ndarray:
    """GatherGemmScatter of a matrix ``x``; ``sets``: blocks that share no row."""
    loaded = library("gather_gemm_scatter")
    assert loaded is not None
    packed, parts, ends = [], [], []
    reads, adds = (np.concatenate([one[one >= 0] for one in each]) for each in (columns, rows))
    for blocks in sets:
        for block in blocks:
            used = [columns[block] >= 0, rows[block] >= 0]
            sizes = [int(one.sum()) for one in used]
            starts = [int((each[:block] >= 0).sum()) for each in (columns, rows)]
            at = sum(one.size for one in packed)
            packed.append(weights[block][np.ix_(*used)].reshape(-1))
            parts += [Part(*sizes, start, *starts, at) for start in range(0, sizes[1], 64)]
        ends.append(len(parts))
    size = y.shape[-1]
    out = placed(np.zeros((x.shape[0], size), x.dtype))
    kept = {
        "y": placed(y),
        "x": placed(x),
        "weights": placed(np.concatenate([*packed, np.zeros(1, x.dtype)])),
        "floor": None if floor is None else placed(floor),
        "out": out,
        "columns": placed(reads.astype(np.int32)),
        "rows": placed(adds.astype(np.int32)),
        "set_ends": placed(np.array(ends, np.int32)),
    }
    listed = (Part * max(1, len(parts)))(*parts)
    group = Group(
        parts=ctypes.addressof(listed),
        sets=len(ends),
        covered=bool(np.isin(np.arange(size), adds).all()),
        count=x.shape[0],
        depth=x.shape[1],
        width=size,
        y_step=0 if y.ndim == 1 else size,
    )
    for name, array in kept.items():
        setattr(group, name, None if array is None else array.ctypes.data)
    assert loaded.graphopt_cuda_gather_gemm_scatter(NUMBERS[x.dtype.name], ctypes.byref(group), None) == 0
    assert untouched(out)
    return out
