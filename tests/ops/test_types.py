"""Other element types than float32: the same rules, in the type's own arithmetic."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tests.ops.net import Case, Net, dead, examine

DEAD = [1, 4, 6]


@pytest.mark.parametrize(("kind", "number"), [(np.float64, TensorProto.DOUBLE), (np.float16, TensorProto.FLOAT16)])
def test_floats_of_another_width(kind: type, number: int) -> None:
    def build() -> onnx.ModelProto:
        net = Net()
        x = net("Cast", net.input("x", "N", 3), to=number)
        w = net("Mul", net.normal(7, 3).astype(kind), dead(np.ones((7, 1), kind), 0, DEAD))
        y = net("Relu", net("Gemm", x, w, transB=1))
        y = net("Gemm", y, net.normal(7, 2).astype(kind), net.normal(2).astype(kind))
        return net.model(net("Cast", y, to=TensorProto.FLOAT))

    examine(Case("", build, most=4 * 3 + 4 * 2 + 2))


@pytest.mark.parametrize("kind", [np.int32, np.int64])
def test_integers_are_exact(kind: type) -> None:
    number = helper.np_dtype_to_tensor_dtype(np.dtype(kind))

    def build() -> onnx.ModelProto:
        net = Net()
        x = net("Cast", net.input("counts", "N", 3), to=number)
        y = net("MatMul", x, dead(np.round(net.normal(3, 7) * 5), 1, DEAD).astype(kind))
        y = net("Mul", y, np.arange(7).astype(kind))  # 0 * y[0]: a mask of integers
        return net.model(net("MatMul", y, np.round(net.normal(7, 2) * 5).astype(kind)))

    examine(Case("", build))


def test_booleans_move_with_their_channels() -> None:
    def build() -> onnx.ModelProto:
        net = Net()
        y = net("Gemm", net.input("counts", "N", 3), dead(np.round(net.normal(7, 3) * 3), 0, DEAD), transB=1)
        y = net("Not", net("Greater", y, 0.5))  # True where dead
        return net.model(net("Gemm", net("Cast", y, to=1), net.normal(7, 2)))

    examine(Case("", build, most=4 * 3 + 1 + 4 * 2 + 2))


def test_a_float_that_becomes_an_integer_and_comes_back() -> None:
    def build() -> onnx.ModelProto:
        net = Net()
        y = net("Gemm", net.input("counts", "N", 3), dead(np.round(net.normal(7, 3) * 3), 0, DEAD), transB=1)
        y = net("Cast", net("Add", net("Cast", y, to=7), np.int64(2)), to=1)  # dead positions hold 2
        return net.model(net("Gemm", y, net.normal(7, 2)))

    examine(Case("", build, most=4 * 3 + 4 * 2 + 2))


def test_a_dequantized_weight() -> None:
    def build() -> onnx.ModelProto:
        net = Net()
        q = dead(np.round(net.normal(7, 3) * 40), 0, DEAD).astype(np.int8)
        w = net("DequantizeLinear", q, np.full(7, 0.02, np.float32), np.zeros(7, np.int8), axis=0)
        y = net("Relu", net("Gemm", net.input("x", "N", 3), w, transB=1))
        return net.model(net("Gemm", y, net.normal(7, 2)))

    # Rows that are stored as integers are cut with their scales.
    examine(Case("", build, most=4 * 3 + 4 + 4 * 2))


def test_an_integer_product_whose_zero_point_is_not_zero() -> None:
    def build() -> onnx.ModelProto:
        net = Net()
        x = net("Cast", net.input("counts", "N", 3), to=TensorProto.INT8)
        w = np.full((3, 7), 3, np.int8)  # equal to its zero point: dead
        w[:, 2] = [1, 5, -2]
        y = net("MatMulInteger", x, w, np.int8(1), np.int8(3))
        return net.model(net("Gemm", net("Cast", y, to=1), net.normal(7, 2)))

    examine(Case("", build))


def _integers(net: Net, *shape: int) -> np.ndarray:
    """Small whole numbers, with which float16 computes exactly in any order."""
    return net.rng.choice([-2.0, -1.0, 1.0, 2.0], shape).astype(np.float16)


def test_a_network_in_half_precision_is_exact() -> None:
    def build() -> onnx.ModelProto:
        net = Net()
        x = net("Cast", net.input("counts", "N", 3, 5, 4), to=TensorProto.FLOAT16)
        mask = dead(np.ones((7, 1, 1, 1), np.float16), 0, DEAD)
        y = net("Conv", x, net("Mul", _integers(net, 7, 3, 1, 1), mask), dead(_integers(net, 7), 0, DEAD))
        ones, zeros = np.ones(7, np.float16), np.zeros(7, np.float16)
        y = net("Relu", net("BatchNormalization", y, ones, dead(zeros, 0, DEAD, 2.0), zeros, ones, epsilon=0.0))
        z = net("Conv", y, dead(_integers(net, 7, 7, 1, 1), 0, DEAD), dead(_integers(net, 7), 0, DEAD))
        y = net("MaxPool", net("Add", y, z), kernel_shape=[2, 2])
        y = net("Conv", net("Clip", y, np.float16(-9), np.float16(40)), _integers(net, 2, 7, 1, 1))
        return net.model(net("Cast", y, to=TensorProto.FLOAT))

    # Dead channels hold 2, and become a bias of the last one.
    examine(Case("", build, most=12 + 4 + 16 + 4 + 8 + 2 + 2))


@pytest.mark.parametrize("op", ["Sigmoid", "Exp", "Gelu", "Softplus", "LayerNormalization", "Softmax"])
def test_constants_in_half_precision_are_rounded_once(op: str) -> None:
    def build() -> onnx.ModelProto:
        net = Net(opset=20)
        x = net("Cast", net.input("counts", "N", 3), to=TensorProto.FLOAT16)
        y = net("MatMul", x, dead(_integers(net, 3, 7), 1, DEAD))
        if op == "LayerNormalization":
            y = net("Mul", net(op, y, np.ones(7, np.float16)), dead(np.ones(7, np.float16), 0, DEAD))
        else:
            y = net(op, y)
        return net.model(net("Cast", net("Greater", y, np.float16(0.6)), to=TensorProto.FLOAT))

    examine(Case("", build))


def test_bfloat16_between_casts() -> None:
    def build() -> onnx.ModelProto:
        net = Net()
        x = net.input("counts", "N", 5, 3)
        kernel = net("Cast", net.constant(dead(_integers(net, 3, 7), 1, DEAD).astype(ml_dtypes.bfloat16)), to=1)
        y = net("Cast", net("MatMul", x, kernel), to=TensorProto.BFLOAT16)
        y = net("Transpose", net("Concat", y, y, axis=1), perm=[0, 2, 1])
        y = net("Transpose", net("Cast", y, to=1), perm=[0, 2, 1])
        return net.model(net("MatMul", y, _integers(net, 7, 2).astype(np.float32)))

    examine(Case("", build, most=12 + 8))


def test_a_scatter_of_bfloat16() -> None:
    def build() -> onnx.ModelProto:
        net = Net()
        y = net("MatMul", net.input("counts", "N", 5, 3), dead(_integers(net, 3, 7), 1, DEAD).astype(np.float32))
        y = net("Cast", net("Add", y, dead(np.zeros(7, np.float32), 0, DEAD, 3.0)), to=TensorProto.BFLOAT16)
        y = net("Transpose", y, perm=[0, 2, 1])
        return net.model(net("Cast", net("Concat", y, y, axis=2), to=TensorProto.FLOAT))

    examine(Case("", build, most=12 + 4 + 7))
