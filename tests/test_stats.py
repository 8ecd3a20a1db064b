"""Counting: parameters, multiply-adds, nodes, bytes, against counts done by hand."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import onnx.parser
import onnx_ir as ir
import pytest

from graphopt import model as models
from graphopt.facts.stats import macs, parameters, stats
from tests.ops.net import Net
from tests.passes.models import chain, residual


def model(text: str) -> ir.Model:
    return ir.from_proto(onnx.parser.parse_model('<ir_version: 10, opset_import: ["" : 20, "local" : 1]>\n' + text))


def constant(name: str, array: np.ndarray) -> ir.Value:
    tensor = ir.tensor(array, name=name)
    return ir.Value(name=name, const_value=tensor, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype))


def one(op: str, shapes: list[list[Any] | None], out: list[Any] | None, domain: str = "", **attributes: Any) -> ir.Node:
    """A node whose inputs and output have these shapes; None is an unknown rank."""
    inputs = [ir.Value(name=f"i{i}", shape=None if s is None else ir.Shape(s)) for i, s in enumerate(shapes)]
    node = ir.node(op, inputs, attributes=attributes, domain=domain)
    node.outputs[0].shape = None if out is None else ir.Shape(out)
    return node


CASES = [
    # Conv: 5 output pixels x 7 outputs x (3 inputs x 2x2 kernel)
    ("Conv", [[1, 3, 6, 2], [7, 3, 2, 2]], [1, 7, 5, 1], {}, 5 * 7 * 12),
    ("Conv", [["N", 3, 6, 2], [7, 3, 2, 2]], ["N", 7, 5, 1], {}, 5 * 7 * 12),
    ("Conv", [[2, 4, 9], [6, 2, 3]], [2, 6, 7], {"group": 2}, 2 * 6 * 7 * 2 * 3),
    ("Conv", [[1, 4, 8, 8], [4, 1, 3, 3]], [1, 4, 8, 8], {"group": 4}, 4 * 64 * 9),  # depthwise
    ("Conv", [[0, 3, 6, 2], [7, 3, 2, 2]], [0, 7, 5, 1], {}, 0),
    ("Conv", [None, [7, 3, 2, 2]], None, {}, 7 * 12),
    ("Conv", [[1, 3, 6, 2], None], [1, 7, 5, 1], {}, 0),
    # ConvTranspose: every one of the 2x5x4x4 inputs is multiplied with 3 outputs x 2x2 kernel
    ("ConvTranspose", [[2, 5, 4, 4], [5, 3, 2, 2]], [2, 3, 8, 8], {"strides": [2, 2]}, 2 * 5 * 16 * 12),
    ("ConvTranspose", [[1, 4, 4], [4, 3, 2]], [1, 6, 5], {"group": 2}, 16 * 6),
    ("Gemm", [[3, 5], [5, 7]], [3, 7], {}, 105),
    ("Gemm", [[5, 3], [7, 5]], [3, 7], {"transA": 1, "transB": 1}, 105),
    ("Gemm", [["N", 5], [5, 7]], ["N", 7], {}, 35),
    ("MatMul", [[3, 5], [5, 7]], [3, 7], {}, 105),
    ("MatMul", [[2, 1, 3, 5], [11, 5, 7]], [2, 11, 3, 7], {}, 2 * 11 * 105),
    ("MatMul", [[5], [5]], [], {}, 5),
    ("MatMul", [[5], [2, 5, 7]], [2, 7], {}, 70),
    ("MatMul", [[3, 0], [0, 7]], [3, 7], {}, 0),
    ("MatMul", [["N", "K"], [5, 7]], ["N", 7], {}, 35),
    ("MatMul", [[3, 5], [5, 7]], None, {}, 105),
    ("MatMul", [None, None], None, {}, 0),
    ("QLinearMatMul", [[3, 5], [], [], [5, 7], [], [], [], []], [3, 7], {}, 105),
    ("ConvInteger", [[1, 3, 6, 2], [7, 3, 2, 2]], [1, 7, 5, 1], {}, 5 * 7 * 12),
    ("Einsum", [[2, 3, 5], [5, 7]], [2, 3, 7], {"equation": "...k,ko->...o"}, 2 * 105),
    ("Einsum", [["N", 3, 5], ["N", 4, 5]], ["N", 3, 4], {"equation": "ntd,nsd->nts"}, 60),
    ("Einsum", [[1, 5], [3, 5]], [3, 5], {"equation": "...k,...k->...k"}, 15),
    ("Einsum", [[3, 5]], [3], {"equation": "tk->t"}, 0),  # a sum
    ("LSTM", [[7, 2, 3], [1, 20, 3], [1, 20, 5]], [7, 1, 2, 5], {"hidden_size": 5}, 7 * 2 * (60 + 100)),
    ("GRU", [[7, "N", 3], [2, 15, 3], [2, 15, 5]], [7, 2, "N", 5], {"hidden_size": 5}, 7 * 2 * (45 + 75)),
    ("RNN", [[7, 0, 3], [1, 5, 3], [1, 5, 5]], [7, 1, 0, 5], {"hidden_size": 5}, 0),
    ("Add", [[3, 5], [3, 5]], [3, 5], {}, 0),
]


@pytest.mark.parametrize(("op", "shapes", "out", "attributes", "expected"), CASES)
def test_macs(
    op: str, shapes: list[list[Any] | None], out: list[Any] | None, attributes: dict[str, Any], expected: int
) -> None:
    assert macs(one(op, shapes, out, **attributes)) == expected


def test_macs_of_fused_and_quantized_operators() -> None:
    microsoft = "com.microsoft"
    assert macs(one("FusedMatMul", [[2, 5, 3], [7, 5]], [2, 3, 7], microsoft, transA=1, transB=1)) == 2 * 105
    assert macs(one("FusedConv", [[1, 3, 6, 2], [7, 3, 2, 2]], [1, 7, 5, 1], microsoft)) == 5 * 7 * 12
    assert macs(one("MatMulNBits", [["N", 3, 5], None], ["N", 3, 7], microsoft, K=5, N=7)) == 105


def test_integers_that_stand_for_numbers_are_parameters() -> None:
    net = Net(opset=21)
    x = net.input("x", "N", 32)
    q = net("QuantizeLinear", x, np.float32(0.1), np.uint8(3))  # a scale counts, a zero point does not
    y = net("QLinearMatMul", q, np.float32(0.1), np.uint8(3), np.zeros((32, 5), np.int8), np.float32(0.2), np.int8(0),
            np.float32(0.3), np.uint8(0))  # fmt: skip
    w = net("DequantizeLinear", np.ones((5, 7), np.int8), np.ones(7, np.float32), axis=1)
    y = net("MatMul", net("DequantizeLinear", y, np.float32(0.3), np.uint8(0)), w)
    z = net(
        "MatMulNBits", x, np.zeros((3, 2, 8), np.uint8), np.ones(6, np.float32),
        domain="com.microsoft", K=32, N=3, bits=4, block_size=16,
    )  # fmt: skip
    net("Reshape", z, np.array([-1, 3]))
    model = models.load(net.model(y, z))
    counted = stats(model)
    assert counted.parameters == 1 + 32 * 5 + 3 + 1 + 5 * 7 + 7 + 32 * 3 + 6
    assert parameters(model, {}) == counted.parameters


def test_macs_of_another_domain_are_not_guessed() -> None:
    assert macs(one("MatMul", [[3, 5], [5, 7]], [3, 7], domain="someone.else")) == 0
    assert macs(one("MatMul", [[3, 5], [5, 7]], [3, 7], domain="ai.onnx")) == 105


def test_macs_agree_with_counting_multiplications() -> None:
    """The formula of Conv against the loops themselves, with stride, padding left out."""
    outputs, inputs, kernel, pixels = 3, 2, 2, [(y, x) for y in range(0, 4, 2) for x in range(0, 6, 2)]
    by_loops = sum(1 for _ in pixels for _ in range(outputs) for _ in range(inputs) for _ in range(kernel * kernel))
    node = one("Conv", [[1, 2, 5, 7], [3, 2, 2, 2]], [1, 3, 2, 3], strides=[2, 2])
    assert macs(node) == by_loops


def test_parameters_count_floats_once() -> None:
    shared = np.ones((2, 3), np.float32)
    tensor = ir.tensor(shared, name="t")
    a = ir.Value(name="a", const_value=tensor)
    b = ir.Value(name="b", const_value=tensor)
    same_numbers = constant("c", shared.copy())
    half = constant("h", np.ones(5, np.float16))
    ints = constant("i", np.ones(7, np.int64))
    x = ir.Value(name="x")
    node = ir.node("Sum", [x, a, b, same_numbers])
    graph = ir.Graph(
        [x], node.outputs, nodes=[node], initializers=[a, b, same_numbers, half, ints], opset_imports={"": 20}
    )
    counted = stats(ir.Model(graph, ir_version=10))
    assert counted.parameters == 6 + 6 + 5
    assert counted.initializer_bytes == 24 + 24 + 10 + 56
    assert counted.nodes == 1


def test_a_constant_node_counts_like_an_initializer() -> None:
    as_node = model("""
        g (float[N] x) => (float[N] y) {
            c = Constant <value: tensor = float[3] {1, 2, 3}> ()
            i = Constant <value: tensor = int64[1] {1}> ()
            f = Constant <value_floats = [1.0, 2.0]> ()
            s = Constant <value_int = 3> ()
            y = Add (x, c)
        }""")
    counted = stats(as_node)
    assert counted.parameters == 5
    assert counted.initializer_bytes == 12 + 8 + 8 + 8
    as_initializer = model("g (float[N] x) => (float[N] y) <float[3] c = {1, 2, 3}> { y = Add (x, c) }")
    assert stats(as_initializer).parameters == 3
    assert stats(as_initializer).ops == {"Add": 1}


def test_functions_are_counted_at_every_call_and_defined_once() -> None:
    text = """
        g (float[2, 3] x, float[3, 3] w) => (float[2, 3] y) {
            a = local.twice (x, w)
            y = local.twice (a, w)
        }
        <opset_import: ["" : 20], domain: "local">
        twice (x, w) => (y) {
            c = Constant <value: tensor = float[5] {1, 2, 3, 4, 5}> ()
            y = MatMul (x, w)
        }"""
    counted = stats(model(text))
    assert counted.ops == {"Constant": 1, "MatMul": 1, "local.twice": 2}
    assert counted.nodes == 4
    assert counted.parameters == 5
    two = model(text)
    for function in two.functions.values():
        for node in function:
            if node.op_type == "MatMul":
                node.inputs[0].shape, node.inputs[1].shape = ir.Shape([2, 3]), ir.Shape([3, 3])  # type: ignore[union-attr]
    assert stats(two).macs == 2 * 2 * 3 * 3


def test_branches_are_looked_into() -> None:
    counted = stats(
        model("""
        g (bool c, float[2, 3] x) => (float[2, 5] y) <float[3, 5] w = {1,2,3,4,5,6,7,8,9,10,11,12,13,14,15}> {
            y = If (c) <
                then_branch = t () => (float[2, 5] p) { p = MatMul (x, w) },
                else_branch = e () => (float[2, 5] q) <float[1] k = {1}> { r = MatMul (x, w) q = Add (r, k) }>
        }""")
    )
    assert counted.ops == {"Add": 1, "If": 1, "MatMul": 2}
    assert counted.parameters == 16
    assert counted.macs == 2 * 30


def test_an_empty_graph() -> None:
    x = ir.Value(name="x")
    counted = stats(ir.Model(ir.Graph([x], [x], nodes=[], opset_imports={"": 20}), ir_version=10))
    assert (counted.parameters, counted.macs, counted.nodes, counted.initializer_bytes, counted.ops) == (0, 0, 0, 0, {})


def _chain(blocks: int) -> ir.Model:
    x = value = ir.Value(name="x", shape=ir.Shape(["N", 4, 8, 8]))
    nodes, weights = [], []
    for index in range(blocks):
        weight = constant(f"w{index}", np.ones((4, 4, 3, 3), np.float32))
        conv = ir.node("Conv", [value, weight], attributes={"pads": [1, 1, 1, 1]})
        conv.outputs[0].shape = ir.Shape(["N", 4, 8, 8])
        relu = ir.node("Relu", conv.outputs)
        value = relu.outputs[0]
        nodes += [conv, relu]
        weights.append(weight)
    graph = ir.Graph([x], [value], nodes=nodes, initializers=weights, opset_imports={"": 20})
    return ir.Model(graph, ir_version=10)


def test_twenty_thousand_nodes_in_a_moment() -> None:
    large = _chain(10_000)
    start = time.perf_counter()
    counted = stats(large)
    assert time.perf_counter() - start < 2
    assert (counted.nodes, counted.parameters) == (20_000, 10_000 * 144)
    assert counted.macs == 10_000 * 4 * 64 * 36


class _Untouchable(ir.LazyTensor):
    """A tensor that cannot be loaded."""


def test_no_data_is_loaded() -> None:
    def load() -> ir.TensorProtocol:
        raise AssertionError("the data of a tensor was loaded")

    tensor = _Untouchable(load, dtype=ir.DataType.FLOAT, shape=ir.Shape([1000, 1000, 1000]), name="w")
    weight = ir.Value(name="w", const_value=tensor, shape=ir.Shape([1000, 1000, 1000]))
    x = ir.Value(name="x", shape=ir.Shape([1000, 1000, 1]))
    node = ir.node("MatMul", [weight, x])
    graph = ir.Graph([x], node.outputs, nodes=[node], initializers=[weight], opset_imports={"": 20})
    counted = stats(ir.Model(graph, ir_version=10))
    assert counted.parameters == 10**9
    assert counted.initializer_bytes == 4 * 10**9


def test_parameters_alone_are_the_same_number() -> None:

    for proto in (chain(), chain(biased=True), residual()):
        model = models.load(proto)
        known: dict[int, tuple[object, int]] = {}
        assert parameters(model, known) == stats(model).parameters > 0
        first = next(iter(model.graph.initializers))
        del model.graph.initializers[first]
        assert parameters(model, known) == stats(model).parameters


@pytest.mark.parametrize(
    ("quantized", "first", "expected"), [(False, 64, 64), (True, 64, 64), (False, "M", 1), (True, 1, 1)]
)
def test_rows_that_a_reshape_merged_are_counted(quantized: bool, first: int | str, expected: int) -> None:
    """A product of [N, 64, 5] written as a Gemm of [?, 5]: what is known of its rows is not lost."""
    x = ir.Value(name="x", shape=ir.Shape(["N", first, 5]))
    node = ir.node("Reshape", [x, None])
    node.outputs[0].shape = ir.Shape([None, 5])
    for op in ("QuantizeLinear", "DequantizeLinear") if quantized else ():
        node = ir.node(op, [node.outputs[0]])
        node.outputs[0].shape = ir.Shape([None, 5])
    gemm = ir.node("Gemm", [node.outputs[0], ir.Value(name="w", shape=ir.Shape([5, 7]))])
    gemm.outputs[0].shape = ir.Shape([None, 7])
    assert macs(gemm) == expected * 5 * 7


def test_a_transposed_matrix_is_merged_along_its_second_axis() -> None:
    x = ir.Value(name="x", shape=ir.Shape(["N", 24]))
    node = ir.node("Reshape", [x, None])
    node.outputs[0].shape = ir.Shape([24, None])
    gemm = ir.node("Gemm", [node.outputs[0], ir.Value(name="w", shape=ir.Shape([24, 6]))], attributes={"transA": 1})
    gemm.outputs[0].shape = ir.Shape([None, 6])
    assert macs(gemm) == 24 * 6
