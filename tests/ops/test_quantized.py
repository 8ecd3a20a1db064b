"""Quantized models: integers are cut as integers, a zero point is the zero, outputs are the same bit for bit."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_dynamic,
    quantize_static,
)  # fmt: skip

from graphopt import model as models
from graphopt import pipeline
from graphopt.facts.constants import MICROSOFT
from tests.ops.net import Case, Net, dead, examine
from tests.strategies.graphs import feeds

DEAD = [1, 4, 6]
LIVE = [0, 2, 3, 5]
Scale = np.ndarray | np.generic


def scale(*numbers: float) -> Scale:
    return np.float32(numbers[0]) if len(numbers) == 1 else np.array(numbers, np.float32)


def steps(net: Net, *shape: int, kind: type = np.int8) -> np.ndarray:
    """Integers of a weight, none of which is 0 or 3 (zero points)."""
    info = np.iinfo(kind)
    data = net.rng.integers(4, 100, shape)
    return (data if info.min == 0 else data * net.rng.choice([-1, 1], shape)).astype(kind)


def quantize(net: Net, y: str, s: float = 0.05, zero: Any = 3, kind: type = np.uint8) -> list[Any]:
    """Quantize; returns the value with its scale and zero point."""
    return [net("QuantizeLinear", y, scale(s), kind(zero)), scale(s), kind(zero)]


def dequantize(net: Net, *operands: Any, **attributes: Any) -> str:
    return net("DequantizeLinear", *operands, **attributes)


# -- quantize and dequantize -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "zero"),
    [(np.uint8, 0), (np.uint8, 3), (np.uint8, 255), (np.int8, 0), (np.int8, -128), (np.uint16, 9), (np.int16, -5)],
)
def test_zeros_become_the_zero_point_and_zeros_again(kind: type, zero: int) -> None:
    def build() -> onnx.ModelProto:
        net = Net(opset=21)
        y = net("Relu", net("Gemm", net.input("x", "N", 3), dead(net.normal(7, 3), 0, DEAD), transB=1))
        y = dequantize(net, *quantize(net, y, 0.05, zero, kind))
        return net.model(net("Gemm", y, net.normal(7, 2)))

    examine(Case("", build, most=12 + 1 + 1 + 8))


@pytest.mark.parametrize("fill", [0.73, -40.0, 40.0, 1e-5, 0.075])
def test_constants_are_rounded_and_saturated(fill: float) -> None:
    def build() -> onnx.ModelProto:
        net = Net()
        y = net(
            "Gemm",
            net.input("x", "N", 3),
            dead(net.normal(7, 3), 0, DEAD),
            dead(net.normal(7), 0, DEAD, fill),
            transB=1,
        )
        return net.model(net("Gemm", dequantize(net, *quantize(net, y)), net.normal(7, 2), net.normal(2)))

    # 0.075 is half way between two steps of 0.05: which one a runtime takes is not certain.
    unsure = fill == 0.075
    examine(Case("", build, most=None if unsure else 12 + 4 + 8 + 4, least=21 + 7 + 14 + 2 if unsure else 0))


@pytest.mark.parametrize("axis", [1, -1])
def test_scales_along_the_channels_are_cut(axis: int) -> None:
    def build() -> onnx.ModelProto:
        net = Net()
        y = net("Gemm", net.input("x", "N", 3), dead(net.normal(7, 3), 0, DEAD), transB=1)
        scales, zeros = np.linspace(0.01, 0.07, 7).astype(np.float32), np.arange(7).astype(np.int8)
        y = net("DequantizeLinear", net("QuantizeLinear", y, scales, zeros, axis=axis), scales, zeros, axis=axis)
        return net.model(net("Gemm", y, net.normal(7, 2)))

    examine(Case("", build, most=12 + 4 + 4 + 8))


def test_another_axis_than_that_of_the_scales() -> None:
    def build(zeros: np.ndarray, fill: float) -> onnx.ModelProto:
        net = Net()
        y = net(
            "Conv",
            net.input("x", "N", 3, 4, 5),
            dead(net.normal(7, 3, 1, 1), 0, DEAD),
            dead(net.normal(7), 0, DEAD, fill),
        )
        scales = np.linspace(0.01, 0.07, 4).astype(np.float32)
        y = net("DequantizeLinear", net("QuantizeLinear", y, scales, zeros, axis=2), scales, zeros, axis=2)
        return net.model(net("Conv", y, net.normal(2, 7, 1, 1), net.normal(2)))

    small = 12 + 4 + 4 + 4 + 8 + 2
    examine(Case("zeros", lambda: build(np.full(4, 5, np.int8), 0.0), most=small))
    examine(Case("zeros at other zero points", lambda: build(np.arange(4).astype(np.int8), 0.0), least=small + 1))
    examine(Case("constants of other steps", lambda: build(np.full(4, 5, np.int8), 0.6), least=small + 1))


def test_blocks_of_scales() -> None:
    def build(axis: int) -> onnx.ModelProto:
        net = Net(opset=21)
        y = net("Gemm", net.input("x", 5, 3), dead(net.normal(8, 3), 0, [0, 1, 2, 3, 6]), transB=1)
        s = (net.normal(*((5, 2) if axis == 1 else (1, 8))) ** 2 + 0.01).astype(np.float32)
        zeros = np.zeros(s.shape, np.int8)
        size = 4 if axis == 1 else 5
        y = net("QuantizeLinear", y, s, zeros, axis=axis, block_size=size)
        y = net("DequantizeLinear", y, s, zeros, axis=axis, block_size=size)
        return net.model(net("Gemm", y, net.normal(8, 2)))

    examine(Case("along the rows", lambda: build(0), most=9 + 3 + 3 + 6, batches=(5,)))
    examine(Case("along the channels", lambda: build(1), least=9 + 10 + 10 + 16, batches=(5,)))


def test_a_scale_that_is_computed() -> None:
    def build(fill: float) -> onnx.ModelProto:
        net = Net()
        x = net.input("x", "N", 3)
        y = net("Gemm", x, dead(net.normal(7, 3), 0, DEAD), dead(net.normal(7), 0, DEAD, fill), transB=1)
        s = net("Add", net("Abs", net("ReduceSum", x, keepdims=0)), 0.1)
        y = net("DequantizeLinear", net("QuantizeLinear", y, s, np.uint8(3)), s, np.uint8(3))
        return net.model(net("Gemm", y, net.normal(7, 2)))

    small = 12 + 4 + 8 + 1
    examine(Case("zeros", lambda: build(0.0), most=small, batches=(1, 5)))
    examine(Case("constants", lambda: build(1.0), least=small + 1, batches=(1, 5)))


def test_the_output_is_quantized() -> None:
    def build() -> onnx.ModelProto:
        net = Net()
        y = net("Gemm", net.input("x", "N", 3), dead(net.normal(7, 3), 0, DEAD), transB=1)
        proto = net.model(quantize(net, y, 0.01, 7)[0])
        proto.graph.output[0].type.tensor_type.elem_type = TensorProto.UINT8
        return proto

    examine(Case("", build, most=12 + 1))


# -- weights that are stored as integers -----------------------------------------------------------------------------


def _stored_gemm(axis: int | None, zeros: Callable[[int], np.ndarray] | None, rows: Collection[int]) -> onnx.ModelProto:
    net = Net()
    count = {0: 7, 1: 3}.get(-1 if axis is None else axis, 1)
    zero = np.array(3) if zeros is None else zeros(count)
    q = dead(steps(net, 7, 3), 0, rows)
    q = np.where(np.isin(np.arange(7), list(rows))[:, None], zero[:, None] if axis == 0 and np.ndim(zero) else zero, q)
    s = scale(0.02) if axis is None else np.linspace(0.01, 0.03, count).astype(np.float32)
    attributes: dict[str, Any] = {} if axis is None else {"axis": axis}
    w = net("DequantizeLinear", q.astype(np.int8), s, np.asarray(zero, np.int8), **attributes)
    y = net("Relu", net("Gemm", net.input("x", "N", 3), w, transB=1))
    return net.model(net("Gemm", y, net.normal(7, 2)))


def test_weights_that_are_stored_as_integers_stay_so() -> None:
    stays = ("DequantizeLinear",)
    examine(Case("one scale", lambda: _stored_gemm(None, None, DEAD), most=12 + 1 + 8, stays=stays))
    for axis, count in ((0, 4), (1, 3)):
        equal = Case(
            f"scales along {axis}", lambda a=axis: _stored_gemm(a, lambda n: np.zeros(n), DEAD), most=12 + count + 8
        )
        examine(equal)
        other = lambda a=axis: _stored_gemm(a, lambda n: np.arange(n) - 2, DEAD)  # noqa: E731
        examine(Case(f"zero points along {axis}", other, most=12 + count + 8, stays=stays))
    examine(Case("nothing dead", lambda: _stored_gemm(0, lambda n: np.zeros(n), []), least=21 + 7 + 14))


def test_columns_that_read_dead_channels_are_cut() -> None:
    def build(bias: float) -> onnx.ModelProto:
        net = Net()
        y = net("Gemm", net.input("x", "N", 3), dead(net.normal(7, 3), 0, DEAD), np.full(7, bias, np.float32), transB=1)
        w = net("DequantizeLinear", steps(net, 7, 5), scale(0.02, 0.03, 0.04, 0.05, 0.06), np.zeros(5, np.int8), axis=1)
        return net.model(net("Gemm", net("MatMul", y, w), net.normal(5, 2)))

    examine(Case("zeros", lambda: build(0.0), most=12 + 4 + 20 + 5 + 10))
    examine(Case("constants", lambda: build(0.5), most=12 + 4 + 20 + 5 + 5 + 10))


def test_blocks_of_a_stored_weight() -> None:
    def build(gone: list[int]) -> onnx.ModelProto:
        net = Net(opset=21)
        y = net("MatMul", net.input("x", "N", 3), dead(net.normal(3, 8), 1, gone))
        w = net("DequantizeLinear", steps(net, 8, 5), net.normal(2, 5), axis=0, block_size=4)
        return net.model(net("MatMul", y, w))

    examine(Case("a whole block", lambda: build([4, 5, 6, 7]), most=12 + 20 + 5))
    examine(Case("half a block more", lambda: build([2, 3, 4, 5, 6, 7]), most=6 + 20 + 5))


@pytest.mark.parametrize("groups", [2, 6])
def test_groups_of_a_stored_weight(groups: int) -> None:
    def build(per_row: bool) -> onnx.ModelProto:
        net = Net()
        y = net("Conv", net.input("x", "N", 3, 4, 5), dead(net.normal(6, 3, 1, 1), 0, [1, 4]))
        s = np.linspace(0.01, 0.06, 6).astype(np.float32) if per_row else scale(0.02)
        zero = np.full(6, 2, np.int8) if per_row else np.int8(2)
        q = dead(steps(net, 6, 6 // groups, 1, 1), 0, [1, 4], 2)
        w = net("DequantizeLinear", q, s, zero, axis=0) if per_row else net("DequantizeLinear", q, s, zero)
        y = net("Conv", y, w, group=groups)
        return net.model(net("Conv", y, net.normal(2, 6, 1, 1)))

    weights = 8 if groups == 2 else 4
    examine(Case("one scale", lambda: build(False), most=12 + weights + 1 + 8))
    examine(Case("a scale for every row", lambda: build(True), most=12 + weights + 4 + 8))


def test_a_bias_that_is_stored_as_integers_takes_constants_in() -> None:
    def build(fill: float) -> onnx.ModelProto:
        net = Net()
        y = net(
            "Conv",
            net.input("x", "N", 3, 4, 5),
            dead(net.normal(7, 3, 1, 1), 0, DEAD),
            dead(net.normal(7), 0, DEAD, fill),
        )
        y = dequantize(net, *quantize(net, y, 0.25, 5))
        w = net("DequantizeLinear", steps(net, 2, 7, 1, 1), scale(0.5, 0.25), np.zeros(2, np.int8), axis=0)
        b = net("DequantizeLinear", np.array([7, -9], np.int32), scale(0.125, 0.0625), axis=0)
        return net.model(dequantize(net, *quantize(net, net("Conv", y, w, b), 0.5, 100)))

    most = 12 + 4 + 8 + 2 + 2 + 2 + 4
    examine(Case("zeros", lambda: build(0.0), most=most))
    examine(Case("constants", lambda: build(0.75), most=most, gone=("Add",)))


def test_integers_without_a_bias_keep_a_plane() -> None:
    def build(fill: float) -> onnx.ModelProto:
        net = Net()
        y = net("MatMul", net.input("x", "N", 3), dead(net.normal(3, 7), 1, DEAD))
        y = dequantize(net, *quantize(net, net("Add", y, dead(net.normal(7), 0, DEAD, fill)), 0.25, 5))
        w = net("DequantizeLinear", steps(net, 7, 2), scale(0.5), np.int8(0))
        return net.model(dequantize(net, *quantize(net, net("MatMul", y, w), 0.5, 100)))

    examine(Case("zeros", lambda: build(0.0), most=12 + 4 + 8 + 1 + 4))
    examine(Case("constants", lambda: build(0.75), gone=("Gemm",), least=12 + 4 + 8 + 1 + 5))


# -- integer operators -----------------------------------------------------------------------------------------------


def _read(net: Net, y: str, channels: int, step: float, zero: int, out_step: float) -> str:
    """What a last quantized convolution makes of all channels of `y`, as floats."""
    given = [y, scale(step), np.uint8(zero)]
    result = [scale(out_step), np.uint8(90)]
    weight = [steps(net, 2, channels, 1, 1), scale(0.1), np.int8(0)]
    return dequantize(net, net("QLinearConv", *given, *weight, *result), *result)


def _channels(net: Net, places: Collection[int] = DEAD, bias: float = 0.0, zero: int = 3) -> list[Any]:
    """Seven channels of an image, some of them dead, quantized."""
    y = net(
        "Conv",
        net.input("x", "N", 3, 4, 5),
        dead(net.normal(7, 3, 1, 1), 0, places),
        dead(net.normal(7), 0, places, bias),
    )
    return quantize(net, y, 0.05, zero)


@pytest.mark.parametrize("per_row", [False, True])
@pytest.mark.parametrize("pads", [0, 1])
def test_a_quantized_convolution(pads: int, per_row: bool) -> None:
    def build(fill: float, biased: bool) -> onnx.ModelProto:
        net = Net()
        x = _channels(net, DEAD, fill)
        zero = np.full(5, 2, np.int8) if per_row else np.int8(2)
        s = np.linspace(0.01, 0.02, 5).astype(np.float32) if per_row else scale(0.013)
        w = [dead(steps(net, 5, 7, 3, 3), 0, [2], 2), s, zero]
        b = [np.arange(5).astype(np.int32)] if biased else []
        y = net("QLinearConv", *x, *w, scale(0.3), np.uint8(100), *b, pads=[pads] * 4)
        return net.model(_read(net, y, 5, 0.3, 100, 1))

    scales = 4 if per_row else 1
    small = 12 + 4 + 4 * 4 * 9 + 2 * 4 + scales
    for biased in (False, True):
        bias = 4 if biased else 0
        # Row 2 of the weight is dead too: its bias is a constant that the next one's sums take in.
        examine(Case("zeros", lambda b=biased: build(0.0, b), most=small + bias + 2 + 8))
        plane: dict[str, Any] = {"least": small + 3 + 36} if pads else {"most": small + 4 + 2 + 8}
        examine(Case("constants", lambda b=biased: build(0.6, b), **plane))


def test_groups_of_a_quantized_convolution() -> None:
    def build(groups: int) -> onnx.ModelProto:
        net = Net()
        y = net("Conv", net.input("x", "N", 3, 4, 5), dead(net.normal(6, 3, 1, 1), 0, [1, 4]))
        x = quantize(net, y)
        w = [
            dead(steps(net, 6, 6 // groups, 3, 3), 0, [1, 4], 2),
            np.linspace(0.01, 0.02, 6).astype(np.float32),
            np.full(6, 2, np.int8),
        ]
        y = net("QLinearConv", *x, *w, scale(0.3), np.uint8(100), group=groups, pads=[1, 1, 1, 1])
        return net.model(net("Conv", dequantize(net, y, scale(0.3), np.uint8(100)), net.normal(2, 6, 1, 1)))

    examine(Case("depthwise", lambda: build(6), most=12 + 4 * 9 + 4 + 8 + 4))
    examine(Case("two groups", lambda: build(2), most=12 + 8 * 9 + 4 + 8 + 4))


def test_integer_convolutions_and_products() -> None:
    def convolution(zero: int) -> onnx.ModelProto:
        net = Net()
        x = _channels(net, zero=3)
        y = net(
            "ConvInteger", x[0], dead(steps(net, 5, 7, 3, 3), 0, [2], 2), np.uint8(zero), np.int8(2), pads=[1, 1, 1, 1]
        )
        return net.model(net("Conv", net("Cast", y, to=1), net.normal(2, 5, 1, 1)))

    def product(zero: int, left: bool = False) -> onnx.ModelProto:
        net = Net()
        y = quantize(net, net("MatMul", net.input("x", "N", 5, 3), dead(net.normal(3, 7), 1, DEAD)))[0]
        zeros = (np.arange(5) + 4).astype(np.int8)
        y = net("MatMulInteger", y, dead(steps(net, 7, 5), 1, [2], 6), np.uint8(zero), zeros)
        return net.model(net("MatMul", net("Cast", y, to=1), net.normal(5, 2)))

    examine(Case("convolution", lambda: convolution(3), most=12 + 4 + 4 * 4 * 9 + 8 + 1))
    examine(Case("at another zero point", lambda: convolution(4), least=12 + 4 + 5 * 4 * 9))
    examine(Case("product", lambda: product(3), most=12 + 16 + 8 + 1))
    examine(Case("constants go behind", lambda: product(4), most=12 + 16 + 8 + 1))


def test_a_quantized_product() -> None:
    def build(zero: int) -> onnx.ModelProto:
        net = Net()
        y = quantize(net, net("MatMul", net.input("x", "N", 5, 3), dead(net.normal(3, 7), 1, DEAD)))
        w = [dead(steps(net, 7, 5), 1, [2], 1), scale(0.01, 0.02, 0.03, 0.02, 0.01), np.full(5, 1, np.int8)]
        y = net("QLinearMatMul", y[0], y[1], np.uint8(zero), *w, scale(0.3), np.uint8(100))
        return net.model(net("MatMul", dequantize(net, y, scale(0.3), np.uint8(100)), net.normal(5, 2)))

    small = 12 + 16 + 4 + 8
    examine(Case("zeros", lambda: build(3), most=small + 4))
    examine(Case("constants", lambda: build(9), least=small + 3 + 4))


@pytest.mark.parametrize("kept", [True, False])
def test_a_quantized_gemm(kept: bool) -> None:
    def build() -> onnx.ModelProto:
        net = Net()
        y = quantize(net, net("MatMul", net.input("x", "N", 3), dead(net.normal(3, 7), 1, DEAD)))
        w = [dead(steps(net, 5, 7), 0, [2], 1), scale(0.01), np.int8(1)]
        tail = [scale(0.3), np.uint8(100)] if kept else []
        y = net("QGemm", *y, *w, np.array([3, 4, 0, 5, 6], np.int32), *tail, domain=MICROSOFT, transB=1)
        y = dequantize(net, y, scale(0.3), np.uint8(100)) if kept else y
        return net.model(net("Gemm", y, net.normal(5, 2)))

    examine(Case("", build, most=12 + 16 + 4 + 8 + (5 if kept else 3)))


def test_what_is_quantized_when_it_runs() -> None:
    def build(op: str, fill: float, unread: list[int]) -> onnx.ModelProto:
        net = Net()
        y = net("MatMul", net.input("x", "N", 5, 3), dead(net.normal(3, 7), 1, DEAD))
        if fill:
            y = net("Add", y, dead(np.zeros(7, np.float32), 0, DEAD, fill))
        w, s, zero = dead(steps(net, 7, 5), 0, unread, 1), scale(0.02), np.int8(1)
        if op == "DynamicQuantizeMatMul":
            y = net(op, y, w, s, zero, net.normal(5), domain=MICROSOFT)
        else:
            q, y_scale, y_zero = net.many("DynamicQuantizeLinear", y, outputs=3)
            if op == "MatMulIntegerToFloat":
                y = net(op, q, w, y_scale, s, y_zero, zero, net.normal(5), domain=MICROSOFT)
            else:
                y = net("Mul", net("Cast", net(op, q, w, y_zero, zero), to=1), net("Mul", y_scale, s))
        return net.model(net("MatMul", y, net.normal(5, 2)))

    for op in ("MatMulInteger", "MatMulIntegerToFloat", "DynamicQuantizeMatMul"):
        rest = 1 + 10 + (0 if op == "MatMulInteger" else 5)
        examine(Case(f"{op}: zeros leave", lambda o=op: build(o, 0.0, []), most=12 + 20 + rest))
        # The largest entry may be one that no weight reads, or a constant.
        examine(Case(f"{op}: what is not read stays", lambda o=op: build(o, 0.0, [0, 2]), least=12 + 10 + rest))
        examine(Case(f"{op}: constants stay", lambda o=op: build(o, 2.0, []), least=21 + 20 + rest))


# -- elementwise -----------------------------------------------------------------------------------------------------


def test_sums_and_products_of_quantized_values() -> None:
    def build(op: str, other: list[int]) -> onnx.ModelProto:
        net = Net()
        x = net.input("x", "N", 5, 3)
        a = quantize(net, net("MatMul", x, dead(net.normal(3, 7), 1, DEAD)))
        b = quantize(net, net("MatMul", x, dead(net.normal(3, 7), 1, other)), 0.03, 9)
        y = net(op, *a, *b, scale(0.07), np.uint8(20), domain=MICROSOFT)
        return net.model(net("MatMul", dequantize(net, y, scale(0.07), np.uint8(20)), net.normal(7, 2)))

    for op in ("QLinearAdd", "QLinearMul"):
        examine(Case(f"{op}: dead in both", lambda o=op: build(o, DEAD), most=12 + 12 + 8 + 6))
    examine(Case("a product with zero", lambda: build("QLinearMul", []), most=12 + 12 + 8 + 6))
    examine(Case("a sum with zero", lambda: build("QLinearAdd", []), least=12 + 21 + 14))


def test_a_quantized_scatter_in_front_of_a_sum() -> None:
    def build() -> onnx.ModelProto:
        net = Net()
        x = _channels(net, DEAD, 0.6)
        stream = quantize(net, net("Conv", "x", net.normal(7, 3, 1, 1)), 0.03, 9)
        y = net("QLinearAdd", *x, *stream, scale(0.07), np.uint8(20), domain=MICROSOFT)
        return net.model(net("Conv", dequantize(net, y, scale(0.07), np.uint8(20)), net.normal(2, 7, 1, 1)))

    examine(Case("", build, most=12 + 4 + 21 + 14 + 6))


@pytest.mark.parametrize("op", ["QLinearSigmoid", "QLinearLeakyRelu", "QLinearAveragePool", "QLinearGlobalAveragePool"])
def test_functions_and_pools(op: str) -> None:
    def build(fill: float, **attributes: Any) -> onnx.ModelProto:
        net = Net()
        if op == "QLinearLeakyRelu":
            attributes["alpha"] = 0.3
        if op == "QLinearAveragePool":
            attributes |= {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}
        y = net(op, *_channels(net, DEAD, fill), scale(0.011), np.uint8(7), domain=MICROSOFT, **attributes)
        return net.model(_read(net, y, 7, 0.011, 7, 0.2))

    small = 12 + 4 + 8 + 9
    examine(Case("zeros", lambda: build(0.0), most=small + 2))
    examine(Case("constants", lambda: build(0.6), most=small + 2))
    if op == "QLinearAveragePool":
        examine(Case("padding counts: zeros", lambda: build(0.0, count_include_pad=1), most=small + 2))
        examine(Case("padding counts", lambda: build(0.6, count_include_pad=1), least=21 + 7 + 14))


def test_concatenations() -> None:
    def build(axis: int, other: list[int]) -> onnx.ModelProto:
        net = Net()
        first = _channels(net, DEAD, 0.6)
        second = quantize(
            net, net("Conv", "x", dead(net.normal(7, 3, 1, 1), 0, other), dead(net.normal(7), 0, other, 0.6)), 0.03, 9
        )
        y = net("QLinearConcat", scale(0.05), np.uint8(3), *first, *second, domain=MICROSOFT, axis=axis)
        width = 14 if axis == 1 else 7
        y = net(
            "QLinearConv",
            y,
            scale(0.05),
            np.uint8(3),
            steps(net, 2, width, 1, 1),
            scale(0.1),
            np.int8(0),
            scale(0.2),
            np.uint8(90),
        )
        return net.model(dequantize(net, y, scale(0.2), np.uint8(90)))

    examine(Case("channels", lambda: build(1, [0, 2]), most=16 + 20 + 18 + 2 + 11))
    examine(Case("rows", lambda: build(2, DEAD), most=16 + 16 + 8 + 2 + 11))
    examine(Case("live in one", lambda: build(2, [0]), least=28 + 24 + 14))


def test_softmax_is_a_barrier() -> None:
    def build() -> onnx.ModelProto:
        net = Net()
        y = net("QLinearSoftmax", *_channels(net), scale(1 / 256), np.uint8(0), domain=MICROSOFT, axis=1, opset=13)
        return net.model(dequantize(net, y, scale(1 / 256), np.uint8(0)))

    examine(Case("", build, most=12 + 7 + 3, batches=(1, 5)))


# -- models as onnxruntime.quantization writes them -------------------------------------------------------------------


class _Samples(CalibrationDataReader):
    """A few inputs for calibration."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.rest = [feeds(model, batch) for batch in (1, 2, 3)]

    def get_next(self) -> dict[str, np.ndarray] | None:  # type: ignore[override]
        return self.rest.pop() if self.rest else None


