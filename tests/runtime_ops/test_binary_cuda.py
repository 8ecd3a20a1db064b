"""The CUDA kernels of binary products, run on the processor: an emulator plays the GPU (emulator/cuda_emulator.h).

What it shows: every address is inside its buffer and aligned, every step waits for what it reads, and the numbers are
those of the reference, with tensor cores and without. What it cannot show is how fast they are.
"""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt.runtime_ops.binary_conv.reference import sums
from graphopt.runtime_ops.binary_gemm import bits
from graphopt.runtime_ops.binary_gemm.reference import product

SOURCES = Path(__file__).parents[2] / "runtime_ops" / "core"
FEW = settings(max_examples=6, deadline=None, derandomize=True)


class Windows(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int64) for name in ("batch", "channels", "group")),
        *((name, ctypes.c_int) for name in ("height", "width", "out_height", "out_width", "down", "across")),
        *((name, ctypes.c_int) for name in ("stride_down", "stride_across", "dilation_down", "dilation_across")),
        *((name, ctypes.c_int) for name in ("top", "left")),
    ]


class Product(ctypes.Structure):
    _fields_ = [
        ("windows", Windows),
        *((name, ctypes.c_void_p) for name in ("activations", "filters", "counts")),
        *((name, ctypes.c_int64) for name in ("rows", "words", "columns")),
        *((name, ctypes.c_void_p) for name in ("scale", "bias", "threshold", "out")),
    ]


