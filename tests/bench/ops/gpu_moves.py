"""What moves data, normalizes, or multiplies by weights with holes, for ``gpu.py``."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import onnx
from onnx import helper

from tests.bench.ops.gpu_case import Arrays, Case, Shape, gemm, normal, stock

# --- moves -----------------------------------------------------------------------------------------------------------

PLACES: list[tuple[tuple[int, ...], int, bool]] = [  # shape, axis, small
    ((32, 256, 56, 56), 1, False),
    ((32, 2048, 7, 7), 1, False),
    ((8, 384, 768), 2, False),
    ((8192, 4096), 0, False),
    ((2, 7, 3), 1, True),
    ((5, 13), 1, True),
    ((1, 1), 0, True),
]


def moves() -> Iterator[Case]:
    for shape, axis, small in PLACES:
        for dtype in (np.float32, np.float16):
            part = tuple(max(1, size // 2) if at == axis else size for at, size in enumerate(shape))
            whole, half = (float(np.prod(sizes)) * np.dtype(dtype).itemsize for sizes in (shape, part))
            about: dict[str, Any] = {
                "label": f"{list(shape)} axis {axis}, {np.dtype(dtype).name}",
                "attributes": {"axis": axis},
                "small": small,
            }
            given = (shape, part, axis, dtype)
            yield Case("Gather", make=partial(_gather, *given), constants=("indices", "fill"), moved=2 * half, **about)
            yield Case(
                "Scatter", make=partial(_scatter, *given), constants=("indices", "fill"), moved=half + whole, **about
            )
            yield Case(
                "ScatterAdd",
                make=partial(_scatter_add, *given),
                constants=("indices", "fill", "floor"),
                moved=half + 2 * whole,
                target="ScatterAdd" if whole > 5e7 else "",  # smaller ones measure onnxruntime's call
                **about,
            )


def _chosen(rng: np.random.Generator, size: int, count: int) -> np.ndarray:
    return np.sort(rng.permutation(size)[:count]).astype(np.int64)


def _gather(shape: Shape, part: Shape, axis: int, dtype: Any, rng: np.random.Generator) -> Arrays:
    places = _chosen(rng, shape[axis], part[axis])
    places[:: max(2, len(places) // 5)] = -1
    return {"data": normal(rng, *shape).astype(dtype), "indices": places, "fill": np.asarray(0.5, dtype)}


def _scatter(shape: Shape, part: Shape, axis: int, dtype: Any, rng: np.random.Generator) -> Arrays:
    return {
        "updates": normal(rng, *part).astype(dtype),
        "indices": _chosen(rng, shape[axis], part[axis]),
        "fill": normal(rng, shape[axis]).astype(dtype),
    }


def _scatter_add(shape: Shape, part: Shape, axis: int, dtype: Any, rng: np.random.Generator) -> Arrays:
    return {
        "data": normal(rng, *shape).astype(dtype),
        "indices": _chosen(rng, shape[axis], part[axis]),
        "updates": normal(rng, *part).astype(dtype),
        "fill": np.zeros(1, dtype),
        "floor": np.asarray(0, dtype),
    }


def histograms() -> Iterator[Case]:
    for shape, small in (((32, 256, 56, 56), False), ((3, 7, 5), True)):
        moved = 8.0 * float(np.prod(shape))
        yield Case("Histogram", str(list(shape)), partial(_numbers, shape), moved=moved, outputs=2, small=small)


def _numbers(shape: Shape, rng: np.random.Generator) -> Arrays:
    return {"x": normal(rng, *shape)}


# --- norms and blocks ------------------------------------------------------------------------------------------------

NORMS = [(3072, 768, False), (512, 4096, False), (32768, 1024, False), (5, 13, True), (1, 1, True), (7, 1025, True)]


def norms() -> Iterator[Case]:
    """Half of the positions are left out; onnxruntime normalizes them all."""
    for rows, width, small in NORMS:
        for dtype in (np.float32, np.float16):
            kept = (width + 1) // 2
            yield Case(
                "MaskedLayerNorm",
                f"[{rows}, {kept}] of {width}, {np.dtype(dtype).name}",
                partial(_norm, rows, kept, dtype),
                {"missing": width - kept, "fill": 0.25},
                ("scale", "bias"),
                moved=2.0 * rows * kept * np.dtype(dtype).itemsize,
                rtol=1e-6 if dtype is np.float32 else 1e-3,
                stock=partial(layer_norm, rows, width),
                small=small,
            )


def _norm(rows: int, kept: int, dtype: Any, rng: np.random.Generator) -> Arrays:
    arrays = {"x": normal(rng, rows, kept), "scale": normal(rng, kept), "bias": normal(rng, kept)}
    return {name: array.astype(dtype) for name, array in arrays.items()}


def layer_norm(rows: int, width: int, kind: type) -> tuple[onnx.ModelProto, Arrays]:
    """``LayerNormalization(x)`` of the whole width."""
    rng = np.random.default_rng(1)
    weights = {"s": normal(rng, width).astype(kind), "b": normal(rng, width).astype(kind)}
    node = helper.make_node("LayerNormalization", ["x", "s", "b"], ["y"])
    return stock([node], {"x": normal(rng, rows, width).astype(kind)}, weights)


BLOCKS = [  # rows of x, width, blocks, columns and rows of each
    (3072, 4096, 16, 256, False),
    (3072, 1024, 8, 128, False),
    (512, 4096, 64, 64, False),
    (5, 37, 3, 7, True),
    (1, 3, 1, 1, True),
]


def blocks() -> Iterator[Case]:
    """A diagonal of blocks whose rows and columns are shuffled; stock: the whole product."""
    for m, width, count, size, small in BLOCKS:
        for dtype in (np.float32, np.float16):
            yield Case(
                "GatherGemmScatter",
                f"{m} x {width} x {width}, {count} blocks of {size}, {np.dtype(dtype).name}",
                partial(_blocks, m, width, count, size, dtype),
                {},
                ("columns", "rows", "weights", "floor"),
                operations=2.0 * m * count * size * size,
                moved=float(np.dtype(dtype).itemsize) * (m * width * 3 + count * size * size),
                peak="float16",
                rtol=3e-6 if dtype is np.float32 else 3e-3,
                stock=partial(gemm, m, width, width),
                small=small,
            )


def _blocks(m: int, width: int, count: int, size: int, dtype: Any, rng: np.random.Generator) -> Arrays:
    columns, rows = (rng.permutation(width)[: count * size].reshape(count, size) for _ in range(2))
    return {
        "y": normal(rng, m, width).astype(dtype),
        "x": normal(rng, m, width).astype(dtype),
        "columns": columns.astype(np.int64),
        "rows": rows.astype(np.int64),
        "weights": (normal(rng, count, size, size) / np.float32(size**0.5)).astype(dtype),
        "floor": np.asarray(0, dtype),
    }