def _network() -> onnx.ModelProto:
    """Convolutions (one depthwise, one in front of a sum), a pool, a Gemm; masked channels are zero, bias included."""
    net = Net(opset=17)
    x = net.input("x", "N", 3, 8, 8)
    y = net("Relu", net("Conv", x, dead(net.normal(7, 3, 3, 3), 0, DEAD), dead(net.normal(7), 0, DEAD), pads=[1] * 4))
    z = net("Relu", net("Conv", y, net.normal(7, 1, 3, 3), dead(net.normal(7), 0, DEAD), group=7, pads=[1] * 4))
    z = net("Conv", z, dead(net.normal(7, 7, 1, 1), 0, DEAD), dead(net.normal(7), 0, DEAD))
    y = net("MaxPool", net("Relu", net("Add", y, z)), kernel_shape=[2, 2], strides=[2, 2])
    y = net("Relu", net("Conv", y, net.normal(5, 7, 3, 3), net.normal(5)))
    y = net("Flatten", net("GlobalAveragePool", y))
    return net.model(net("Gemm", y, net.normal(4, 5), net.normal(4), transB=1))


def _run(
    model: onnx.ModelProto | bytes, level: ort.GraphOptimizationLevel, values: dict[str, np.ndarray]
) -> list[np.ndarray]:
    options = ort.SessionOptions()
    options.graph_optimization_level = level
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    data = model if isinstance(model, bytes) else model.SerializeToString()
    session = ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    return [np.asarray(output) for output in session.run(None, values)]


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("form", list(QuantFormat))
def test_a_model_quantized_by_onnxruntime(form: QuantFormat, per_channel: bool, tmp_path: Path) -> None:
    plain = _network()
    onnx.save(plain, tmp_path / "plain.onnx")
    quantize_static(
        tmp_path / "plain.onnx",
        tmp_path / "quantized.onnx",
        _Samples(plain),
        quant_format=form,
        per_channel=per_channel,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )
    model = onnx.load(tmp_path / "quantized.onnx")
    result = pipeline.optimize(model, plan="smallest")
    after = models.serialize(result.model)
    weights = 4 * 27 + 4 * 9 + 4 * 4 + 5 * 4 * 9 + 20
    biases, scales = 4 * 3 + 5 + 4, result.report.after.parameters
    assert result.report.after.parameters <= weights + biases + (2 * 21 if per_channel else 0) + 40, scales
    for level in (ort.GraphOptimizationLevel.ORT_DISABLE_ALL, ort.GraphOptimizationLevel.ORT_ENABLE_ALL):
        for batch in (1, 5):
            values = feeds(model, batch)
            for a, b in zip(_run(model, level, values), _run(after, level, values), strict=True):
                assert np.array_equal(a, b), (level, batch)


