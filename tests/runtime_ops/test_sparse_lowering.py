"""Layers that are mostly zeros become runtime operators: when, and when not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest

import graphopt
from graphopt import model as models
from graphopt import runtime
from graphopt.context import Context
from graphopt.facts.constants import Constants
from graphopt.passes.lower.lower_sparse import LowerSparse
from tests.ops.net import Net
from tests.runtime_ops import running
from tests.runtime_ops.sparse import weight


def zeros(*shape: int, share: float = 0.9) -> np.ndarray:
    return weight(np.random.default_rng(0), shape, share)


def lower(proto: onnx.ModelProto, **context: Any) -> tuple[list[str], Context]:
    """Run the pass; return the operators that are left, the runtime ones with their domain."""
    asked = {"runtime_operators": True, **context}
    model = models.load(proto)
    models.infer_shapes(model)
    given = Context(model, Constants(), **asked)
    changed = LowerSparse(least=64).run(given)
    assert not changed or not LowerSparse(least=64).run(given)
    left = [f"{node.domain}.{node.op_type}".lstrip(".") for node in given.model.graph]
    assert changed == any(name.startswith("graphopt.") for name in left)
    return left, given


def equal(proto: onnx.ModelProto, **shapes: tuple[int, ...]) -> list[str]:
    """The lowered model computes the same as the original, with the library and without it."""
    left, context = lower(proto)
    rng = np.random.default_rng(1)
    feeds = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    wanted = running.run(proto, feeds, library=False)
    for library in (False, True):
        found = running.run(context.model, feeds, library=library)
        for one, other in zip(found, wanted, strict=True):
            np.testing.assert_allclose(one, other, rtol=0, atol=2e-5)
    session = runtime.session(context.model, operators=False)
    assert [value.name for value in session.get_outputs()] == [value.name for value in proto.graph.output]
    return left


def conv(share: float = 0.9, kernel: tuple[int, ...] = (3, 3), inner: int = 8, **attributes: Any) -> onnx.ModelProto:
    net = Net()
    x = net.input("x", "N", 8, *("HW"[: len(kernel)]))
    return net.model(net("Conv", x, zeros(16, inner, *kernel, share=share), net.normal(16), **attributes))


def test_a_convolution_with_its_relu() -> None:
    net = Net()
    y = net("Conv", net.input("x", "N", 8, "H", "W"), zeros(16, 8, 3, 3), net.normal(16), pads=[1] * 4, strides=[2, 1])
    model = net.model(net("Relu", y))
    assert equal(model, x=(2, 8, 9, 11)) == ["graphopt.SparseConv"]


@pytest.mark.parametrize(
    "attributes",
    [
        {"dilations": [2, 1]},
        {"group": 2, "inner": 4},
        {"auto_pad": "VALID"},
        {"kernel": (1, 1)},
        {"kernel": (5,), "pads": [1, 2]},
    ],
)
def test_convolutions(attributes: dict[str, Any]) -> None:
    kernel = attributes.get("kernel", (3, 3))
    assert equal(conv(**attributes), x=(1, 8, *(10,) * len(kernel))) == ["graphopt.SparseConv"]


def test_a_relu_that_is_not_the_only_reader_stays() -> None:
    net = Net()
    y = net("Conv", net.input("x", "N", 8, "H", "W"), zeros(16, 8, 3, 3))
    model = net.model(net("Relu", y), net("Neg", y))
    assert sorted(equal(model, x=(1, 8, 7, 7))) == ["Neg", "Relu", "graphopt.SparseConv"]


def test_an_output_in_front_of_a_relu_stays() -> None:
    net = Net()
    y = net("Conv", net.input("x", "N", 8, "H", "W"), zeros(16, 8, 3, 3))
    assert equal(net.model(y, net("Relu", y)), x=(1, 8, 7, 7)) == ["graphopt.SparseConv", "Relu"]


@pytest.mark.parametrize(
    ("attributes", "bias"),
    [({}, (24,)), ({"transB": 1}, (1, 24)), ({"transB": 1}, ()), ({}, None), ({}, (1,))],
)
def test_a_product_of_rows(attributes: dict[str, Any], bias: tuple[int, ...] | None) -> None:
    net = Net()
    w = zeros(16, 24)
    given: list[Any] = [net.input("x", "N", 16), w.T.copy() if attributes else w]
    given += [] if bias is None else [net.normal(*bias)]
    model = net.model(net("Relu", net("Gemm", *given, **attributes)))
    assert equal(model, x=(5, 16)) == ["graphopt.SparseGemm"]


def test_a_product_and_what_is_added() -> None:
    net = Net()
    y = net("Add", net.normal(24), net("MatMul", net.input("x", "N", "T", 16), zeros(16, 24)))
    assert equal(net.model(net("Relu", y)), x=(2, 5, 16)) == ["graphopt.SparseGemm"]


def test_what_is_added_is_no_bias() -> None:
    net = Net()
    y = net("Add", net.normal(5, 1), net("MatMul", net.input("x", 2, 5, 16), zeros(16, 24)))
    assert equal(net.model(net("Relu", y)), x=(2, 5, 16)) == ["graphopt.SparseGemm", "Add", "Relu"]


def test_one_weight_of_two_layers() -> None:
    net = Net()
    w = net.constant(zeros(16, 16))
    y = net("MatMul", net("MatMul", net.input("x", "N", 16), w), w)
    assert equal(net.model(y), x=(3, 16)) == ["graphopt.SparseGemm"] * 2


def matmul(array: np.ndarray) -> Callable[[], onnx.ModelProto]:
    def build() -> onnx.ModelProto:
        net = Net()
        return net.model(net("MatMul", net.input("x", "N", array.shape[-2]), array))

    return build


def gemm(**attributes: Any) -> Callable[[], onnx.ModelProto]:
    def build() -> onnx.ModelProto:
        net = Net()
        return net.model(net("Gemm", net.input("x", 16, 16), zeros(16, 16), net.normal(16), **attributes))

    return build


def computed() -> onnx.ModelProto:
    net = Net()
    return net.model(net("MatMul", net.input("x", "N", 16), net("Abs", net.input("w", 16, 16))))


NOT = {
    "enough of it is not zero": lambda: conv(0.7),
    "it is small": matmul(zeros(16, 3)),
    "one channel a filter": lambda: conv(inner=1, group=8),
    "the padding is computed": lambda: conv(auto_pad="SAME_UPPER"),
    "three axes": matmul(zeros(2, 16, 16)),
    "not finite": matmul(np.where(zeros(16, 16) > 1.5, np.inf, zeros(16, 16)).astype(np.float32)),
    "in double precision": lambda: _double(),
    "a factor": gemm(alpha=2.0),
    "a factor of the bias": gemm(beta=2.0),
    "turned": gemm(transA=1),
    "computed": computed,
}


def _double() -> onnx.ModelProto:
    net = Net()
    x = net("Cast", net.input("x", "N", 16), to=onnx.TensorProto.DOUBLE)
    return net.model(net("MatMul", x, zeros(16, 16).astype(np.float64)))


@pytest.mark.parametrize("name", NOT)
def test_not_where(name: str) -> None:
    left, _ = lower(NOT[name]())
    assert not any(op.startswith("graphopt.") for op in left)


@pytest.mark.parametrize(
    "context",
    [{"runtime_operators": False}, {"target": "portable"}, {"target": "cuda"}, {"assume_finite": False}],
)
def test_only_where_it_was_asked_for(context: dict[str, Any]) -> None:
    assert lower(conv(), **context)[0] == ["Conv"]
    assert lower(conv())[0] == ["graphopt.SparseConv"]


def test_an_old_model_is_raised_to_the_operator_set() -> None:
    net = Net(opset=13)
    model = net.model(net("MatMul", net.input("x", "N", 16), zeros(16, 24)))
    assert equal(model, x=(3, 16)) == ["graphopt.SparseGemm"]


def test_the_file_is_smaller() -> None:
    _, context = lower(matmul(zeros(16, 2048, share=0.95))())
    size = sum(value.const_value.nbytes for value in context.model.graph.initializers.values() if value.const_value)
    assert size - 2048 * 4 < 16 * 2048 * 4 / 14


def test_optimize_takes_them_where_it_was_asked_to() -> None:
    net = Net()
    x = net.input("x", "N", 32, 9, 9)
    y = net("Relu", net("Conv", x, zeros(64, 32, 3, 3), net.normal(64), pads=[1] * 4))
    y = net("Conv", y, net.normal(64, 64, 3, 3), pads=[1] * 4)
    model = net.model(net("Relu", net("Conv", y, zeros(48, 64, 3, 3), pads=[1] * 4)))
    plain = graphopt.optimize(model, measure=False).model
    asked = graphopt.optimize(model, measure=False, operators=True)
    assert sorted(node.op_type for node in plain.graph) == ["Conv"] * 3 + ["Relu"] * 2
    assert sorted(node.op_type for node in asked.model.graph) == ["Conv", "SparseConv", "SparseConv"]
    assert asked.report.verify is not None and asked.report.verify.passed


def test_a_share_is_a_share() -> None:
    with pytest.raises(ValueError, match="zeros is a share"):
        LowerSparse(zeros=90)
    with pytest.raises(ValueError, match="products is a share"):
        LowerSparse(products=85)


@pytest.mark.parametrize(("op", "shape", "least"), [("Conv", (20, 2, 5, 5), 0.8), ("MatMul", (20, 50), 0.85)])
def test_a_product_needs_more_zeros_than_a_convolution(op: str, shape: tuple[int, ...], least: float) -> None:
    """As many zeros as are asked for, and one fewer; of 1,000 numbers, so that the share is exact."""
    weights = np.ones(1000, np.float32)
    weights[: round(least * 1000)] = 0
    fewer = np.where(np.arange(1000) == 0, np.float32(1), weights)
    for array, lowered in ((weights, True), (fewer, False)):
        net = Net()
        x = net.input("x", "N", 2, 8, 8) if op == "Conv" else net.input("x", "N", 20)
        left, _ = lower(net.model(net(op, x, array.reshape(shape))))
        assert any("Sparse" in name for name in left) is lowered
