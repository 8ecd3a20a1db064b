"""Operators of constants that mean nothing: in a branch that is never taken the model runs, and must stay as it is.

Where they are always run, the model is refused with a message, as onnxruntime refuses it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import graphopt
from graphopt import model as models
from graphopt import runtime
from graphopt.errors import GraphoptError
from tests.ops.net import Case, Net, examine

F = np.float32
ONES = np.ones(4, F)
SENSELESS: dict[str, tuple[str, list[Any], dict[str, Any]]] = {
    "a row that is not there": ("Gather", [ONES, [9]], {}),
    "an element that is not there": ("GatherElements", [ONES, [9]], {}),
    "a place that is not there": ("ScatterElements", [ONES, [9], np.ones(1, F)], {}),
    "a place that is not there, by rows": ("ScatterND", [ONES, [[9]], np.ones(1, F)], {}),
    "rows that are not there": ("GatherND", [np.ones((4, 2), F), [[9], [0]]], {}),
    "a shape that does not fit": ("Reshape", [ONES, [3, 2]], {}),
    "shapes that do not broadcast": ("Add", [ONES, np.ones(3, F)], {}),
    "shapes that do not multiply": ("MatMul", [np.ones((4, 2), F), np.ones((3, 4), F)], {}),
    "more than there are": ("TopK", [ONES, [9]], {}),
    "the largest of nothing": ("ArgMax", [np.ones(0, F)], {}),
    "steps of nothing": ("Range", [np.array(0), np.array(5), np.array(0)], {}),
    "a slice that stands still": ("Slice", [ONES, [0], [2], [0], [0]], {}),
    "divided by nothing": ("Div", [np.array([4]), np.array([0])], {}),
}


def _model(op: str, operands: list[Any], attributes: dict[str, Any], taken: bool) -> onnx.ModelProto:
    arrays = [np.array(operand) for operand in operands]
    constants = [numpy_helper.from_array(array, f"c{place}") for place, array in enumerate(arrays)]
    constants += [
        numpy_helper.from_array(np.array(1e9, F), "much"),
        numpy_helper.from_array(np.eye(4, 3, dtype=F), "w"),
    ]
    outputs = ["o", "other"] if op == "TopK" else ["o"]
    nodes = [
        helper.make_node(op, [f"c{place}" for place in range(len(arrays))], outputs, **attributes),
        helper.make_node("ReduceSum", ["o"], ["sum"], keepdims=0),
        helper.make_node("Cast", ["sum"], ["number"], to=TensorProto.FLOAT),
        helper.make_node("Add", ["product", "number"], ["then"]),
    ]
    product = helper.make_node("MatMul", ["x", "w"], ["product"])
    if taken:
        nodes = [product, *nodes, helper.make_node("Identity", ["then"], ["y"])]
    else:
        then, other = (helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("then", "else"))
        taken_never = helper.make_graph(nodes, "then", [], [then])
        always = helper.make_graph([helper.make_node("Identity", ["product"], ["else"])], "else", [], [other])
        nodes = [
            product,
            helper.make_node("ReduceMax", ["x"], ["largest"], keepdims=0),
            helper.make_node("Greater", ["largest", "much"], ["rarely"]),
            helper.make_node("If", ["rarely"], ["y"], then_branch=taken_never, else_branch=always),
        ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 4])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, 3])
    graph = helper.make_graph(nodes, "net", [x], [y], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


@pytest.mark.parametrize("row", SENSELESS)
def test_what_means_nothing_is_left_to_the_runtime(row: str) -> None:
    model = _model(*SENSELESS[row], taken=False)
    try:
        runtime.session(models.load(model))
    except GraphoptError:
        with pytest.raises(GraphoptError):  # refused by onnxruntime before any branch is taken
            graphopt.optimize(model, measure=False)
        return
    result = graphopt.optimize(model, measure=False)
    assert result.report.verify is not None
    assert result.report.verify.passed


@pytest.mark.parametrize("row", SENSELESS)
def test_a_model_that_never_runs_is_refused_with_a_message(row: str) -> None:
    with pytest.raises(GraphoptError):
        graphopt.optimize(_model(*SENSELESS[row], taken=True), measure=False)


def test_a_float_that_no_integer_holds_is_the_runtimes_to_convert() -> None:
    """What onnxruntime makes of 1e30 is its own affair, and stays so; 3.7 becomes 3 everywhere."""
    for number, stays in ((1e30, True), (np.nan, True), (3.7, False)):
        model = _model("Cast", [np.array([number, 1], F)], {"to": TensorProto.INT64}, taken=True)
        result = graphopt.optimize(model, measure=False)
        assert (result.report.after.ops.get("Cast", 0) > 0) is stays, number


@pytest.mark.parametrize("places", [[[-7], [-5], [3], [5]], [[-1], [2], [3], [5]], [[-4], [-1]]])
def test_places_may_be_counted_from_behind(places: list[list[int]]) -> None:
    def build() -> onnx.ModelProto:
        net = Net()
        rows = net("MatMul", net.normal(len(places), 3), net.input("x", 3, "N"))
        y = net("ScatterND", np.zeros((7, 5), F), places, net("MatMul", rows, net.input("z", "N", 5)))
        return net.model(net("MatMul", net.normal(2, 7), y))

    examine(Case("", build, batches=(1, 5)))
