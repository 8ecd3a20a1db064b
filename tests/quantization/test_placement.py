"""Where: which nodes run on integers, what is quantized for them, and what onnxruntime makes of it."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper

from graphopt.errors import ModelError, UsageError
from graphopt.quantization import qdq
from graphopt.quantization.place_costs import elements
from graphopt.quantization.place_cut import NEVER, Cut
from tests.ops.net import Net
from tests.quantization.placing import context_of, names, noise, operators, placement, quantized, ran, run

IMAGE = ("N", 4, 6, 6)
FEED = noise(3, 4, 6, 6)


def conv(net: Net, x: str, inputs: int = 4, outputs: int = 4, **attributes: Any) -> str:
    return net("Conv", x, net.normal(outputs, inputs, 3, 3), net.normal(outputs), pads=[1] * 4, **attributes)


# -- what is placed ----------------------------------------------------------------------------------------------------


def test_a_relu_goes_with_what_is_in_front_of_it() -> None:
    net = Net()
    y = net("Relu", conv(net, net.input("x", *IMAGE)))
    proto = net.model(conv(net, y))
    found = placement(proto)
    assert operators(found) == ["Conv", "Conv"]
    row = next(row for row in found.activations.values() if row.value.name == y)
    assert row.constraint.zero_point == 0 and row.readers is None
    assert len(found.activations) == 3, "input, behind the Relu, output: nothing between Conv and Relu"
    assert [bias.activation.name for bias in found.biases] == ["x", y]
    assert not ran(proto, FEED).floating


def test_a_relu_that_somebody_else_passes_by_does_not() -> None:
    net = Net()
    c = conv(net, net.input("x", *IMAGE))
    proto = net.model(net("Add", conv(net, net("Relu", c)), c))
    found = placement(proto)
    assert c in names(found.activations)
    assert not ran(proto, FEED).floating


@pytest.mark.parametrize(("low", "high", "upper"), [(0.0, 6.0, 6.0), (-1.0, 6.0, None)])
def test_a_clip_from_zero_is_redundant_and_another_is_not(low: float, high: float, upper: float | None) -> None:
    net = Net()
    c = conv(net, net.input("x", *IMAGE))
    y = net("Clip", c, np.float32(low), np.float32(high))
    found = placement(net.model(conv(net, y)))
    row = next(row for row in found.activations.values() if row.value.name == y)
    assert row.constraint.upper == upper
    assert (c in names(found.activations)) == (upper is None)


def test_a_residual_is_added_on_integers() -> None:
    net = Net()
    x = net("Relu", conv(net, net.input("x", *IMAGE)))
    proto = net.model(conv(net, net("Relu", net("Add", conv(net, x), x))))
    assert operators(placement(proto)) == ["Conv", "Conv", "Add", "Conv"]
    found = ran(proto, FEED)
    assert found.counts["QLinearAdd"] == 1 and not found.floating


def test_constants_of_additions_are_of_the_activations_type() -> None:
    net = Net()
    y = net("Mul", net("Add", conv(net, net.input("x", *IMAGE)), net.normal(4, 1, 1)), np.float32(0.3))
    proto = net.model(conv(net, y))
    found = placement(proto)
    assert operators(found) == ["Conv", "Add", "Mul", "Conv"]
    assert sorted(row.grid.name for row in found.weights.values()) == ["int8", "int8", "uint8", "uint8"]
    counts = ran(proto, FEED).counts
    assert counts["QLinearAdd"] == counts["QLinearMul"] == 1


def test_movers_share_their_parameters() -> None:
    net = Net()
    y = net("Relu", conv(net, net.input("x", *IMAGE)))
    a = net("MaxPool", y, kernel_shape=[2, 2], strides=[2, 2])
    b = net("Transpose", a, perm=[0, 1, 3, 2])
    proto = net.model(conv(net, b))
    found = placement(proto)
    assert operators(found) == ["Conv", "MaxPool", "Transpose", "Conv"]
    shared = [row for row in found.activations.values() if row.share]
    assert names(row.value for row in shared) == [y, a, b]
    assert {row.share for row in shared} == {y} and {row.constraint.zero_point for row in shared} == {0}
    assert ran(proto, FEED).counts["DequantizeLinear"] == 1


def test_a_product_that_is_an_output_stays_float_there() -> None:
    net = Net()
    proto = net.model(net("Gemm", net.input("x", "N", 6), net.normal(6, 5), net.normal(5)))
    found = placement(proto)
    assert names(found.activations) == ["x"] and found.biases
    counts = ran(proto, noise(3, 6)).counts
    assert counts["QGemm"] == 1 and "DequantizeLinear" not in counts


def test_a_product_in_front_of_a_relu_needs_integers_behind_it() -> None:
    net = Net()
    y = net("Relu", net("Gemm", net.input("x", "N", 6), net.normal(6, 5), net.normal(5)))
    proto = net.model(net("Tanh", y))
    assert names(placement(proto).activations) == ["x", y]
    assert ran(proto, noise(3, 6)).counts["QGemm"] == 1


def test_who_reads_a_float_value_besides_goes_on_reading_it() -> None:
    net = Net()
    x = net("LayerNormalization", net.input("x", "N", 3, 6), net.normal(6), net.normal(6), axis=-1)
    proto = net.model(net("Sub", net("MatMul", x, net.normal(6, 6)), x))
    found = placement(proto)
    (row,) = found.activations.values()
    assert row.value.name == x and [node.op_type for node, _ in row.readers or []] == ["MatMul"]


def test_softmax_is_faster_in_float() -> None:
    net = Net()
    x = net.input("x", "N", 64, 64)
    scores = net("MatMul", x, net("Transpose", x, perm=[0, 2, 1]))
    found = placement(net.model(net("MatMul", net("Softmax", scores), x)))
    assert operators(found) == ["Transpose", "MatMul", "MatMul"]


def test_a_shared_weight_is_quantized_once_and_a_float_reader_keeps_it() -> None:
    net = Net()
    x = net.input("x", "N", 5)
    weight = net.constant(net.normal(5, 5))
    y = net("MatMul", net("MatMul", x, weight), weight)
    found = placement(net.model(net("Add", y, net("ReduceSum", weight))))
    (row,) = found.weights.values()
    assert row.axis == 1 and [position for _, position in row.readers] == [1, 1]
    assert {node.op_type for node, _ in row.readers} == {"MatMul"}


def test_axes_that_disagree_leave_one_scale() -> None:
    net = Net()
    x = net.input("x", "N", 5)
    weight = net.constant(net.normal(5, 5))
    y = net("Gemm", net("MatMul", x, weight), weight, transB=1)
    (row,) = placement(net.model(y)).weights.values()
    assert row.axis is None and len(row.readers) == 2


def test_one_bias_for_two_layers_is_stored_with_two_scales() -> None:
    net = Net()
    x, bias = net.input("x", "N", 5), net.constant(net.normal(5))
    y = net("Gemm", net("Gemm", x, net.normal(5, 5), bias), net.normal(5, 5), bias)
    found = placement(net.model(y))
    assert [b.value.name for b in found.biases] == [bias, bias] and found.biases[0].weight is not found.biases[1].weight


# -- what is not -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("build", "reason"),
    [
        (lambda n, x: n("Gemm", x, n.normal(6, 6), n.normal(6), alpha=0.5), "alpha"),
        (lambda n, x: n("Gemm", x, n.normal(6, 6), n.normal(1)), "bias is not one number"),
        (lambda n, x: n("MatMul", x, np.full((6, 6), np.nan, np.float32)), "not finite"),
        (lambda n, x: n("MatMul", n.normal(2, 6), n.normal(6, 6)), "constants only"),
    ],
)
def test_what_stays_in_float_says_why(build: object, reason: str) -> None:
    net = Net()
    x = net.input("x", "N", 6)
    found = placement(net.model(build(net, x)))  # type: ignore[operator]
    assert not found.nodes and any(reason in kept.reason for kept in found.kept)


def test_small_things_stay_in_float_unless_everything_is_asked_for() -> None:
    net = Net()
    proto = net.model(net("Gemm", net.input("x", "N", 6), net.normal(6, 5), net.normal(5)))
    found = placement(proto, everything=False)
    assert not found.nodes and not found.activations and "too small" in found.kept[0].reason
    assert placement(proto, target="portable", everything=False).nodes


def test_no_borders_without_a_product() -> None:
    net = Net()
    x = net.input("x", "N", 64, 32, 32)
    found = placement(net.model(net("GlobalAveragePool", net("Add", x, net("Sigmoid", x)))))
    assert not found.nodes and not found.activations


def test_bodies_stay_in_float_and_say_so() -> None:
    net = Net()
    x, condition = net.input("x", "N", 6), net.input("c", dtype="b")
    weight = net.constant(net.normal(6, 6))

    def branch(op: str, *inputs: str) -> onnx.GraphProto:
        out = [helper.make_tensor_value_info("r", onnx.TensorProto.FLOAT, ["N", 6])]
        return helper.make_graph([helper.make_node(op, inputs, ["r"], name=f"inner{op}")], op, [], out)

    y = net("If", condition, then_branch=branch("MatMul", x, weight), else_branch=branch("Relu", x))
    found = placement(net.model(net("MatMul", y, net.normal(6, 6))))
    assert operators(found) == ["MatMul"]
    assert ["body" in kept.reason for kept in found.kept if kept.node.name == "innerMatMul"] == [True]


def test_an_old_operator_set_is_refused() -> None:
    net = Net(opset=12)
    proto = net.model(net("Gemm", net.input("x", "N", 6), net.normal(6, 5), net.normal(5)))
    with pytest.raises(ModelError, match="operator set 12"):
        placement(proto)


def test_weights_that_are_stored_already_are_left_alone() -> None:
    """onnxruntime would join the two, and fail when it runs: it has no product of rows with scales of their own."""
    net = Net(opset=21)
    y = net("Relu", conv(net, net.input("x", *IMAGE)))
    scale = np.linspace(0.01, 0.02, 6, dtype=np.float32)
    weight = net("DequantizeLinear", np.arange(30, dtype=np.int8).reshape(6, 5), scale, axis=0)
    proto = net.model(net("MatMul", y, weight))
    found = placement(proto)
    assert not found.nodes and "stored" in found.kept[0].reason
    assert run(quantized(proto, FEED), FEED[0]).shape == (3, 4, 6, 5)


@pytest.mark.parametrize("batch", [0, 2])
def test_softmax_between_products_of_any_batch(batch: int) -> None:
    """QLinearSoftmax has no output where the batch is empty."""
    net = Net()
    x = net.input("x", "N", 8, 8)
    y = net("MatMul", net("Softmax", net("MatMul", x, x)), x)
    assert run(quantized(net.model(y), noise(2, 8, 8)), noise(batch, 8, 8)[0]).shape == (batch, 8, 8)


# -- names -------------------------------------------------------------------------------------------------------------


def test_excluded_by_name_and_glob() -> None:
    net = Net()
    y = conv(net, conv(net, net.input("x", *IMAGE)))
    proto = net.model(net("Tanh", y))
    first, second, _ = (node.name for node in proto.graph.node)
    found = placement(proto, exclude=(first,))
    assert [node.name for node in found.nodes] == [second]
    assert [(kept.node.name, kept.reason) for kept in found.kept] == [(first, "excluded by the user")]
    assert not placement(proto, exclude=("Conv*",)).nodes


@pytest.mark.parametrize("name", ["Tahn3", "Nothing*"])
def test_unknown_names_are_errors(name: str) -> None:
    net = Net()
    proto = net.model(net("Tanh", net.input("x", 3)))
    with pytest.raises(UsageError, match="no node is called") as caught:
        placement(proto, exclude=(name,))
    assert name.endswith("*") or "Tanh" in str(caught.value)


# -- what onnxruntime would do by itself -------------------------------------------------------------------------------


def test_what_is_excluded_really_runs_in_float() -> None:
    net = Net()
    y = conv(net, net("Relu", conv(net, net("Relu", conv(net, net.input("x", *IMAGE))))))
    proto = net.model(net("Tanh", y))
    middle = proto.graph.node[2].name
    found = placement(proto, exclude=(middle,))
    assert [node.name for node in found.guarded] == [middle]
    assert ran(proto, FEED, exclude=(middle,)).counts["QLinearConv"] == 2


def test_a_float_pool_is_not_pulled_onto_integers() -> None:
    """onnxruntime would move the Q in front of it, and pool bytes in the layout of float: thirty times as slow."""
    net = Net()
    stem = conv(net, net.input("x", *IMAGE))
    pool = net("MaxPool", net("Relu", stem), kernel_shape=[2, 2], strides=[2, 2])
    proto = net.model(conv(net, pool))
    names = [node.name for node in proto.graph.node if node.op_type in ("Conv", "MaxPool")]
    excluded = (names[0], names[1])
    assert [node.op_type for node in placement(proto, exclude=excluded).guarded] == ["MaxPool"]
    found = ran(proto, FEED, exclude=excluded)
    assert found.counts["QLinearConv"] == 1 and names[1] not in found.integer
    assert not placement(proto).guarded


def test_a_pool_behind_a_float_convolution_stays_float() -> None:
    net = Net()
    pool = net("MaxPool", conv(net, net.input("x", "N", 4, 64, 64), 4, 32), kernel_shape=[3, 3])
    proto = net.model(net("Tanh", conv(net, conv(net, pool, 32, 32), 32, 32)))
    first = next(node.name for node in proto.graph.node if node.op_type == "Conv")
    assert operators(placement(proto, everything=False)) == ["Conv", "MaxPool", "Conv", "Conv"]
    assert operators(placement(proto, everything=False, exclude=(first,))) == ["Conv", "Conv"]


def test_numbers_are_counted_through_flattened_rows() -> None:
    """[N, 17, 8] as rows of 8 are 17 rows for a batch of one, and so are products of them; 3*N windows are 3."""
    net = Net()
    rows = net("Reshape", net.input("x", "N", 17, 8), np.array([-1, 8]))
    wide = net("Relu", net("MatMul", rows, net.normal(8, 5)))
    turned = net("Gemm", net.input("t", "K", 4), net.normal(7, 5), transA=1)  # its rows are those 4
    windows = net("Neg", net.input("w", "3*N", 7))
    proto = net.model(net("Sum", *(net("ReduceSum", each, keepdims=0) for each in (wide, turned, windows))))
    graph = context_of(proto).model.graph
    found = {str(v.name): v for v in (*graph.inputs, *(out for node in graph for out in node.outputs))}
    counted = {name: elements(found[name]) for name in (rows, wide, turned, windows, "x")}
    assert counted == {rows: 17 * 8, wide: 17 * 5, turned: 4 * 5, windows: 21, "x": 17 * 8}


def test_a_product_needs_no_guard() -> None:
    net = Net()
    y = net(
        "MatMul",
        net("MatMul", net("MatMul", net.input("x", "N", 6), net.normal(6, 6)), net.normal(6, 6)),
        net.normal(6, 6),
    )
    proto = net.model(y)
    middle = proto.graph.node[1].name
    assert not placement(proto, exclude=(middle,)).guarded
    assert [op for _, op in ran(proto, noise(3, 6), exclude=(middle,)).floating] == ["MatMul"]


@pytest.mark.parametrize("fill", [0.0, 0.5])
def test_pads_copy_integers_where_they_fill_with_zero(fill: float, monkeypatch: pytest.MonkeyPatch) -> None:
    net = Net()
    y = net("Relu", conv(net, net.input("x", *IMAGE)))
    y = net("Pad", y, np.array([0, 1, 0, 0, 0, 0, 0, 2]), np.float32(fill))
    proto = net.model(net("Tanh", conv(net, y, 5)))
    assert [node.op_type for node in placement(proto).direct] == ([] if fill else ["Pad"])
    model = quantized(proto, FEED)
    (pad,) = (node for node in model.graph if node.op_type == "Pad")
    assert pad.inputs[0] is not None and str(pad.inputs[0].dtype) == ("FLOAT" if fill else "UINT8")
    monkeypatch.setattr(qdq, "copy_integers", lambda edit, placement: None)
    np.testing.assert_array_equal(run(model, FEED[0]), run(quantized(proto, FEED), FEED[0]), strict=True)


@pytest.mark.parametrize("batch", [0, 1, 7])
def test_any_batch(batch: int) -> None:
    net = Net()
    y = net("Relu", conv(net, net.input("x", *IMAGE)))
    proto = net.model(net("GlobalAveragePool", conv(net, net("Add", y, conv(net, y)))))
    assert run(quantized(proto, FEED), noise(batch, 4, 6, 6)[0]).shape == (batch, 4, 1, 1)


# -- the cut -----------------------------------------------------------------------------------------------------------

COST = st.integers(0, 9)


@given(
    st.lists(st.tuples(COST, COST), min_size=1, max_size=6),
    st.lists(st.tuples(st.integers(0, 5), st.integers(0, 6), st.one_of(COST, st.just(NEVER))), max_size=10),
)
def test_no_choice_is_cheaper(sides: list[tuple[int, int]], borders: list[tuple[int, int, float]]) -> None:
    count = len(sides)
    edges = [(a % count, None if b >= count else b, c) for a, b, c in borders]
    net = Cut()
    for what, (first, second) in enumerate(sides):
        net.side(what, first=first, second=second)
    for a, b, cost in edges:
        net.border(a, b, cost)

    def total(chosen: set[object]) -> float:
        whole = float(sum(sides[w][0 if w in chosen else 1] for w in range(count)))
        return whole + sum(c for a, b, c in edges if c and a in chosen and b not in chosen)

    every = [{w for w, on in enumerate(bits) if on} for bits in product((0, 1), repeat=count)]
    found = net.solve()
    least = min(total(set(one)) for one in every)
    assert total(set(found)) == least
    assert not any(set(one) < set(found) and total(set(one)) == least for one in every), "a smaller set would do"
