"""Preparation: the same function in the form that integer kernels want."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest

from graphopt import model as models
from graphopt import registry
from graphopt.verify import Reference
from tests.ops.net import Net
from tests.quantization.placing import context_of, ran


def after(proto: onnx.ModelProto, name: str, **options: object) -> list[str]:
    """Run a pass, prove the result equal, and return the operators that are left; a second run changes nothing."""
    context = context_of(proto)
    item = registry.make(name, dict(options))
    changed = item.run(context)
    assert Reference(proto).compare(context.model).passed
    models.check(context.model)
    assert not item.run(context)
    assert changed == bool(context.counts)
    return [node.op_type for node in context.model.graph]


# -- global-average ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("keep", [0, 1])
@pytest.mark.parametrize(("batch", "axes"), [("N", [2, 3]), (2, [-1, -2])])
def test_a_mean_over_pixels_is_a_pool(batch: int | str, axes: list[int], keep: int) -> None:
    """onnxruntime's own mean over negative axes of an empty batch has a wrong shape: there the batch is given."""
    net = Net()
    y = net("ReduceMean", net.input("x", batch, 5, 7, 3), np.array(axes), keepdims=keep)
    assert after(net.model(y), "global-average") == ["GlobalAveragePool", "Flatten"][: 2 - keep]


def test_axes_as_an_attribute() -> None:
    net = Net(opset=13)
    assert after(net.model(net("ReduceMean", net.input("x", "N", 5, 7), axes=[2])), "global-average")[0] != "ReduceMean"


@pytest.mark.parametrize(
    ("shape", "axes"),
    [(("N", 5, 7, 3), [1, 2]), (("N", 5, 7, 3), [2]), (("N", 5, "H", 3), [2, 3]), ((4, 7), [1])],
)
def test_other_means_stay(shape: tuple[int | str, ...], axes: list[int]) -> None:
    net = Net()
    y = net("ReduceMean", net.input("x", *shape), np.array(axes), keepdims=1)
    assert after(net.model(y), "global-average") == ["ReduceMean"]


# -- join-bias ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("front", [(3,), ("N",), (2, 3), ("N", 3), (2, "T", 3), (1, 1)])
@pytest.mark.parametrize("first", [False, True])
def test_a_product_gets_its_bias(front: tuple[int | str, ...], first: bool) -> None:
    net = Net()
    product, row = net("MatMul", net.input("x", *front, 5), net.normal(5, 7)), net.normal(7)
    y = net("Add", row, product) if first else net("Add", product, row)
    left = after(net.model(y), "join-bias")
    assert left == (["Gemm"] if len(front) == 1 else ["Reshape", "Gemm", "Reshape"])


def test_one_reshape_serves_all_products_of_a_value() -> None:
    net = Net()
    x = net.input("x", "N", 3, 5)
    parts = [net("Add", net("MatMul", x, net.normal(5, 5)), net.normal(5)) for _ in range(3)]
    assert after(net.model(net("Sum", *parts)), "join-bias").count("Reshape") == 4


@pytest.mark.parametrize("row", [(), (1,), (1, 7), (1, 1, 7)])
def test_rows_that_broadcast(row: tuple[int, ...]) -> None:
    net = Net()
    y = net("Add", net("MatMul", net.input("x", "N", 3, 5), net.normal(5, 7)), net.normal(*row))
    assert "Gemm" in after(net.model(y), "join-bias")


def test_the_product_keeps_its_name() -> None:
    net = Net()
    proto = net.model(net("Add", net("MatMul", net.input("x", "N", 3, 5), net.normal(5, 7)), net.normal(7)))
    context = context_of(proto, "join-bias")
    assert [node.name for node in context.model.graph if node.op_type == "Gemm"] == [proto.graph.node[0].name]


def _two_readers(net: Net, y: str) -> str:
    return net("Mul", net("Add", y, net.normal(7)), y)


@pytest.mark.parametrize(
    "build",
    [
        lambda net, y: net("Add", y, net.normal(3, 7)),  # a row for each position
        lambda net, y: net("Add", y, net.normal(2, 1, 1, 7)),  # adds an axis
        lambda net, y: net("Add", y, net("ReduceSum", y, np.array([0, 1]), keepdims=0)),  # not a constant
        lambda net, y: net("Sub", y, net.normal(7)),
        _two_readers,
    ],
)
def test_other_additions_stay(build: Callable[[Net, str], str]) -> None:
    net = Net()
    y = net("MatMul", net.input("x", "N", 3, 5), net.normal(5, 7))
    assert "Gemm" not in after(net.model(build(net, y)), "join-bias")