def test_a_model_quantized_when_it_runs(tmp_path: Path) -> None:
    plain = _network()
    onnx.save(plain, tmp_path / "plain.onnx")
    quantize_dynamic(tmp_path / "plain.onnx", tmp_path / "quantized.onnx", weight_type=QuantType.QUInt8)
    model = onnx.load(tmp_path / "quantized.onnx")
    assert any(node.op_type == "ConvInteger" for node in model.graph.node)
    weights = 4 * 27 + 4 * 9 + 4 * 4 + 5 * 4 * 9 + 20
    examine(Case("", lambda: model, most=weights + 4 * 3 + 5 + 4 + 5 + 8, batches=(1, 5)))


@pytest.mark.parametrize("opset", [11, 13, 14, 18])
@pytest.mark.parametrize("kind", [np.uint8, np.int8])
def test_bytes_are_scattered_with_their_zero_points(kind: type, opset: int) -> None:
    def build(places: list[int], *fills: float) -> onnx.ModelProto:
        net = Net(opset=opset)
        bias = np.zeros(7, np.float32)
        bias[places] = np.resize(fills, len(places))
        y = net("Gemm", net.input("x", "N", 3), dead(net.normal(3, 7), 1, places), bias)
        proto = net.model(net("Concat", *[quantize(net, y, 0.01, 7, kind)[0]] * 2, axis=0))
        proto.graph.output[0].type.tensor_type.elem_type = TensorProto.UINT8 if kind is np.uint8 else TensorProto.INT8
        return proto

    for places in (DEAD, [0, 1, 2], [5, 6]):
        examine(Case("zeros", lambda p=places: build(p, 0.0), most=(7 - len(places)) * 4 + 1))
        examine(Case("other constants", lambda p=places: build(p, 0.5, 0.9), most=(7 - len(places)) * 4 + 1))


