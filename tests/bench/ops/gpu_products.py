"""Products and convolutions for ``gpu.py``: int8, binary, of few levels."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np

from graphopt.runtime_ops.sparse_gemm24.semi_structured import compact24
from tests.bench.ops.gpu_case import (
    GEMMS,
    ODD_GEMMS,
    RESNET50,
    Arrays,
    Case,
    Window,
    conv,
    gemm,
    int8,
    matmul,
    normal,
    windows,
)

# --- int8 ------------------------------------------------------------------------------------------------------------

JOIN = {"residual_scale": 0.5, "residual_zero_point": 2}


def int8_gemms() -> Iterator[Case]:
    placing = {"x_zero_point": 3, "y_zero_point": -5, "low": -5}
    for row in (*GEMMS, *ODD_GEMMS):
        label, m, k, n = row
        about: dict[str, Any] = {
            "constants": ("w", "scale", "bias"),
            "operations": 2.0 * m * k * n,
            "peak": "int8",
            "stock": partial(gemm, m, k, n),
            "small": row in ODD_GEMMS,
        }
        moved = m * k + k * n + m * n
        target = "Int8Gemm" if row == GEMMS[0] else ""
        yield Case(
            "Int8Gemm", label, partial(_gemm_arrays, m, k, n, False), placing, moved=moved, target=target, **about
        )
        if row in (GEMMS[0], ODD_GEMMS[-1]):
            make = partial(_gemm_arrays, m, k, n, True)
            yield Case("Int8GemmAdd", label, make, placing | JOIN, moved=moved + m * n, **about)


def int8_convs() -> Iterator[Case]:
    for layer, small in windows(RESNET50):
        for nhwc in (True, False):
            placing = {
                **layer.placing,
                "x_zero_point": -7,
                "low": 0,
                "input_perm": [0, 3, 1, 2] if nhwc else [0, 1, 2, 3],
                "output_perm": [0, 2, 3, 1] if nhwc else [0, 1, 2, 3],
            }
            about: dict[str, Any] = {
                "label": f"{layer}, {'NHWC' if nhwc else 'NCHW'}",
                "constants": ("w", "scale", "bias"),
                "operations": layer.operations,
                "peak": "int8",
                "stock": partial(conv, layer),
                "small": small,
            }
            moved = layer.batch * (layer.image**2 * layer.channels + layer.out**2 * layer.filters)
            make = partial(_conv_arrays, layer, nhwc)
            target = "Int8Conv" if nhwc and layer.window == 3 and layer.batch == 32 else ""
            yield Case("Int8Conv", make=partial(make, False), attributes=placing, moved=moved, target=target, **about)
            if small or layer.filters > layer.channels:
                moved += layer.batch * layer.out**2 * layer.filters
                yield Case("Int8ConvAdd", make=partial(make, True), attributes=placing | JOIN, moved=moved, **about)


def _gemm_arrays(m: int, k: int, n: int, residual: bool, rng: np.random.Generator) -> Arrays:
    arrays = {"x": int8(rng, m, k), "w": int8(rng, k, n), **_requantize(rng, n, k)}
    return {**arrays, "residual": int8(rng, m, n)} if residual else arrays


def _conv_arrays(layer: Window, nhwc: bool, residual: bool, rng: np.random.Generator) -> Arrays:
    def image(channels: int, size: int) -> np.ndarray:
        return int8(rng, layer.batch, *((size, size, channels) if nhwc else (channels, size, size)))

    arrays = {
        "x": image(layer.channels, layer.image),
        "w": int8(rng, layer.filters, layer.channels, layer.window, layer.window),
        **_requantize(rng, layer.filters, layer.depth),
    }
    return {**arrays, "residual": image(layer.filters, layer.out)} if residual else arrays


def _requantize(rng: np.random.Generator, count: int, depth: int) -> Arrays:
    typical = 40 / (74 * 74 * max(depth, 1) ** 0.5)
    bias = rng.integers(-5000, 5001, count) * max(1, int(depth**0.5))
    return {"scale": (typical * rng.uniform(0.5, 2, count)).astype(np.float32), "bias": bias.astype(np.int32)}


# --- 2:4 -------------------------------------------------------------------------------------------------------------

ODD_24 = [  # the sparse tensor cores take the third and the last
    ("1 x 4 x 1", 1, 4, 1),
    ("7 x 20 x 5", 7, 20, 5),
    ("33 x 64 x 96", 33, 64, 96),
    ("65 x 72 x 257", 65, 72, 257),
    ("64 x 128 x 80", 64, 128, 80),
]


def semi_structured() -> Iterator[Case]:
    """Beside the dense product; the operations are counted as if it were one."""
    for row in (*GEMMS, *ODD_24):
        label, m, k, n = row
        yield Case(
            "SparseGemm24",
            label,
            partial(_semi_structured, m, k, n),
            constants=("values", "indices"),
            operations=2.0 * m * k * n,
            moved=2.0 * m * k + 9 / 8 * k * n + 2.0 * m * n,
            peak="float16",
            rtol=2e-3,
            stock=partial(matmul, m, k, n),
            small=row in ODD_24,
            target="SparseGemm24" if row == GEMMS[0] else "",
        )


def _semi_structured(m: int, k: int, n: int, rng: np.random.Generator) -> Arrays:
    kept = np.array([[1, 1, 0, 0], [1, 0, 1, 0], [1, 0, 0, 1], [0, 1, 1, 0], [0, 1, 0, 1], [0, 0, 1, 1]], np.float32)
    weight = (normal(rng, k, n) / np.float32(k**0.5)).reshape(k // 4, 4, n)
    weight *= kept[rng.integers(0, len(kept), (k // 4, n))].transpose(0, 2, 1)
    values, indices = compact24(weight.reshape(k, n).astype(np.float16))
    return {"x": normal(rng, m, k).astype(np.float16), "values": values, "indices": indices}


# --- few bits --------------------------------------------------------------------------------------------------------

SCALED = ("weights", "scale", "bias")
SIGNED = ("weights", "threshold")


def binary_gemms() -> Iterator[Case]:
    for row in (GEMMS[0], ("196 x 4608 x 512", 196, 4608, 512), *ODD_GEMMS):
        label, m, k, n = row
        for sign in (False, True):
            yield Case(
                "BinaryGemmSign" if sign else "BinaryGemm",
                label,
                partial(_binary_gemm, m, k, n, sign),
                {"k": k},
                SIGNED if sign else SCALED,
                operations=2.0 * m * k * n,
                moved=4.0 * m * k + k * n / 8 + (1.0 if sign else 4.0) * m * n,
                peak="int8",
                stock=partial(gemm, m, k, n),
                small=row in ODD_GEMMS,
            )


def binary_convs() -> Iterator[Case]:
    for layer, small in windows(RESNET50[:4]):
        for sign in (False, True):
            yield Case(
                "BinaryConvSign" if sign else "BinaryConv",
                str(layer),
                partial(_binary_conv, layer, sign),
                {"channels": layer.channels, **layer.placing},
                SIGNED if sign else SCALED,
                operations=layer.operations,
                moved=layer.batch * (4.0 * layer.channels * layer.image**2 + 4.0 * layer.filters * layer.out**2),
                peak="int8",
                stock=partial(conv, layer),
                small=small,
            )


def ternary_gemms() -> Iterator[Case]:
    for row in (GEMMS[0], *GEMMS[-2:], *ODD_GEMMS):
        label, m, k, n = row
        for bits in (2, 4):
            yield Case(
                "TernaryGemm",
                f"{label}, {bits} bits",
                partial(_ternary_gemm, m, k, n, bits),
                {"bits": bits},
                ("codes", "levels", "scale", "bias", "x_scale", "x_zero_point"),
                operations=2.0 * m * k * n,
                moved=4.0 * m * k + k * n * bits / 8 + 4.0 * m * n,
                peak="int8",
                rtol=1e-6,
                stock=partial(gemm, m, k, n),
                small=row in ODD_GEMMS,
            )


def _binary_gemm(m: int, k: int, n: int, sign: bool, rng: np.random.Generator) -> Arrays:
    packed = rng.integers(0, 256, (n, (k + 7) // 8)).astype(np.uint8)
    return {"x": normal(rng, m, k), "weights": packed, **_epilogue(rng, n, sign)}


def _binary_conv(layer: Window, sign: bool, rng: np.random.Generator) -> Arrays:
    shape = (layer.filters, layer.window, layer.window, (layer.channels + 7) // 8)
    x = normal(rng, layer.batch, layer.channels, layer.image, layer.image)
    return {"x": x, "weights": rng.integers(0, 256, shape).astype(np.uint8), **_epilogue(rng, layer.filters, sign)}


def _ternary_gemm(m: int, k: int, n: int, bits: int, rng: np.random.Generator) -> Arrays:
    return {
        "x": normal(rng, m, k),
        "codes": rng.integers(0, 256, (n, (k * bits + 7) // 8)).astype(np.uint8),
        "levels": np.resize(np.array([-1, 0, 1, 2, -3, 4, 5, -6], np.int8), 1 << bits),
        "scale": rng.uniform(0.1, 2, n).astype(np.float32),
        "bias": normal(rng, n),
        "x_scale": np.asarray(0.03, np.float32),
        "x_zero_point": np.asarray(4, np.int8),
    }


def _epilogue(rng: np.random.Generator, count: int, sign: bool) -> Arrays:
    if sign:
        return {"threshold": rng.integers(-20, 20, count).astype(np.float32)}
    return {"scale": rng.uniform(0.1, 2, count).astype(np.float32), "bias": normal(rng, count)}
