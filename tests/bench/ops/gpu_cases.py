"""What ``gpu.py`` runs: for every operator a few shapes, the work that is in them, and what stock onnxruntime does.

Shapes are those of ResNet-50 (He et al. 2016, table 1) at batch 1 and 32, of transformers, and a product of 4096³;
small ones, odd in every way, are for comparing and for compute-sanitizer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from graphopt import runtime_ops

Arrays = dict[str, np.ndarray]
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Case:
    """One operator on one shape.

    Attributes:
        op: The operator.
        label: The shape, for the table.
        make: Makes the inputs.
        attributes: Of the node; the operator's defaults come first.
        constants: Inputs that are weights.
        operations: Multiplications and additions; 0 where moving bytes is all.
        moved: Bytes that have to be read and written.
        peak: Which measured peak it is held against: ``copy``, ``float16``, ``int8``.
        rtol: Relative tolerance between CUDA and the CPU, of the largest number; 0: bit by bit.
        stock: Makes what stock onnxruntime computes instead, for a type: model and feeds.
        outputs: How many.
        small: For comparing alone, not for the table.
    """

    op: str
    label: str
    make: Callable[[np.random.Generator], Arrays]
    attributes: Mapping[str, Any] = field(default_factory=dict)
    constants: tuple[str, ...] = ()
    operations: float = 0
    moved: float = 0
    peak: str = "copy"
    rtol: float = 0
    stock: Callable[[type], tuple[onnx.ModelProto, Arrays]] | None = None
    outputs: int = 1
    small: bool = False

    def settings(self) -> dict[str, Any]:
        """The attributes, defaults included: functions have none of their own."""
        return {**runtime_ops.operators()[self.op].attributes, **self.attributes}


def cases(small: bool) -> list[Case]:
    """Every case whose operator is there; only the small ones, or all."""
    known = runtime_ops.operators()
    found = [case for family in FAMILIES for case in family() if case.op in known]
    return [case for case in found if case.small or not small]


# --- shapes ----------------------------------------------------------------------------------------------------------

GEMMS = [  # M, K, N
    ("4096³", 4096, 4096, 4096),
    ("BERT base, 8 x 384, up", 3072, 768, 3072),
    ("BERT base, 8 x 384, down", 3072, 3072, 768),
    ("7B, 512 tokens, up", 512, 4096, 11008),
    ("7B, 16 tokens", 16, 4096, 4096),
    ("7B, 1 token", 1, 4096, 4096),
]
ODD_GEMMS = [
    ("1 x 1 x 1", 1, 1, 1),
    ("7 x 13 x 5", 7, 13, 5),
    ("64 x 64 x 96", 64, 64, 96),
    ("129 x 65 x 257", 129, 65, 257),
]


@dataclass(frozen=True)
class Window:
    """A convolution: channels, filters, rows and columns of the image, window and stride; padded to keep its size."""

    channels: int
    filters: int
    image: int
    window: int = 3
    stride: int = 1
    batch: int = 1

    @property
    def out(self) -> int:
        return (self.image + 2 * (self.window // 2) - self.window) // self.stride + 1

    @property
    def depth(self) -> int:
        return self.channels * self.window**2

    @property
    def operations(self) -> float:
        return 2.0 * self.batch * self.filters * self.out**2 * self.depth

    @property
    def placing(self) -> dict[str, Any]:
        return {"pads": [self.window // 2] * 4, "strides": [self.stride] * 2}

    def __str__(self) -> str:
        step = f" / {self.stride}" if self.stride > 1 else ""
        return f"batch {self.batch}, {self.window}x{self.window} {self.channels}-{self.filters}, {self.image}²{step}"


RESNET50 = [
    Window(64, 64, 56),
    Window(128, 128, 28),
    Window(256, 256, 14),
    Window(512, 512, 7),
    Window(128, 128, 56, stride=2),
    Window(256, 64, 56, window=1),
    Window(64, 256, 56, window=1),
    Window(1024, 256, 14, window=1),
    Window(3, 64, 224, window=7, stride=2),
]
ODD_CONVS = [Window(5, 7, 9, batch=2), Window(33, 65, 11, stride=2, batch=2), Window(3, 1, 1, window=1, batch=2)]


def windows(layers: list[Window]) -> Iterator[tuple[Window, bool]]:
    """The layers at batch 1 and 32, and the odd ones, which are small."""
    for batch in (1, 32):
        yield from ((replace(layer, batch=batch), False) for layer in layers)
    yield from ((layer, True) for layer in ODD_CONVS)


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
        yield Case("Int8Gemm", label, partial(_int8_gemm, m, k, n, False), placing, moved=moved, **about)
        if row in (GEMMS[0], ODD_GEMMS[-1]):
            make = partial(_int8_gemm, m, k, n, True)
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
            make = partial(_int8_conv, layer, nhwc)
            yield Case("Int8Conv", make=partial(make, False), attributes=placing, moved=moved, **about)
            if small or layer.filters > layer.channels:
                moved += layer.batch * layer.out**2 * layer.filters
                yield Case("Int8ConvAdd", make=partial(make, True), attributes=placing | JOIN, moved=moved, **about)


def _int8_gemm(m: int, k: int, n: int, residual: bool, rng: np.random.Generator) -> Arrays:
    arrays = {"x": _int8(rng, m, k), "w": _int8(rng, k, n), **_requantize(rng, n, k)}
    return {**arrays, "residual": _int8(rng, m, n)} if residual else arrays


def _int8_conv(layer: Window, nhwc: bool, residual: bool, rng: np.random.Generator) -> Arrays:
    def image(channels: int, size: int) -> np.ndarray:
        return _int8(rng, layer.batch, *((size, size, channels) if nhwc else (channels, size, size)))

    arrays = {
        "x": image(layer.channels, layer.image),
        "w": _int8(rng, layer.filters, layer.channels, layer.window, layer.window),
        **_requantize(rng, layer.filters, layer.depth),
    }
    return {**arrays, "residual": image(layer.filters, layer.out)} if residual else arrays


def _requantize(rng: np.random.Generator, count: int, depth: int) -> Arrays:
    typical = 40 / (74 * 74 * max(depth, 1) ** 0.5)
    bias = rng.integers(-5000, 5001, count) * max(1, int(depth**0.5))
    return {"scale": (typical * rng.uniform(0.5, 2, count)).astype(np.float32), "bias": bias.astype(np.int32)}


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
    return {"x": _normal(rng, m, k), "weights": packed, **_epilogue(rng, n, sign)}


def _binary_conv(layer: Window, sign: bool, rng: np.random.Generator) -> Arrays:
    shape = (layer.filters, layer.window, layer.window, (layer.channels + 7) // 8)
    x = _normal(rng, layer.batch, layer.channels, layer.image, layer.image)
    return {"x": x, "weights": rng.integers(0, 256, shape).astype(np.uint8), **_epilogue(rng, layer.filters, sign)}


def _ternary_gemm(m: int, k: int, n: int, bits: int, rng: np.random.Generator) -> Arrays:
    return {
        "x": _normal(rng, m, k),
        "codes": rng.integers(0, 256, (n, (k * bits + 7) // 8)).astype(np.uint8),
        "levels": np.resize(np.array([-1, 0, 1, 2, -3, 4, 5, -6], np.int8), 1 << bits),
        "scale": rng.uniform(0.1, 2, n).astype(np.float32),
        "bias": _normal(rng, n),
        "x_scale": np.asarray(0.03, np.float32),
        "x_zero_point": np.asarray(4, np.int8),
    }


def _epilogue(rng: np.random.Generator, count: int, sign: bool) -> Arrays:
    if sign:
        return {"threshold": rng.integers(-20, 20, count).astype(np.float32)}
    return {"scale": rng.uniform(0.1, 2, count).astype(np.float32), "bias": _normal(rng, count)}


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
                **about,
            )


def _chosen(rng: np.random.Generator, size: int, count: int) -> np.ndarray:
    return np.sort(rng.permutation(size)[:count]).astype(np.int64)


def _gather(shape: Shape, part: Shape, axis: int, dtype: Any, rng: np.random.Generator) -> Arrays:
    places = _chosen(rng, shape[axis], part[axis])
    places[:: max(2, len(places) // 5)] = -1
    return {"data": _normal(rng, *shape).astype(dtype), "indices": places, "fill": np.asarray(0.5, dtype)}


def _scatter(shape: Shape, part: Shape, axis: int, dtype: Any, rng: np.random.Generator) -> Arrays:
    return {
        "updates": _normal(rng, *part).astype(dtype),
        "indices": _chosen(rng, shape[axis], part[axis]),
        "fill": _normal(rng, shape[axis]).astype(dtype),
    }


def _scatter_add(shape: Shape, part: Shape, axis: int, dtype: Any, rng: np.random.Generator) -> Arrays:
    return {
        "data": _normal(rng, *shape).astype(dtype),
        "indices": _chosen(rng, shape[axis], part[axis]),
        "updates": _normal(rng, *part).astype(dtype),
        "fill": np.zeros(1, dtype),
        "floor": np.asarray(0, dtype),
    }


def histograms() -> Iterator[Case]:
    for shape, small in (((32, 256, 56, 56), False), ((3, 7, 5), True)):
        moved = 8.0 * float(np.prod(shape))
        yield Case("Histogram", str(list(shape)), partial(_numbers, shape), moved=moved, outputs=2, small=small)


def _numbers(shape: Shape, rng: np.random.Generator) -> Arrays:
    return {"x": _normal(rng, *shape)}


FAMILIES: list[Callable[[], Iterator[Case]]] = [
    int8_gemms, int8_convs, binary_gemms, binary_convs, ternary_gemms, moves, histograms,
]  # fmt: skip


# --- what stock onnxruntime does -------------------------------------------------------------------------------------


def gemm(m: int, k: int, n: int, kind: type) -> tuple[onnx.ModelProto, Arrays]:
    """``Relu(x w + b)``."""
    rng = np.random.default_rng(1)
    weights = {"w": _normal(rng, k, n).astype(kind), "b": _normal(rng, n).astype(kind)}
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["p"]),
        helper.make_node("Add", ["p", "b"], ["s"]),
        helper.make_node("Relu", ["s"], ["y"]),
    ]
    return stock(nodes, {"x": _normal(rng, m, k).astype(kind)}, weights)


def conv(layer: Window, kind: type) -> tuple[onnx.ModelProto, Arrays]:
    """``Relu(Conv(x, w, b))``."""
    rng = np.random.default_rng(1)
    shape = (layer.filters, layer.channels, layer.window, layer.window)
    weights = {"w": _normal(rng, *shape).astype(kind), "b": _normal(rng, layer.filters).astype(kind)}
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["s"], **layer.placing),
        helper.make_node("Relu", ["s"], ["y"]),
    ]
    return stock(
        nodes, {"x": _normal(rng, layer.batch, layer.channels, layer.image, layer.image).astype(kind)}, weights
    )


def stock(nodes: list[onnx.NodeProto], feeds: Arrays, weights: Arrays) -> tuple[onnx.ModelProto, Arrays]:
    """A model of standard operators with one output ``y``, and what it is fed."""
    values = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
        for name, array in feeds.items()
    ]
    graph = helper.make_graph(
        nodes, "stock", values, [helper.make_empty_tensor_value_info("y")],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), feeds


def _int8(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.integers(-128, 128, shape, np.int8)


def _normal(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.standard_normal(shape, np.float32)
