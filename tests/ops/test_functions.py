"""Model-local functions: inlined where something is gained, wherever they are called from; calls where they must."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from graphopt import model as models
from graphopt import optimize
from tests.ops.net import TYPES, Case, dead, examine

OPSETS = [helper.make_opsetid("", 18), helper.make_opsetid("local", 1)]
RNG = np.random.default_rng(5)
FIRST = dead(RNG.standard_normal((7, 3)).astype(np.float32), 0, [1, 4, 6])
SECOND = RNG.standard_normal((7, 3)).astype(np.float32)
SMALL = 2 * 4 * 3
"""Three of seven rows of both weights are dead."""

node = helper.make_node


def call(name: str, *names: str, **attributes: Any) -> onnx.NodeProto:
    """A call of a function of the domain `local`; the last name is the output."""
    return node(name, list(names[:-1]), [names[-1]], domain="local", **attributes)


def info(name: str, kind: str, *shape: int | str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TYPES[kind], shape)


def function(
    name: str, inputs: list[str], output: str, *nodes: onnx.NodeProto, opset: int = 18, **more: Any
) -> onnx.FunctionProto:
    opsets = [helper.make_opsetid("", opset), OPSETS[1]]
    return helper.make_function("local", name, inputs, [output], list(nodes), opsets, **more)


LINEAR = function("Linear", ["a", "w"], "o", node("Gemm", ["a", "w"], ["o"], transB=1))


def model(functions: list[onnx.FunctionProto], *nodes: onnx.NodeProto) -> onnx.ModelProto:
    weights = [numpy_helper.from_array(FIRST, "w"), numpy_helper.from_array(SECOND, "v")]
    graph = helper.make_graph(
        list(nodes), "net", [info("x", "f", "N", 3), info("c", "b")], [info("y", "f", "N", 3)], weights
    )
    return helper.make_model(graph, opset_imports=OPSETS, functions=functions, ir_version=10)


def referring(op: str, source: str, target: str, attribute: str, parameter: str) -> onnx.NodeProto:
    """A node that takes a float attribute from its function's."""
    made = node(op, [source], [target])
    reference = made.attribute.add()
    reference.name, reference.ref_attr_name, reference.type = attribute, parameter, onnx.AttributeProto.FLOAT
    return made


def nested() -> onnx.ModelProto:
    two = function(
        "Two",
        ["x", "w", "v"],
        "y",
        call("Linear", "x", "w", "t"),
        node("Relu", ["t"], ["r"]),
        node("Gemm", ["r", "v"], ["y"]),
    )
    return model([LINEAR, two], call("Two", "x", "w", "v", "z"), call("Two", "z", "w", "v", "y"))


def with_attribute(*, default: bool) -> onnx.ModelProto:
    leaky = referring("LeakyRelu", "a", "l", "alpha", "slope")
    given: dict[str, Any] = (
        {"attribute_protos": [helper.make_attribute("slope", 0.25)]} if default else {"attributes": ["slope"]}
    )
    leak = function("Leak", ["a"], "l", leaky, **given)
    return model(
        [leak],
        node("Gemm", ["x", "w"], ["t"], transB=1),
        call("Leak", "t", "r", **({} if default else {"slope": 0.5})),
        node("Gemm", ["r", "v"], ["y"]),
    )


def called_in_a_branch() -> onnx.ModelProto:
    yes = helper.make_graph(
        [call("Linear", "x", "w", "t"), node("Relu", ["t"], ["r"]), node("Gemm", ["r", "v"], ["a"])],
        "yes",
        [],
        [info("a", "f", "N", 3)],
    )
    no = helper.make_graph([node("Neg", ["x"], ["b"])], "no", [], [info("b", "f", "N", 3)])
    return model([LINEAR], node("If", ["c"], ["y"], then_branch=yes, else_branch=no))