def test_groups_whose_scales_lie_along_their_inputs_stay() -> None:
    def build() -> onnx.ModelProto:
        net = Net(opset=21)
        x = net.input("x", "N", 3, 4, 5)
        q = dead(steps(net, 6, 1, 1, 1), 0, [1, 4], 2)
        w = net("DequantizeLinear", q, net.normal(6, 1, 1, 1), np.full((6, 1, 1, 1), 2, np.int8), axis=1, block_size=1)
        y = net("Conv", x, w, group=3)
        return net.model(net("Conv", y, net.normal(2, 6, 1, 1)))

    examine(Case("", build, least=6 + 6 + 12))


@pytest.mark.parametrize("form", ["Mul", "Where", "Transpose", "soft", "shared"])
def test_masks_over_stored_weights(form: str) -> None:
    def build() -> onnx.ModelProto:
        net = Net()
        mask = dead(np.ones((1, 7), np.float32), 1, DEAD)
        w = net(
            "DequantizeLinear",
            steps(net, 3, 7),
            np.linspace(0.01, 0.03, 7).astype(np.float32),
            np.arange(7).astype(np.int8),
            axis=1,
        )
        if form == "Where":
            masked = net("Where", mask.astype(bool), w, np.float32(0))
        elif form == "Transpose":
            masked = net("Mul", net("Transpose", w, perm=[1, 0]), net("Reshape", mask, np.array([7, 1])))
        else:
            masked = net("Mul", w, np.float32(0.3) * mask if form == "soft" else mask)
        y = net("Relu", net("Gemm", net.input("x", "N", 3), masked, transB=int(form == "Transpose")))
        y = net("Gemm", y, net.normal(7, 2))
        return net.model(y, net("MatMul", "x", w)) if form == "shared" else net.model(y)

    if form in ("soft", "shared"):
        examine(Case(form, build, least=12 + 4 + 8 + 1))
    else:
        examine(Case(form, build, most=12 + 4 + 8, gone=(form, "Mul"), stays=("DequantizeLinear",)))
