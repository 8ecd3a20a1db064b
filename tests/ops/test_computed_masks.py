"""Masks that the model computes from indices, scores and norms, and what must not be decided before it runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest

import graphopt
from graphopt import model as models
from graphopt import runtime
from graphopt.facts.constants import Constants
from graphopt.facts.evaluate import evaluator
from graphopt.facts.evaluate_selection import SELECTION
from graphopt.facts.evaluate_sums import SUMS
from graphopt.facts.expressions import Expressions
from tests.ops.net import Case, Net, Operand, examine

ALIVE = np.array([1, 0, 1, 1, 0, 1, 0], np.float32)
DEAD = [1, 4, 6]
LIVE = [0, 2, 3, 5]
SCORES = np.array([0.9, 0.1, 0.7, 0.8, 0.2, 0.6, 0.3], np.float32)
SHARES = np.tile(np.array([0.1, 0.2, 0.3, 0.15, 0.25], np.float32), (7, 1))
KEPT = 4 * 3 + 4 * 2 + 2
FULL = 7 * 3 + 7 * 2 + 2


def _cast(net: Net, mask: str) -> str:
    return net("Cast", mask, to=1)


def _rows_alike(net: Net) -> np.ndarray:
    """Filters of which those that are alive have an L1 norm of about 3, the others of about 0.3."""
    return (net.normal(7, 3, 1, 1) + 2) * (0.1 + 0.9 * ALIVE).reshape(7, 1, 1, 1)


MASKS: dict[str, Callable[[Net], str]] = {
    "scattered zeros": lambda n: n("ScatterElements", np.ones(7, np.float32), DEAD, np.zeros(3, np.float32)),
    "scattered ones, from behind": lambda n: n(
        "ScatterND", np.zeros(7, np.float32), [[-7], [-5], [3], [5]], np.ones(4, np.float32)
    ),
    "one hot": lambda n: n("ReduceSum", n("OneHot", LIVE, 7, np.array([0, 1], np.float32)), [0], keepdims=0),
    "the largest scores": lambda n: n(
        "ScatterElements", np.zeros(7, np.float32), n.many("TopK", SCORES, [4], outputs=2)[1], np.ones(4, np.float32)
    ),
    "above the threshold of the largest": lambda n: _cast(
        n, n("GreaterOrEqual", SCORES, n("Gather", n.many("TopK", SCORES, [4], outputs=2)[0], 3))
    ),
    "ranks of ranks": lambda n: _cast(
        n, n("Less", n.many("TopK", n.many("TopK", SCORES, [7], outputs=2)[1], [7], outputs=2, largest=0)[1], 4)
    ),
    "above the mean": lambda n: _cast(n, n("Greater", SCORES, n("ReduceMean", SCORES, keepdims=0))),
    "a share of the softmax": lambda n: _cast(n, n("Greater", n("Softmax", SCORES * 9, axis=-1), 0.02)),
    "an open gate": lambda n: _cast(n, n("Greater", n("Sigmoid", SCORES - 0.5), 0.5)),
    "gates of exactly zero are closed": lambda n: _cast(n, n("Greater", n("Sigmoid", (SCORES - 0.5) * ALIVE), 0.5)),
    "any of a row": lambda n: n("ReduceMax", ALIVE[:, None] * np.eye(7, dtype=np.float32), [1], keepdims=0),
    "diagonal": lambda n: n("ReduceSum", n("Mul", n("EyeLike", np.zeros((7, 7), np.float32)), ALIVE), [1], keepdims=0),
    "a product of matrices": lambda n: n("MatMul", np.diag(ALIVE), np.ones(7, np.float32)),
    "einsum": lambda n: n("Einsum", ALIVE, np.ones((7, 2), np.float32) / 2, equation="i,ij->i"),
    "places of nonzeros": lambda n: n(
        "ScatterND", np.ones(7, np.float32), n("Transpose", n("NonZero", 1 - ALIVE)), np.zeros(3, np.float32)
    ),
    "elements of a table": lambda n: n("GatherElements", np.array([0, 1], np.float32), ALIVE.astype(np.int64)),
    "parts joined": lambda n: n("Concat", *n.many("Split", ALIVE, [3, 4], outputs=2, axis=0), axis=0),
    "the largest, by place": lambda n: n("ArgMax", np.stack([1 - ALIVE, ALIVE], 1), axis=1, keepdims=0),
}
"""Masks of seven positions; all mean the same."""


def _on_weight(mask: Callable[[Net], str]) -> onnx.ModelProto:
    net = Net()
    column = net("Reshape", _cast(net, mask(net)), [7, 1, 1, 1])
    w = net("Mul", net.normal(7, 3, 1, 1), column)
    y = net("Relu", net("Conv", net.input("x", "N", 3, 4, 5), w))
    return net.model(net("Conv", y, net.normal(2, 7, 1, 1), net.normal(2)))


@pytest.mark.parametrize("form", MASKS)
def test_a_computed_mask_is_a_mask(form: str) -> None:
    examine(Case(form, lambda: _on_weight(MASKS[form]), most=KEPT, gone=("Mul", "Cast")))


def _by_norm(op: str, compare: Callable[[Net, str], str]) -> onnx.ModelProto:
    net = Net()
    w = _rows_alike(net)
    norm = net(op, w, [1, 2, 3], keepdims=1)
    masked = net("Mul", w, _cast(net, compare(net, norm)))
    y = net("Relu", net("Conv", net.input("x", "N", 3, 4, 5), masked))
    return net.model(net("Conv", y, net.normal(2, 7, 1, 1), net.normal(2)))


def _top_four(net: Net, norm: str) -> str:
    largest = net.many("TopK", norm, [4], outputs=2, axis=0)[0]
    return net("GreaterOrEqual", norm, net("Slice", largest, [3], [4], [0]))


@pytest.mark.parametrize("op", ["ReduceL1", "ReduceL2", "ReduceSumSquare"])
def test_filters_below_a_norm_go(op: str) -> None:
    examine(Case(op, lambda: _by_norm(op, lambda n, norm: n("Greater", norm, 2.0)), most=KEPT))


def test_a_threshold_that_is_itself_one_of_the_norms_is_reached() -> None:
    examine(Case("", lambda: _by_norm("ReduceL1", _top_four), most=KEPT))


@pytest.mark.parametrize("compare", ["Greater", "GreaterOrEqual", "Less", "Equal"])
def test_what_hangs_on_the_last_bits_of_a_sum_is_left_to_the_runtime(compare: str) -> None:
    """Shares compared with the whole: their sum is 1, 0.99999994 or 1.0000001, as a runtime happens to add."""

    def mask(net: Net) -> str:
        return _cast(net, net(compare, net("ReduceSum", SHARES, [1], keepdims=0), 1.0))

    examine(Case("", lambda: _on_weight(mask), least=FULL, stays=("Mul",)))


@pytest.mark.parametrize("op", ["GreaterOrEqual", "LessOrEqual"])
@pytest.mark.parametrize("filter_", range(7))
def test_one_sum_that_meets_another_is_enough(op: str, filter_: int) -> None:
    """The same shares in another order, in one filter; what is a clear difference in that filter is decided."""

    def mask(net: Net, share: float) -> str:
        other = SHARES[:, ::-1] * np.where(ALIVE > 0, 0.5, 2.0).astype(np.float32)[:, None]
        other[filter_] = SHARES[filter_, ::-1] * np.float32(share)
        sums = net("ReduceSum", SHARES, [1], keepdims=0)
        compared = net(op, sums, net("ReduceSum", other.astype(np.float32), [1], keepdims=0))
        return _cast(net, compared if op == "GreaterOrEqual" else net("Not", compared))

    examine(Case("", lambda: _on_weight(lambda net: mask(net, 1.0)), least=FULL, stays=("Mul",)))
    share = 0.999 if ALIVE[filter_] else 1.001
    examine(Case("", lambda: _on_weight(lambda net: mask(net, share)), most=KEPT))


def test_the_report_says_which_decision_is_left() -> None:
    def mask(net: Net) -> str:
        return _cast(net, net("Less", net("ReduceSum", SHARES, [1], keepdims=0), 1.0))

    warnings = graphopt.optimize(_on_weight(mask), measure=False).report.warnings
    assert [(row.code, (row.node or "")[:4]) for row in warnings] == [("mask-undecided", "Less")]
    assert not graphopt.optimize(_on_weight(MASKS["above the mean"]), measure=False).report.warnings


def test_what_is_clear_whatever_the_last_bits_is_decided() -> None:
    def mask(net: Net) -> str:
        sums = net("ReduceSum", SHARES * ALIVE[:, None], [1], keepdims=0)
        return _cast(net, net("Greater", sums, 0.99))

    examine(Case("", lambda: _on_weight(mask), most=KEPT))


def test_whole_numbers_add_up_to_the_bit() -> None:
    def mask(net: Net) -> str:
        return _cast(net, net("Equal", net("CumSum", ALIVE, 0), net("CumSum", np.ones(7, np.float32) * ALIVE, 0)))

    examine(Case("", lambda: _on_weight(mask), most=FULL, gone=("Mul", "CumSum")))


def test_the_largest_of_what_is_no_number_is_left_to_the_runtime() -> None:
    def mask(net: Net) -> str:
        scores = np.where(ALIVE > 0, SCORES, np.nan).astype(np.float32)
        return net("Not", net("IsNaN", net("Gather", net.many("TopK", scores, [7], outputs=2)[0], list(range(7)))))

    examine(Case("", lambda: _on_weight(mask), least=FULL, stays=("TopK",)))


def test_an_order_that_was_not_asked_for_is_left_to_the_runtime() -> None:
    def mask(net: Net) -> str:
        found = net.many("TopK", SCORES, [7], outputs=2, sorted=0)[0]
        return _cast(net, net("Greater", found, 0.5))

    examine(Case("", lambda: _on_weight(mask), least=FULL, stays=("TopK",)))


def test_scores_that_are_an_input_decide_nothing() -> None:
    def mask(net: Net) -> str:
        return _cast(net, net("Greater", net("Gather", net.many("TopK", net.input("s", 7), [7], outputs=2)[0],
                                             list(range(7))), 0.5))  # fmt: skip

    examine(Case("", lambda: _on_weight(mask), least=FULL, stays=("TopK",)))


# -- the values themselves ------------------------------------------------------------------------------------------

GRID = np.arange(24, dtype=np.float32).reshape(2, 3, 4)[::-1] - 7
TIES = np.array([[3, 1, 3, 2, 1], [0, 0, 0, 0, 0]], np.float32)

NODES: list[tuple[str, list[Operand], int, dict[str, Any]]] = [
    ("TopK", [TIES, [3]], 2, {}),
    ("TopK", [TIES, [5]], 2, {"largest": 0}),
    ("TopK", [TIES, [0]], 2, {"axis": 0}),
    ("TopK", [TIES.astype(np.int64), [2]], 2, {"axis": 0}),
    ("ArgMax", [TIES], 1, {"axis": 1}),
    ("ArgMax", [TIES], 1, {"axis": -1, "select_last_index": 1, "keepdims": 0}),
    ("ArgMin", [TIES], 1, {"axis": 1, "select_last_index": 1}),
    ("ScatterElements", [GRID[0], [[0, -1, 2]], np.full((1, 3), 9, np.float32)], 1, {"axis": 1}),
    ("ScatterElements", [GRID[0], [[0, 0, 0]], np.full((1, 3), 9, np.float32)], 1, {"axis": 1, "reduction": "add"}),
    ("ScatterElements", [GRID[0], [[1], [1]], np.full((2, 1), 9, np.float32)], 1, {"reduction": "max"}),
    ("ScatterND", [GRID, [[1, 2], [0, -1]], np.full((2, 4), 5, np.float32)], 1, {}),
    ("ScatterND", [GRID, [[[1], [1]]], np.full((1, 2, 3, 4), 5, np.float32)], 1, {"reduction": "add"}),
    ("GatherElements", [GRID, [[[3, -1]]]], 1, {"axis": 2}),
    ("GatherND", [GRID, [[1, 2], [0, -3]]], 1, {}),
    ("OneHot", [[[0, -1], [7, 2]], 3, np.array([2, 5], np.float32)], 1, {}),
    ("OneHot", [[1, 2], 3, np.array([0, 1], np.int64)], 1, {"axis": 0}),
    ("NonZero", [GRID], 1, {}),
    ("NonZero", [np.zeros((0, 2), np.float32)], 1, {}),
    ("Compress", [GRID, np.array([True, False, True])], 1, {"axis": 1}),
    ("Compress", [GRID, np.array([False, True, True])], 1, {}),
    ("Trilu", [GRID], 1, {}),
    ("Trilu", [GRID, -1], 1, {"upper": 0}),
    ("EyeLike", [np.zeros((3, 5), np.float32)], 1, {"k": 1, "dtype": onnx.TensorProto.INT64}),
    ("Size", [GRID], 1, {}),
    ("Split", [GRID], 2, {"axis": 2, "num_outputs": 2}),
    ("Split", [GRID], 2, {"axis": 1, "num_outputs": 2}),
    ("Split", [GRID, [1, 0, 2]], 3, {"axis": 1}),
    ("Pad", [GRID, [0, 1, 0, 0, 0, 2], np.float32(3)], 1, {}),
    ("Pad", [GRID, [0, -1, 2, 0, 1, -3]], 1, {}),
    ("Pad", [GRID, [1, 2], np.float32(1), [-1]], 1, {}),
    *[(f"Reduce{name}", [np.abs(GRID) + 1, [0, -1]], 1, {"keepdims": keep})
      for name in ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "Sum", "SumSquare")
      for keep in (0, 1)],
    ("ReduceSum", [GRID], 1, {}),
    ("ReduceSum", [GRID, np.zeros(0, np.int64)], 1, {"noop_with_empty_axes": 1}),
    ("ReduceMean", [np.array([[1, 2], [4, 8]], np.int32), [1]], 1, {}),
    ("CumSum", [GRID, 1], 1, {}),
    ("CumSum", [GRID, -1], 1, {"exclusive": 1, "reverse": 1}),
    ("MatMul", [GRID, GRID[0].T.copy()], 1, {}),
    ("Gemm", [GRID[0], GRID[1], np.ones(3, np.float32)], 1, {"transB": 1, "alpha": 0.5, "beta": 2.0}),
    ("Einsum", [GRID, GRID[0]], 1, {"equation": "abc,bc->ac"}),
    ("Softmax", [GRID], 1, {"axis": -1}),
    ("LogSoftmax", [GRID], 1, {"axis": 2}),
]  # fmt: skip


@pytest.mark.parametrize(("op", "operands", "outputs", "attributes"), NODES)
def test_values_are_those_of_the_runtime(op: str, operands: list[Operand], outputs: int, attributes: Any) -> None:
    net = Net()
    found = net.many(op, *operands, outputs=outputs, **attributes)
    model = models.load(net.model(*found))
    node = next(iter(model.graph))
    arrays = [None if value is None else Constants().array(value) for value in node.inputs]
    for position, expected in enumerate(runtime.run(runtime.session(model), {})):
        function = evaluator(node, position)
        assert function is not None
        given = function(arrays)
        assert given.shape == expected.shape
        assert given.dtype == expected.dtype
        if op in SELECTION or expected.dtype.kind != "f":
            np.testing.assert_array_equal(given, expected)
        else:
            np.testing.assert_allclose(given, expected, rtol=1e-6, atol=1e-6)


def test_every_operator_is_compared() -> None:
    untested = ({*SELECTION, *SUMS} - {op for op, *_ in NODES}) - {"Scatter"}  # the old name of ScatterElements
    assert not untested


@pytest.mark.parametrize("attributes", [{"axis": 0}, {}])
def test_softmax_along_another_axis_has_meant_something_else(attributes: dict[str, Any]) -> None:
    net = Net()
    model = models.load(net.model(net("Softmax", GRID, **attributes)))
    assert not Expressions(model.graph, Constants()).members