def holding_a_branch() -> onnx.ModelProto:
    """A function with an If inside, called twice: the names in its branches occur twice."""
    yes = helper.make_graph(
        [call("Linear", "a", "w", "t"), node("Relu", ["t"], ["r"]), node("Gemm", ["r", "v"], ["p"])],
        "yes",
        [],
        [info("p", "f", "N", 3)],
    )
    no = helper.make_graph([node("Neg", ["a"], ["q"])], "no", [], [info("q", "f", "N", 3)])
    choose = function("Choose", ["a", "w", "v", "c"], "o", node("If", ["c"], ["o"], then_branch=yes, else_branch=no))
    return model([LINEAR, choose], call("Choose", "x", "w", "v", "c", "z"), call("Choose", "z", "w", "v", "c", "y"))


def hiding_a_name() -> onnx.ModelProto:
    """The input of the loop's body inside the function is called like a value of the main graph."""
    body = helper.make_graph(
        [
            node("Identity", ["go"], ["on"]),
            call("Linear", "z", "w", "t"),
            node("Relu", ["t"], ["r"]),
            node("Gemm", ["r", "v"], ["next"]),
        ],
        "body",
        [info("i", "i"), info("go", "b"), info("z", "f", "N", 3)],
        [info("on", "b"), info("next", "f", "N", 3)],
    )
    repeat = function(
        "Repeat",
        ["a", "w", "v"],
        "o",
        node("Constant", [], ["n"], value_int=2),
        node("Constant", [], ["go_on"], value=numpy_helper.from_array(np.array(True))),
        node("Loop", ["n", "go_on", "a"], ["o"], body=body),
    )
    return model(
        [LINEAR, repeat], node("Neg", ["x"], ["z"]), call("Repeat", "z", "w", "v", "m"), node("Add", ["m", "z"], ["y"])
    )


ROWS: dict[str, Callable[[], onnx.ModelProto]] = {
    "a function that calls another": nested,
    "an attribute of the call": lambda: with_attribute(default=False),
    "an attribute that the function presets": lambda: with_attribute(default=True),
    "called in a branch": called_in_a_branch,
    "a branch in a function": holding_a_branch,
    "a name hidden by a body": hiding_a_name,
}


@pytest.mark.parametrize("row", ROWS)
def test_functions_are_looked_into(row: str) -> None:
    examine(Case(row, ROWS[row], most=SMALL))
    models.check(optimize(ROWS[row](), verify=False).model)


def test_functions_are_restored_when_nothing_was_gained() -> None:
    whole = function("Linear", ["a", "w"], "o", node("Gemm", ["a", "w"], ["o"], transB=1))
    proto = model([whole], call("Linear", "x", "v", "t"), node("Gemm", ["t", "v"], ["y"]))
    del proto.graph.initializer[0]
    result = optimize(proto, plan="smallest").model
    assert [each.op_type for each in result.graph] == ["Linear", "Gemm"] and len(result.functions) == 1


def test_a_function_of_another_operator_set_stays_a_call() -> None:
    """Its operators may mean something else there; what is around it is narrowed all the same."""
    old = function("Old", ["a"], "o", call("Inner", "a", "o"), opset=17)
    inner = function("Inner", ["a"], "o", node("Neg", ["a"], ["o"]), opset=17)
    proto = model(
        [inner, old, LINEAR],
        call("Linear", "x", "w", "t"),
        node("Relu", ["t"], ["r"]),
        node("Gemm", ["r", "v"], ["u"]),
        call("Old", "u", "y"),
    )
    result = optimize(proto, plan="smallest")
    assert {name for _, name, _ in result.model.functions} == {"Old", "Inner"}
    assert result.report.after.parameters < result.report.before.parameters


def test_runtime_operators_stay_calls() -> None:
    runtime = helper.make_function(
        "graphopt", "Twice", ["a"], ["o"], [node("Add", ["a", "a"], ["o"])], [helper.make_opsetid("", 18)]
    )
    proto = model(
        [runtime],
        node("Gemm", ["x", "w"], ["t"], transB=1),
        node("Gemm", ["t", "v"], ["u"]),
        node("Twice", ["u"], ["y"], domain="graphopt"),
    )
    proto.opset_import.append(helper.make_opsetid("graphopt", 1))
    result = optimize(proto, plan="smallest")
    assert "graphopt.Twice" in result.report.after.ops and result.report.after.parameters == SMALL
