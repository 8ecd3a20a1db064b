"""Near misses: what needs a value whole, and must get it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tests.ops.net import Case, Net, dead, examine

DEAD = [1, 4, 6]


def _rows(net: Net) -> str:
    """(N, 7), four of them alive."""
    return net("Gemm", net.input("x", "N", 3), dead(net.normal(7, 3), 0, DEAD), transB=1)


UNKNOWN: dict[str, Callable[[Net, str], str]] = {
    "CumSum": lambda n, y: n("CumSum", y, np.array(1)),
    "CumSum reversed": lambda n, y: n("CumSum", y, np.array(-1), reverse=1, exclusive=1),
    "TopK": lambda n, y: n.many("TopK", y, [5], outputs=2, axis=1)[0],
    "Einsum": lambda n, y: n("Einsum", y, n.normal(7, 5), equation="ni,io->no"),
    "Trilu": lambda n, y: n("Trilu", y, upper=0),
    "ReverseSequence": lambda n, y: n(
        "ReverseSequence",
        n("Transpose", y, perm=[1, 0]),
        n("Expand", [3], n("Slice", n("Shape", y), [0], [1])),
        time_axis=0,
        batch_axis=1,
    ),
}


@pytest.mark.parametrize("row", UNKNOWN)
def test_an_operator_over_the_axis_gets_it_whole(row: str) -> None:
    def build() -> onnx.ModelProto:
        net = Net()
        return net.model(UNKNOWN[row](net, _rows(net)))

    examine(Case(row, build, stays=(row.split()[0],), batches=(1, 5)))


def test_the_index_of_the_largest_counts_dead_positions() -> None:
    def build() -> onnx.ModelProto:
        net = Net()
        x = net.input("counts", "N", 3)
        y = net("Gemm", x, dead(np.round(net.normal(7, 3) * 3), 0, DEAD), transB=1)
        return net.model(net("ArgMax", y, axis=1))

    examine(Case("", build, stays=("ArgMax",), batches=(1, 5)))


def test_an_unknown_operator_at_the_far_end_keeps_its_operand_but_not_what_others_read() -> None:
    def build() -> onnx.ModelProto:
        net = Net()
        y = net("Relu", _rows(net))
        return net.model(net("CumSum", y, np.array(1)), net("Gemm", y, net.normal(7, 2)))

    examine(Case("", build, most=4 * 3 + 4 * 2 + 3))


def test_the_branches_of_an_if_read_outer_values_whole() -> None:
    def build() -> onnx.ModelProto:
        net = Net()
        y = net("Relu", _rows(net))
        flag = net.input("flag", dtype="b")
        info = helper.make_tensor_value_info
        k = net.constant(np.arange(7, dtype=np.float32))
        yes = helper.make_graph(
            [helper.make_node("Mul", [y, k], ["a"])], "yes", [], [info("a", TensorProto.FLOAT, ["N", 7])]
        )
        no = helper.make_graph(
            [helper.make_node("Cos", [y], ["b"])], "no", [], [info("b", TensorProto.FLOAT, ["N", 7])]
        )
        z = net("If", flag, then_branch=yes, else_branch=no)
        return net.model(net("Gemm", z, net.normal(7, 2)))

    examine(Case("", build, stays=("If",)))


def test_a_loop_carries_a_value_whole() -> None:
    def build() -> onnx.ModelProto:
        net = Net()
        y = net("Relu", _rows(net))
        info = helper.make_tensor_value_info
        w = net.constant(net.normal(7, 7) * 0.3)
        body = helper.make_graph(
            [
                helper.make_node("Identity", ["go"], ["on"]),
                helper.make_node("MatMul", ["s", w], ["t"]),
                helper.make_node("Tanh", ["t"], ["u"]),
            ],
            "body",
            [
                info("i", TensorProto.INT64, []),
                info("go", TensorProto.BOOL, []),
                info("s", TensorProto.FLOAT, ["N", 7]),
            ],
            [info("on", TensorProto.BOOL, []), info("u", TensorProto.FLOAT, ["N", 7])],
        )
        z = net("Loop", np.array(3), np.array(True), y, body=body)
        return net.model(net("Gemm", z, dead(net.normal(7, 2), 0, [0])))

    examine(Case("", build, stays=("Loop",)))


def test_an_output_is_full_and_in_order() -> None:
    def build() -> onnx.ModelProto:
        net = Net()
        y = net("Gemm", net.input("x", "N", 3), dead(net.normal(7, 3), 0, DEAD), net.normal(7), transB=1)
        return net.model(net("Sigmoid", y))

    # The weights of four rows, and a row of seven constants at most.
    examine(Case("", build, most=4 * 4 + 7, least=4 * 4 + 1))


def test_an_output_that_is_all_dead_is_a_constant_of_the_right_batch() -> None:
    def build() -> onnx.ModelProto:
        net = Net()
        y = net("Gemm", net.input("x", "N", 3), np.zeros((7, 3), np.float32), net.normal(7), transB=1)
        return net.model(net("Relu", y))

    examine(Case("", build, most=7, gone=("Gemm",)))


def test_positions_that_are_equal_but_not_constant_live() -> None:
    def build() -> onnx.ModelProto:
        net = Net()
        w = net.normal(7, 3)
        w[DEAD] = w[0]
        y = net("Relu", net("Gemm", net.input("x", "N", 3), w, transB=1))
        return net.model(net("Gemm", y, net.normal(7, 2)))

    examine(Case("", build))


def test_tiny_weights_are_not_zero() -> None:
    def build() -> onnx.ModelProto:
        net = Net()
        w = dead(net.normal(7, 3), 0, DEAD, 1e-30)
        y = net("Gemm", net.input("x", "N", 3), w, transB=1)
        y = net("Mul", y, np.array([1, 1e30, 1, 1, 1e30, 1, 1e30], np.float32))
        return net.model(net("Gemm", y, net.normal(7, 2)))

    examine(Case("", build, least=7 * 3 + 7 * 2))


def test_an_activation_mask_along_the_batch_is_no_channel_mask() -> None:
    def build() -> onnx.ModelProto:
        net = Net()
        y = net("Gemm", net.input("x", 7, 3), net.normal(5, 3), transB=1)
        y = net("Mul", y, dead(np.ones((7, 1), np.float32), 0, DEAD))
        return net.model(net("Gemm", y, net.normal(5, 2)))

    # Rows of the batch are dead: the weights are all alive.
    examine(Case("", build, least=5 * 3 + 5 * 2, batches=(7,)))


def test_a_recurrent_layer_is_exact() -> None:
    def build() -> onnx.ModelProto:
        net = Net()
        x = net.input("x", 4, "N", 3)
        y = net(
            "LSTM", x, dead(net.normal(1, 20, 3), 1, [2, 7, 12, 17]) * 0.5, net.normal(1, 20, 5) * 0.5, hidden_size=5
        )
        return net.model(net("MatMul", net("Squeeze", y, [1]), net.normal(5, 2)))

    examine(Case("", build, batches=(1, 5)))


def test_quantized_values_are_exact() -> None:
    def build() -> onnx.ModelProto:
        net = Net()
        y = net("Gemm", net.input("counts", "N", 3), dead(np.round(net.normal(7, 3) * 3), 0, DEAD), transB=1)
        q = net("QuantizeLinear", y, np.float32(0.5), np.array(3, np.int8))
        y = net("DequantizeLinear", q, np.float32(0.5), np.array(3, np.int8))
        return net.model(net("Gemm", y, net.normal(7, 2)))

    examine(Case("", build))
