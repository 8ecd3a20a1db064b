"""Calls of runtime operators in a model: inserted, kept, inlined, and the option that decides."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import onnx
import onnx_ir as ir
import pytest

import graphopt
from graphopt import dims, registry, rounds, runtime
from graphopt import model as models
from graphopt.context import Context
from graphopt.errors import UsageError
from graphopt.facts.constants import Constants
from graphopt.rewrite.edit import Edit
from graphopt.rewrite.operators import call, define, ready, remove_unused_functions
from graphopt.selection import lowerings, operators_on
from graphopt.targets import lowerings as tables
from graphopt.targets.lowerings import Lowering
from tests.ops.net import Net

INDICES = [3, -1, 0]


@dataclass(frozen=True)
class GatherBehindRelu:
    """Write ``Gather(Relu(x), [3, -1, 0])`` with fill 0.5 behind every Relu; changes the function, for tests."""

    name: ClassVar[str] = "gather-behind-relu"
    stage: ClassVar[str] = "lower"

    def run(self, context: Context) -> bool:
        return context.everywhere(lambda: self._run(context))

    def _run(self, context: Context) -> bool:
        found = [node for node in context.graph if node.op_type == "Relu"]
        if not found or not ready(context, "Gather"):
            return False
        edit = Edit(context.bare(), "composed", cut_weights=True)
        for node in found:
            out = node.outputs[0]
            users = list(out.uses())
            index, fill = edit.constant(np.array(INDICES), "index"), edit.constant(np.array(0.5, np.float32), "fill")
            known = dims.sizes(out)
            sizes = None if known is None else [*known[:-1], 3]
            new = call(context, edit, "Gather", [out, index, fill], edit.behind(out), "out", sizes, out, {"axis": -1})
            edit.stand_in(out, new, users)
        return context.record({"gathers": len(found)})


def small(opset: int = 18) -> onnx.ModelProto:
    net = Net(opset)
    return net.model(net("Relu", net.input("x", "N", 5)))


def context_of(proto: onnx.ModelProto, **options: Any) -> Context:
    context = Context(models.load(proto), Constants())
    context.runtime_operators = True
    for name, value in options.items():
        setattr(context, name, value)
    return context


def called(proto: onnx.ModelProto | None = None) -> ir.Model:
    """Return a model that calls Gather behind a Relu."""
    context = context_of(small() if proto is None else proto)
    assert GatherBehindRelu().run(context)
    return context.model


def types(model: ir.Model) -> list[str]:
    return [f"{node.domain}.{node.op_type}".lstrip(".") for node in model.graph]


def expected(x: np.ndarray) -> np.ndarray:
    return np.stack([np.maximum(x[:, 3], 0), np.full(len(x), 0.5, np.float32), np.maximum(x[:, 0], 0)], 1)


@pytest.mark.parametrize("rows", [0, 1, 3])
def test_a_call_computes_as_its_definition_with_and_without_the_library(rows: int) -> None:
    model = called()
    models.check(model)
    x = np.random.default_rng(0).normal(size=(rows, 5)).astype(np.float32)
    for operators in (True, False):
        session = runtime.session(model, operators=operators)
        np.testing.assert_array_equal(runtime.run(session, {"x": x})[0], expected(x))


def test_a_call_writes_every_attribute_and_the_definition_once() -> None:
    net = Net()
    model = called(net.model(net("Relu", net("Neg", net("Relu", net.input("x", "N", 5))))))
    assert list(model.functions) == [("graphopt", "Gather", "")] and model.opset_imports["graphopt"] == 1
    nodes = [node for node in model.graph if node.domain == "graphopt"]
    assert [node.attributes.get_int("axis") for node in nodes] == [-1, -1]
    assert len({out.name for node in model.graph for out in node.outputs}) == len(types(model))


def test_an_unknown_attribute_is_refused() -> None:
    context = context_of(small())
    edit, x = Edit(context.bare(), "composed", cut_weights=True), context.model.graph.inputs[0]
    with pytest.raises(ValueError, match="no attribute 'axes'"):
        call(context, edit, "Gather", [x, x, x], edit.behind(x), "y", None, x, {"axes": 1})


def test_an_old_operator_set_is_raised_for_a_call() -> None:
    net = Net(11)
    model = called(net.model(net("Relu", net("Squeeze", net.input("x", "N", 1, 5), axes=[1]))))
    assert model.opset_imports[""] == 18
    x = np.random.default_rng(0).normal(size=(2, 1, 5)).astype(np.float32)
    np.testing.assert_array_equal(runtime.run(runtime.session(model), {"x": x})[0], expected(x[:, 0]))


def test_what_cannot_be_raised_is_left_alone() -> None:
    net = Net(11)
    context = context_of(net.model(net("Relu", net("Softmax", net.input("x", "N", 5, 4), axis=1))))
    assert not GatherBehindRelu().run(context)
    assert context.model.opset_imports[""] == 11 and [row.code for row in context.warnings] == ["opset-stays"]


def test_nothing_is_inserted_unless_asked_for() -> None:
    context = context_of(small(11), runtime_operators=False)
    assert not GatherBehindRelu().run(context) and not context.warnings and context.opset == 11


def test_inside_of_a_body() -> None:
    """The node lies in the branches, its definition beside the main graph, and no name hides another."""
    body = lambda name: onnx.helper.make_graph(  # noqa: E731
        [onnx.helper.make_node("Relu", ["x"], [name])], name, [],
        [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)],
    )  # fmt: skip
    node = onnx.helper.make_node("If", ["c"], ["y"], then_branch=body("a"), else_branch=body("b"))
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [node], "g",
        [value("c", onnx.TensorProto.BOOL, []), value("x", onnx.TensorProto.FLOAT, ["N", 5])],
        [value("y", onnx.TensorProto.FLOAT, None)],
    )  # fmt: skip
    proto = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=10)
    model = called(proto)
    models.check(model)
    x = np.random.default_rng(0).normal(size=(2, 5)).astype(np.float32)
    for operators in (True, False):
        session = runtime.session(model, operators=operators)
        np.testing.assert_array_equal(runtime.run(session, {"x": x, "c": np.array(True)})[0], expected(x))


def test_definitions_go_with_the_last_call() -> None:
    model = called()
    assert remove_unused_functions(model) == 0
    other = models.load(small())
    define(other, "Gather")
    assert remove_unused_functions(other) == 1
    assert not other.functions and "graphopt" not in other.opset_imports


@pytest.mark.parametrize(
    ("target", "operators", "stays"),
    [("cpu", None, True), ("cpu", True, True), ("cuda", None, True), ("cpu", False, False), ("portable", None, False)],
)
def test_a_lowered_model_is_optimized_again(target: str, operators: bool | None, stays: bool) -> None:
    result = graphopt.optimize(called(), target=target, operators=operators, measure=False)
    assert result.report.verify is not None and result.report.verify.passed
    assert ("graphopt.Gather" in types(result.model)) == stays
    assert bool(result.model.functions) == stays and ("graphopt" in result.model.opset_imports) == stays


@pytest.mark.parametrize(("target", "asked", "on"), [
    ("cpu", None, None), ("cpu", True, True), ("cpu", False, False), ("cuda", None, True), ("cuda", False, False),
    ("portable", None, None), ("portable", False, False), ("tensorrt", None, None),
])  # fmt: skip
def test_who_gets_operators(target: str, asked: bool | None, on: bool | None) -> None:
    assert operators_on(target, asked) is on


@pytest.mark.parametrize("target", ["portable", "tensorrt"])
def test_who_never_does(target: str) -> None:
    with pytest.raises(UsageError, match=f"the target '{target}' has no runtime operators"):
        operators_on(target, True)


def test_lowerings_run_once_and_last(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "BUILT_IN", (*registry.BUILT_IN, f"{__name__}:GatherBehindRelu"))
    monkeypatch.setattr(tables, "LOWERINGS", {"cuda": {"test": Lowering("gather-behind-relu"), "other": Lowering()}})
    monkeypatch.setattr("graphopt.selection.LOWERINGS", tables.LOWERINGS)
    assert [item.name for item in lowerings("cuda")] == ["gather-behind-relu"] and lowerings("cpu") == []
    for target, operators, inserted in (("cuda", None, True), ("cuda", False, False), ("cpu", True, False)):
        result = graphopt.optimize(small(), target=target, operators=operators, verify=False, measure=False)
        assert ("graphopt.Gather" in types(result.model)) == inserted
        calls = result.report.operators.calls if result.report.operators is not None else {}
        assert calls == ({"Gather": 1} if inserted else {})
        assert [row.name for row in result.report.passes].count("gather-behind-relu") == inserted
    assert result.report.passes[-1].name != "gather-behind-relu"


def test_a_pass_that_is_named_in_vain_is_told() -> None:
    options = {"passes": "lower-int8", "verify": False, "measure": False}
    assert [row.code for row in graphopt.optimize(small(), **options).report.warnings] == ["operators-off"]
    assert not graphopt.optimize(small(), operators=True, **options).report.warnings


def test_every_row_of_the_tables_names_passes_or_a_reason() -> None:
    assert set(tables.LOWERINGS) == {"cpu", "cuda", "portable", "tensorrt"}
    for target, rows in tables.LOWERINGS.items():
        for kind, row in rows.items():
            assert bool(row.passes) != bool(row.reason), (target, kind)
        for item in lowerings(target):
            assert registry.stage(item) == "lower", (target, item.name)
    named = {item.name for target in tables.LOWERINGS for item in lowerings(target)}
    reasons = [row.reason for rows in tables.LOWERINGS.values() for row in rows.values()]
    named |= {name for name in registry.passes() if any(f"-p {name}" in reason for reason in reasons)}
    assert named == {name for name, cls in registry.passes().items() if registry.stage(cls) == "lower"}


def test_without_operators_a_round_inserts_nothing() -> None:
    context = rounds.prepare(models.load(small()), rounds.Settings((), target="cpu"))
    assert not context.runtime_operators
