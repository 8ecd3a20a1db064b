"""Operators that onnxruntime's optimizer writes: the same channels leave as from the operators they are made of."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from graphopt.facts.constants import MICROSOFT
from tests.ops.net import Case, Net, dead, examine

DEAD = [1, 4, 6]
SMALL = 4 * 3 + 4 * 2 + 2  # 4 of 7 filters of one pixel, the columns that read them, a bias


def image(net: Net) -> str:
    return net.input("x", "N", 3, 5, 4)


@pytest.mark.parametrize(
    ("op", "attributes"), [("Gelu", {}), ("QuickGelu", {"alpha": 1.5}), ("FastGelu", {}), ("BiasGelu", {})]
)
def test_activations(op: str, attributes: dict[str, float]) -> None:
    def build(bias: np.ndarray | None) -> onnx.ModelProto:
        net = Net()
        y = net("MatMul", net.input("x", "N", 5, 3), dead(net.normal(3, 7), 1, DEAD))
        operands = [y] if bias is None else [y, bias]
        return net.model(net("MatMul", net(op, *operands, domain=MICROSOFT, **attributes), net.normal(7, 2)))

    zero = None if op in ("Gelu", "QuickGelu") else dead(np.ones(7, np.float32), 0, DEAD)
    kept = 0 if zero is None else 4
    examine(Case("zeros stay zeros", lambda: build(zero), most=12 + 8 + kept, stays=(f"com.microsoft.{op}",)))
    if zero is not None:  # gelu(0.5) is a constant that goes into a bias behind the product
        shifted = np.full(7, 0.5, np.float32)
        examine(Case("constants", lambda: build(shifted), most=12 + 8 + 4 + 2))


def test_a_convolution_with_an_activation() -> None:
    def build(name: str, parameters: list[float], bias: float = 0.0) -> onnx.ModelProto:
        net = Net()
        w, b = dead(net.normal(7, 3, 1, 1), 0, DEAD), dead(net.normal(7), 0, DEAD, bias)
        extra = {"activation_params": parameters} if parameters else {}
        y = net("FusedConv", image(net), w, b, domain=MICROSOFT, activation=name, **extra)
        return net.model(net("Conv", y, net.normal(2, 7, 1, 1), net.normal(2)))

    for name, parameters in [("Relu", []), ("Tanh", []), ("Sigmoid", []), ("LeakyRelu", [0.3]), ("Clip", [-0.1, 0.4])]:
        examine(Case(name, lambda n=name, p=parameters: build(n, p), most=SMALL + 4))
        examine(Case(f"{name} of a constant", lambda n=name, p=parameters: build(n, p, -0.7), most=SMALL + 4))
    examine(Case("HardSigmoid", lambda: build("HardSigmoid", [0.3, 0.4], -0.7), most=SMALL + 4))


def test_a_constant_in_front_of_the_padding_of_a_fused_convolution_is_a_plane() -> None:
    def build(pads: list[int]) -> onnx.ModelProto:
        net = Net()
        y = net("Sigmoid", net("Conv", image(net), dead(net.normal(7, 3, 1, 1), 0, DEAD)))
        w = net.normal(2, 7, 3, 3)
        return net.model(net("FusedConv", y, w, net.normal(2), domain=MICROSOFT, activation="Relu", pads=pads))

    examine(Case("no padding", lambda: build([0, 0, 0, 0]), most=12 + 2 * 4 * 9 + 2))
    examine(Case("padding", lambda: build([1, 1, 1, 1]), most=15 + 2 * 5 * 9 + 2, least=12 + 2 * 4 * 9 + 3))


def test_a_convolution_with_a_second_summand() -> None:
    def build(other: list[int]) -> onnx.ModelProto:
        net = Net()
        x = image(net)
        z = net("Conv", x, dead(net.normal(7, 3, 1, 1), 0, other))
        w = dead(net.normal(7, 3, 1, 1), 0, DEAD)
        y = net("FusedConv", x, w, np.zeros(7, np.float32), z, domain=MICROSOFT, activation="Relu")
        return net.model(net("Conv", y, net.normal(2, 7, 1, 1), net.normal(2)))

    examine(Case("dead in both", lambda: build(DEAD), most=SMALL + 12 + 4))
    examine(Case("live in one", lambda: build([0]), least=12 + 18 + 12 + 2))


def test_depthwise_with_an_activation() -> None:
    def build() -> onnx.ModelProto:
        net = Net()
        y = net("Conv", image(net), dead(net.normal(7, 3, 1, 1), 0, DEAD))
        y = net("FusedConv", y, net.normal(7, 1, 3, 3), domain=MICROSOFT, activation="Relu", group=7, pads=[1, 1, 1, 1])
        return net.model(net("Conv", y, net.normal(2, 7, 1, 1), net.normal(2)))

    examine(Case("", build, most=SMALL + 4 * 9))


@pytest.mark.parametrize("beta", [1.0, 0.5])
def test_gemm_with_an_activation(beta: float) -> None:
    def build(first: np.ndarray | float) -> onnx.ModelProto:
        net = Net()
        bias = np.full(7, first, np.float32)
        attributes = {"activation": "LeakyRelu", "activation_alpha": 0.3, "transB": 1, "beta": beta}
        y = net(
            "FusedGemm", net.input("x", "N", 3), dead(net.normal(7, 3), 0, DEAD), bias, domain=MICROSOFT, **attributes
        )
        y = net("FusedGemm", y, net.normal(5, 7), net.normal(5), domain=MICROSOFT, **attributes)
        return net.model(net("Gemm", y, net.normal(5, 2)))

    examine(Case("zeros", lambda: build(0.0), most=12 + 20 + 5 + 4 + 10))
    # Scaled, the bias takes no constants, and the activation is in the way of an addition behind: one plane is left.
    examine(Case("constants", lambda: build(-0.7), most=12 + 20 + 5 + 4 + 10 + (0 if beta == 1 else 3 + 5 + 1)))
    examine(Case("constants", lambda: build(-0.7), least=12 + 20 + 5 + 4 + 10 + (0 if beta == 1 else 3 + 5 + 1)))


@pytest.mark.parametrize("turned", [0, 1])
def test_a_product_that_turns_its_operands(turned: int) -> None:
    def build(add: float) -> onnx.ModelProto:
        net = Net()
        y = net("MatMul", net.input("x", "N", 5, 3), dead(net.normal(3, 7), 1, DEAD))
        y = net("Add", y, np.full(7, add, np.float32))
        if turned:
            y = net("Transpose", y, perm=[0, 2, 1])
        w = net.normal(2, 7) if turned else net.normal(7, 2)
        return net.model(net("FusedMatMul", y, w, domain=MICROSOFT, transA=turned, transB=turned, alpha=0.3))

    batches = (1, 5) if turned else (0, 1, 5)
    examine(Case("zeros", lambda: build(0.0), most=12 + 8, batches=batches))
    examine(Case("constants go behind", lambda: build(1.0), most=12 + 4 + 8 + 2, batches=batches))


def test_a_product_of_two_live_operands() -> None:
    def build(other: list[int]) -> onnx.ModelProto:
        net = Net()
        x = net.input("x", "N", 5, 3)
        q, k = (net("MatMul", x, dead(net.normal(3, 7), 1, places)) for places in (DEAD, other))
        return net.model(net("FusedMatMul", q, k, domain=MICROSOFT, transB=1, alpha=0.125))

    examine(Case("one side is dead", lambda: build([]), most=12 + 12))
    examine(Case("one of each", lambda: build([0, 1]), most=9 + 9))


def _masked(layers: str) -> onnx.ModelProto:
    net = Net()
    if layers == "convolutions":
        x = image(net)
        first = net(
            "Relu",
            net("Conv", x, net("Mul", net.normal(7, 3, 3, 3), _mask(4)), dead(net.normal(7), 0, DEAD), pads=[1] * 4),
        )
        second = net("Conv", first, net("Mul", net.normal(7, 7, 1, 1), _mask(4)), dead(net.normal(7), 0, DEAD))
        y = net("LeakyRelu", net("Add", second, first), alpha=0.2)
        return net.model(net("Conv", net("MaxPool", y, kernel_shape=[2, 2]), net.normal(2, 7, 1, 1), net.normal(2)))
    x = net.input("x", "N", 5, 6)
    y = net(
        "Gemm",
        net("Reshape", x, np.array([-1, 6])),
        net("Mul", net.normal(6, 7), _mask(2).T),
        dead(net.normal(7), 0, DEAD),
    )
    y = net("Reshape", net("Relu", y), np.array([-1, 5, 7]))
    y = net("Add", net("MatMul", y, net("Mul", net.normal(7, 7), _mask(2).T)), dead(net.normal(7), 0, DEAD))
    y = net("Mul", net("Mul", y, 0.5), net("Add", net("Erf", net("Div", y, float(np.sqrt(2)))), 1.0))
    return net.model(net("MatMul", net("Mul", y, 0.25), net.normal(7, 2)))


def _mask(rank: int) -> np.ndarray:
    return dead(np.ones((7, *[1] * (rank - 1)), np.float32), 0, DEAD)


@pytest.mark.parametrize("layers", ["convolutions", "products"])
def test_a_model_that_onnxruntime_has_optimized(layers: str, tmp_path: Path) -> None:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.log_severity_level = 4
    ort.InferenceSession(_masked(layers).SerializeToString(), options, providers=["CPUExecutionProvider"])
    model = onnx.load(tmp_path / "optimized.onnx")
    assert any(node.domain == MICROSOFT for node in model.graph.node)
    if layers == "convolutions":
        most = 4 * 27 + 4 + 16 + 4 + 8 + 2
    else:
        most = 6 * 4 + 4 + 16 + 4 + 8
    examine(Case(layers, lambda: model, most=most))


@pytest.mark.parametrize(("bits", "points"), [(4, "none"), (4, "packed"), (4, "floats"), (8, "none"), (8, "packed")])
def test_weights_of_a_few_bits(bits: int, points: str) -> None:
    size, inputs, outputs = 16, 56, 5  # the last block has 8 of 16

    def build(gone: list[int], row: int | None, fill: float = 0.0) -> onnx.ModelProto:
        net = Net(opset=21)
        y = net("MatMul", net.input("x", "N", 3, 2), dead(net.normal(2, inputs), 1, gone))
        if fill:
            y = net("Add", y, dead(np.zeros(inputs, np.float32), 0, gone, fill))
        middle = 1 << (bits - 1)
        zero = net.rng.integers(0, 2 * middle, (outputs, 4)).astype(np.uint8)
        q = net.rng.integers(0, 2 * middle, (outputs, 4, size)).astype(np.uint8)
        if row is not None:
            q[row] = middle if points == "none" else zero[row][:, None]
        packed = q if bits == 8 else q[..., ::2] | (q[..., 1::2] << 4)
        operands = [packed, (net.normal(outputs, 4) / 50).ravel()]
        if points == "packed":
            operands.append((zero if bits == 8 else zero[:, ::2] | (zero[:, 1::2] << 4)).ravel())
        elif points == "floats":
            operands.append(zero.astype(np.float32).ravel())
        y = net("MatMulNBits", y, *operands, domain=MICROSOFT, K=inputs, N=outputs, bits=bits, block_size=size)
        return net.model(net("MatMul", y, net.normal(outputs, 2)))

    per_block = 1 + (points == "floats")

    def count(k: int, blocks: int, rows: int) -> int:
        return 2 * k + rows * blocks * (size + per_block) + rows * 2

    block, most_of_it = list(range(16, 32)), list(range(18, 32))
    examine(Case("a row", lambda: build([], 2), most=count(inputs, 4, 4), least=count(inputs, 4, 4)))
    examine(Case("a block", lambda: build(block, None), most=count(40, 3, 5)))
    examine(Case("both, and the last block", lambda: build([*block, *range(48, 56)], 2), most=count(32, 2, 4)))
    examine(Case("a part of a block", lambda: build(most_of_it, None), least=2 * (inputs - 14) + count(0, 4, 5)))
    examine(Case("constants", lambda: build(block, None, 0.5), least=count(0, 4, 5)))
