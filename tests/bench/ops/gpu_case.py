"""A case of ``gpu.py``: an operator on a shape, the work that is in it, and what stock onnxruntime does.

Shapes are those of ResNet-50 (He et al. 2016, table 1) at batch 1 and 32, of transformers, and a product of 4096³;
small ones, odd in every way, are for comparing and for compute-sanitizer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
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
        target: What is asked of it, a key of ``gpu_targets.TARGETS``; nothing: it is in the table alone.
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
    target: str = ""

    def settings(self) -> dict[str, Any]:
        """The attributes, defaults included: functions have none of their own."""
        return {**runtime_ops.operators()[self.op].attributes, **self.attributes}


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


# --- what stock onnxruntime does -------------------------------------------------------------------------------------


def gemm(m: int, k: int, n: int, kind: type) -> tuple[onnx.ModelProto, Arrays]:
    """``Relu(x w + b)``."""
    rng = np.random.default_rng(1)
    weights = {"w": normal(rng, k, n).astype(kind), "b": normal(rng, n).astype(kind)}
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["p"]),
        helper.make_node("Add", ["p", "b"], ["s"]),
        helper.make_node("Relu", ["s"], ["y"]),
    ]
    return stock(nodes, {"x": normal(rng, m, k).astype(kind)}, weights)


def matmul(m: int, k: int, n: int, kind: type) -> tuple[onnx.ModelProto, Arrays]:
    """``x w`` alone."""
    rng = np.random.default_rng(1)
    weights = {"w": normal(rng, k, n).astype(kind)}
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    return stock([node], {"x": normal(rng, m, k).astype(kind)}, weights)


def conv(layer: Window, kind: type) -> tuple[onnx.ModelProto, Arrays]:
    """``Relu(Conv(x, w, b))``."""
    rng = np.random.default_rng(1)
    shape = (layer.filters, layer.channels, layer.window, layer.window)
    weights = {"w": normal(rng, *shape).astype(kind), "b": normal(rng, layer.filters).astype(kind)}
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["s"], **layer.placing),
        helper.make_node("Relu", ["s"], ["y"]),
    ]
    return stock(nodes, {"x": normal(rng, layer.batch, layer.channels, layer.image, layer.image).astype(kind)}, weights)


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


def int8(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """Numbers of the whole range."""
    return rng.integers(-128, 128, shape, np.int8)


def normal(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """float32, of a normal distribution."""
    return rng.standard_normal(shape, np.float32)