def test_two_sizes_that_are_not_known_stay() -> None:
    net = Net()
    y = net("Add", net("MatMul", net.input("x", "N", "T", 5), net.normal(5, 7)), net.normal(7))
    assert after(net.model(y), "join-bias") == ["MatMul", "Add"]


def test_the_bias_is_added_before_rounding() -> None:
    """Joined, onnxruntime runs one integer product; apart it would dequantize the weights at each run."""
    net = Net()
    proto = net.model(net("Add", net("MatMul", net.input("x", 2, 3, 5), net.normal(5, 7)), net.normal(7)))
    data = [{"x": np.random.default_rng(0).normal(size=(2, 3, 5)).astype(np.float32)}]
    found = ran(proto, data)
    assert found.counts["QGemm"] == 1 and not found.floating


# -- pad-channels ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("channels", "padded"), [(1, True), (3, True), (4, False), (5, True)])
def test_images_get_channels_by_four(channels: int, padded: bool) -> None:
    net = Net()
    y = net("Conv", net.input("x", "N", channels, 64, 64), net.normal(8, channels, 3, 3), strides=[1, 1])
    assert after(net.model(y), "pad-channels") == (["Pad"] if padded else []) + ["Conv"]


@pytest.mark.parametrize(
    ("size", "kernel", "groups"),
    [(64, 1, 1), (6, 3, 1), (64, 3, 3)],
    ids=["nothing is moved", "too small", "channels apart"],
)
def test_where_it_does_not_pay(size: int, kernel: int, groups: int) -> None:
    net = Net()
    weight = net.normal(6, 3 // groups, kernel, kernel)
    y = net("Conv", net.input("x", "N", 3, size, size), weight, group=groups)
    assert after(net.model(y), "pad-channels") == ["Conv"]


def test_an_image_may_be_prepared_inside() -> None:
    net = Net()
    x = net("Cast", net("Transpose", net.input("x", "N", 64, 64, 3), perm=[0, 3, 1, 2]), to=onnx.TensorProto.FLOAT)
    y = net("Conv", net("Div", net("Sub", x, net.normal(3, 1, 1)), np.float32(3)), net.normal(8, 3, 3, 3))
    assert after(net.model(y), "pad-channels")[-2:] == ["Pad", "Conv"]


@pytest.mark.parametrize("how", ["convolution", "two images"])
def test_inside_a_net_nothing_is_padded(how: str) -> None:
    net = Net()
    x = net.input("x", "N", 3, 64, 64)
    inner = net("Conv", x, net.normal(3, 3, 1, 1)) if how == "convolution" else net("Sub", x, net("Exp", x))
    y = net("Conv", inner, net.normal(8, 3, 3, 3))
    assert "Pad" not in after(net.model(y), "pad-channels")


def test_two_readers_share_the_padding() -> None:
    net = Net()
    x = net.input("x", "N", 3, 64, 64)
    y = net("Add", net("Conv", x, net.normal(8, 3, 3, 3)), net("Conv", x, net.normal(8, 3, 3, 3)))
    assert after(net.model(net("Mul", y, net("ReduceMean", x))), "pad-channels").count("Pad") == 1


# -- upgrade-opset -----------------------------------------------------------------------------------------------------


def upgraded(net: Net, y: str, version: int) -> tuple[list[str], int]:
    """Upgrade, prove equal; return the operators and the version."""
    proto = net.model(y)
    context = context_of(proto)
    registry.make("upgrade-opset", {"version": version}).run(context)
    models.check(context.model)
    assert Reference(proto).compare(context.model).passed
    return [node.op_type for node in context.model.graph], context.opset


OLD: list[tuple[str, int, int, Callable[[Net, str], str]]] = [
    ("unchanged", 11, 13, lambda n, x: n("Relu", n("Add", x, x))),
    ("squeeze", 11, 13, lambda n, x: n("Squeeze", n("Unsqueeze", x, axes=[0]), axes=[0])),
    ("split", 11, 13, lambda n, x: n("Concat", *n.many("Split", x, outputs=2, axis=1, split=[1, 3]), axis=1)),
    ("split evenly", 13, 21, lambda n, x: n("Concat", *n.many("Split", x, outputs=2, axis=1), axis=1)),
    ("sum", 11, 13, lambda n, x: n("ReduceSum", x, axes=[1], keepdims=0)),
    ("mean", 13, 21, lambda n, x: n("ReduceMean", x, axes=[1, -1], keepdims=0)),
    ("mean of all", 13, 21, lambda n, x: n("ReduceMean", x)),
    ("softmax over the last axis", 11, 13, lambda n, x: n("Softmax", x, axis=3)),
    ("clip", 11, 21, lambda n, x: n("Clip", x, np.float32(0))),
    ("pool", 11, 21, lambda n, x: n("AveragePool", x, kernel_shape=[2, 2])),
    ("norm", 11, 21, lambda n, x: n("BatchNormalization", x, *(np.abs(n.normal(4)) for _ in range(4)))),
    ("reshape", 11, 21, lambda n, x: n("Reshape", x, np.array([0, -1]))),
    ("resize", 11, 21, lambda n, x: n("Resize", x, np.zeros(0, np.float32), np.array([1, 1, 2, 2], np.float32))),
]


@pytest.mark.parametrize(("old", "new", "build"), [row[1:] for row in OLD], ids=[row[0] for row in OLD])
def test_later_and_the_same(old: int, new: int, build: Callable[[Net, str], str]) -> None:
    net = Net(opset=old)
    y = build(net, net.input("x", "N", 4, 6, 5))
    before = [node.op_type for node in net.model(y).graph.node]
    assert upgraded(net, y, new) == (before, new)


NOT: list[tuple[str, int, int, Callable[[Net, str], str]]] = [
    ("softmax over several axes", 11, 13, lambda n, x: n("Softmax", x, axis=1)),
    ("softmax as it is by default", 11, 13, lambda n, x: n("Softmax", x)),
    ("rounded up", 11, 21, lambda n, x: n("AveragePool", x, kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1)),
    ("norm by groups", 18, 21, lambda n, x: n("GroupNormalization", x, n.normal(2), n.normal(2), num_groups=2)),
]


@pytest.mark.parametrize(("old", "new", "build"), [row[1:] for row in NOT], ids=[row[0] for row in NOT])
def test_what_means_something_else_stays(old: int, new: int, build: Callable[[Net, str], str]) -> None:
    net = Net(opset=old)
    proto = net.model(build(net, net.input("x", "N", 4, 6, 5)))
    context = context_of(proto)
    assert not registry.make("upgrade-opset", {"version": new}).run(context)
    assert context.opset == old and "stays at operator set" in context.warnings[0].message


def test_never_back() -> None:
    net = Net(opset=20)
    assert upgraded(net, net("Relu", net.input("x", 0, 3)), 13) == (["Relu"], 20)


def test_types_say_which_version_they_need() -> None:
    net = Net(opset=11)
    proto = net.model(net("MatMul", net.input("x", "N", 5), net.normal(5, 7)))
    assert context_of(proto, "upgrade-opset").opset == 13
    assert context_of(proto, "upgrade-opset", target="portable", activations="uint16").opset == 21


# -- norm-to-convolution -----------------------------------------------------------------------------------------------


def _norm(net: Net, x: str, channels: int) -> str:
    return net("BatchNormalization", x, *(np.abs(net.normal(channels)) for _ in range(4)))


@pytest.mark.parametrize("relu", [False, True])
def test_a_norm_in_front_of_a_convolution_is_one(relu: bool) -> None:
    net = Net()
    y = _norm(net, net("Abs", net.input("x", "N", 16, 5, 3)), 16)
    proto = net.model(net("Conv", net("Relu", y) if relu else y, net.normal(4, 16, 1, 1)))
    left = after(proto, "norm-to-convolution")
    assert left == ["Abs", "Conv", *(["Relu"] if relu else []), "Conv"]


def test_its_weights_are_exact_on_integers() -> None:
    net = Net()
    y = _norm(
        net, net("Concat", *[net("Conv", net.input("x", "N", 16, 5, 3), net.normal(16, 16, 1, 1))] * 2, axis=1), 32
    )
    proto = net.model(net("Tanh", net("Conv", net("Relu", y), net.normal(4, 32, 1, 1))))
    found = ran(proto, [{"x": np.random.default_rng(0).normal(size=(2, 16, 5, 3)).astype(np.float32)}])
    assert found.counts["QLinearConv"] == 3 and found.counts["DequantizeLinear"] == 1


@pytest.mark.parametrize(
    ("channels", "build"),
    [
        (15, lambda net, y: net("Conv", y, net.normal(4, 15, 1, 1))),
        (16, lambda net, y: net("Tanh", y)),
        (16, lambda net, y: net("Relu", y)),
    ],
)
def test_other_norms_stay(channels: int, build: Callable[[Net, str], str]) -> None:
    net = Net()
    y = _norm(net, net("Abs", net.input("x", "N", channels, 5, 3)), channels)
    assert "BatchNormalization" in after(net.model(build(net, y)), "norm-to-convolution")


def test_a_norm_of_the_input_stays() -> None:
    net = Net()
    y = net("Conv", _norm(net, net.input("x", "N", 16, 5, 3), 16), net.normal(4, 16, 1, 1))
    assert after(net.model(y), "norm-to-convolution") == ["BatchNormalization", "Conv"]