@pytest.fixture(scope="module", params=["cores", "without"])
def gpu(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """The launchers, compiled for the processor; with binary tensor cores, and with the path of devices without."""
    compiler = shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        pytest.skip("no C++ compiler here")
    built = tmp_path_factory.mktemp("binary") / "kernels.so"
    flags = ["-std=c++17", "-O1", "-shared", "-fPIC", "-DGRAPHOPT_EMULATED", "-x", "c++"]
    flags += ["-fsanitize=alignment", "-fno-sanitize-recover=alignment"]
    flags += [] if request.param == "cores" else ["-DGRAPHOPT_NO_BINARY_CORES"]
    folders = [f"-I{SOURCES}", f"-I{Path(__file__).parent / 'emulator'}"]
    sources = [str(SOURCES / name) for name in ("binary_pack.cu", "binary_product.cu")]
    subprocess.run([compiler, *flags, *folders, *sources, "-o", str(built)], check=True, capture_output=True)
    return ctypes.CDLL(str(built))


def padded(words: int) -> int:
    return -(-words // 4) * 4


def aligned(count: int, dtype: Any = np.uint32) -> np.ndarray:
    """As the device's allocator gives it: 256 bytes aligned; filled with what must not be read."""
    size = count * np.dtype(dtype).itemsize
    raw = np.full(size + 256, 0xA5, np.uint8)
    start = -raw.ctypes.data % 256
    return raw[start : start + size].view(dtype)


def filters_of(weights: np.ndarray, channels: int) -> tuple[np.ndarray, np.ndarray, int]:
    """What cuda.cc uploads for bytes [M, kH, kW, bytes]: words of filters, and the table of set bits."""
    count, down, across = weights.shape[:3]
    each = -(-channels // 32)
    wide = np.zeros((count, down, across, each * 4), np.uint8)
    set_bits = (bits.unpack(weights, channels) > 0).astype(np.uint8)
    packed = np.packbits(set_bits, axis=-1, bitorder="little")
    wide[..., : packed.shape[-1]] = packed
    words = padded(down * across * each)
    filters = aligned(count * words).reshape(count, words)
    filters[:] = 0
    filters[:, : down * across * each] = wide.view(np.uint32).reshape(count, -1)
    table = np.zeros((down + 1, across + 1, count), np.int32)
    table[1:, 1:] = set_bits.sum(-1, dtype=np.int32).transpose(1, 2, 0).cumsum(0).cumsum(1)
    return filters, np.ascontiguousarray(table), words


def multiply(gpu: ctypes.CDLL, windows: Windows, activations: np.ndarray, weights: np.ndarray, rows: int) -> np.ndarray:
    """Run the product with thresholds and with scales; return the integer sums."""
    filters, table, words = filters_of(weights, windows.channels)
    count = weights.shape[0]
    outputs = []
    scale, bias = np.ones(count, np.float32), np.zeros(count, np.float32)
    threshold = np.arange(count).astype(np.float32) % 5 - 2
    for signs in (False, True):
        out = np.zeros(rows * count, np.int8 if signs else np.float32)
        call = Product(
            windows,
            activations.ctypes.data,
            filters.ctypes.data,
            table.ctypes.data,
            rows,
            words,
            count // windows.group,
            None if signs else scale.ctypes.data,
            None if signs else bias.ctypes.data,
            threshold.ctypes.data if signs else None,
            out.ctypes.data,
        )
        gpu.emulator_begin(int(signs))
        for array in (activations, filters):
            gpu.emulator_announce(ctypes.c_void_p(array.ctypes.data), ctypes.c_size_t(array.nbytes))
        assert gpu.graphopt_cuda_binary_product(ctypes.byref(call), None) == 0
        outputs.append(out)
    sizes = (windows.batch, count, windows.out_height, windows.out_width)
    numbers, compared = (array.reshape(sizes) for array in outputs)
    assert (compared == np.where(numbers > threshold[:, None, None], 1, -1)).all()
    return numbers


def pointer(array: np.ndarray) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)


@FEW
@given(
    rows=st.sampled_from([1, 5, 64, 70]),
    k=st.sampled_from([1, 31, 32, 33, 127, 128, 129, 1024, 3333]),
    columns=st.sampled_from([1, 7, 64, 67]),
    narrow=st.booleans(),
    seed=st.integers(0, 99),
)
def test_products(gpu: ctypes.CDLL, rows: int, k: int, columns: int, narrow: bool, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, k)).round(1).astype(np.float32)
    x = np.where(x > 0, 1, -1).astype(np.int8) if narrow else x
    weights = bits.pack(rng.normal(size=(columns, k)))
    words = padded(-(-k // 32))
    packed = aligned(rows * words)
    sizes = [ctypes.c_int64(size) for size in (rows, k, words)]
    gpu.emulator_begin(0)
    assert gpu.graphopt_cuda_binary_rows(pointer(x), int(narrow), *sizes, pointer(packed), None) == 0
    windows = Windows(rows, k, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0)
    numbers = multiply(gpu, windows, packed, weights[:, None, None], rows)
    assert (numbers[:, :, 0, 0] == product(x, weights, k)).all()


@FEW
@given(data=st.data(), narrow=st.booleans())
def test_convolutions(gpu: ctypes.CDLL, data: st.DataObject, narrow: bool) -> None:
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    batch, group = data.draw(st.integers(1, 2)), data.draw(st.sampled_from([1, 2]))
    channels, each = data.draw(st.sampled_from([1, 31, 32, 64, 65])), data.draw(st.sampled_from([1, 5, 66]))
    kernel, stride, dilation = ([data.draw(st.integers(1, 3)) for _ in range(2)] for _ in range(3))
    pads = [data.draw(st.integers(0, 2)) for _ in range(4)]
    least = [max(1, (kernel[a] - 1) * dilation[a] + 1 - pads[a] - pads[a + 2]) for a in range(2)]
    size = [least[a] + data.draw(st.sampled_from([0, 1, 6])) for a in range(2)]
    out = [(size[a] + pads[a] + pads[a + 2] - dilation[a] * (kernel[a] - 1) - 1) // stride[a] + 1 for a in range(2)]
    x = rng.normal(size=(batch, group * channels, *size)).astype(np.float32)
    x = np.where(x > 0, 1, -1).astype(np.int8) if narrow else x
    weights = bits.pack_filters(rng.normal(size=(group * each, channels, *kernel)))
    windows = Windows(batch, channels, group, *size, *out, *kernel, *stride, *dilation, pads[0], pads[1])
    pixels = aligned(batch * size[0] * size[1] * group * -(-channels // 32))
    words, rows = padded(kernel[0] * kernel[1] * -(-channels // 32)), batch * out[0] * out[1]
    gathered = aligned(group * rows * words)
    given = ctypes.byref(windows)
    gpu.emulator_begin(0)
    assert gpu.graphopt_cuda_binary_pixels(pointer(x), int(narrow), given, pointer(pixels), None) == 0
    assert gpu.graphopt_cuda_binary_windows(pointer(pixels), given, ctypes.c_int64(words), pointer(gathered), None) == 0
    numbers = multiply(gpu, windows, gathered, weights, rows)
    assert (numbers == sums(x, weights, channels, group, stride, pads, dilation)).all()
