"""Random masked models: the optimized one is the same function, no larger, and there is nothing left to do."""

from __future__ import annotations

import os

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, Phase, given, reject, seed, settings

from tests.strategies import check
from tests.strategies.builder import Builder
from tests.strategies.graphs import Graph, build, feeds, graphs
from tests.strategies.recipe import Recipe, shrink

PLANS = ("smallest", "fastest")
CHECKS = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]
# A failure is not made small here, which would take minutes: its message names the command that does.
PHASES = (Phase.explicit, Phase.generate)
SHORT = settings(
    max_examples=100, deadline=None, derandomize=True, database=None, suppress_health_check=CHECKS, phases=PHASES
)
LONG = settings(max_examples=2000, deadline=None, database=None, suppress_health_check=CHECKS, phases=PHASES)


def examine(graph: Graph) -> None:
    """One model: the whole pipeline under one of the four settings, and one pass alone."""
    from graphopt import registry

    number = graph.recipe.seed
    names = sorted(registry.passes())
    name, plan, finite = names[number % len(names)], PLANS[number % 2], number % 4 < 2
    kind = "whole"
    try:
        check.whole(graph, plan=plan, assume_finite=finite)
        kind = name
        check.one_pass(graph, name)
    except check.NotUsableError:
        reject()
    except check.DifferentError as error:
        options = f"--kind {kind} --plan {plan}" + ("" if finite else " --not-finite")
        command = f"python -m tests.strategies.hunt {options} --recipe '{graph.recipe.text()}'"
        raise AssertionError(f"{error}\nmade small by: {command}") from error


@SHORT
@given(graphs())
def test_optimize_keeps_the_function(graph: Graph) -> None:
    examine(graph)


@pytest.mark.long
@seed(int(os.environ.get("GRAPHOPT_FUZZ_SEED", "0")))
@LONG
@given(graphs())
def test_optimize_keeps_the_function_of_two_thousand(graph: Graph) -> None:
    examine(graph)


# The strategy itself: it would be worthless if its models were small, refused, not finite, or all alike.


def test_models_of_the_strategy_are_usable() -> None:
    refused, operators, opsets = [], set(), set()
    for number in range(120):
        graph = build(Recipe.random(number))
        operators |= {node.op_type for node in graph.model.graph.node}
        opsets.add(graph.model.opset_import[0].version)
        try:
            expected = check.Expected.of(graph.model, graph.batches())
        except check.NotUsableError as error:
            refused.append(f"{number}: {error}")
            continue
        for batch, values, outputs in expected.runs:
            for info, output in zip(graph.model.graph.output, outputs, strict=True):
                declared = [d.dim_value or batch for d in info.type.tensor_type.shape.dim]
                assert list(output.shape) == declared, (number, batch, info.name, sorted(values))
    assert len(refused) <= 2, refused
    assert len(operators) >= 90 and opsets >= {13, 18, 22}
    core = {
        "Conv",
        "ConvTranspose",
        "Gemm",
        "MatMul",
        "BatchNormalization",
        "Clip",
        "PRelu",
        "Where",
        "MaxPool",
        "Concat",
        "Split",
        "Slice",
        "Gather",
        "Transpose",
        "Reshape",
        "Pad",
        "Resize",
        "Softmax",
        "LayerNormalization",
        "Masked",
    }
    assert core <= operators, core - operators


@settings(SHORT, max_examples=25)
@given(graphs())
def test_models_of_the_strategy_have_thirty_nodes(graph: Graph) -> None:
    assert len(graph.model.graph.node) >= 30


def test_a_recipe_gives_the_same_model_twice() -> None:
    recipe = Recipe.random(7)
    assert build(recipe).model.SerializeToString() == build(recipe).model.SerializeToString()
    assert build(Recipe.parse(recipe.text())).model == build(recipe).model
    assert build(recipe).model.SerializeToString() != build(Recipe.random(8)).model.SerializeToString()


def test_a_recipe_shrinks_to_what_is_asked_of_it() -> None:
    def has_softmax(recipe: Recipe) -> bool:
        return any(node.op_type == "Softmax" for node in build(recipe).model.graph.node)

    recipe = next(r for r in map(Recipe.random, range(100)) if has_softmax(r) and len(r.steps) > 10)
    small = shrink(recipe, has_softmax, budget=2000)
    assert has_softmax(small) and len(small.steps) <= 2
    assert len(build(small).model.graph.node) < len(build(recipe).model.graph.node) // 4


def _scaled(factor: float) -> onnx.ModelProto:
    b = Builder(18, True, False, False)
    x = b.input("x", ("N", 3))
    return b.model([b.op("Mul", [x, b.const(np.float32(factor))], ("N", 3))])


@pytest.mark.parametrize(("factor", "same"), [(1.0, True), (1.000001, True), (1.001, False), (float("nan"), False)])
def test_the_comparison_can_fail(factor: float, same: bool) -> None:
    expected = check.Expected.of(_scaled(1.0), [0, 1, 5])
    if same:
        expected.compare(_scaled(factor).SerializeToString(), "")
    else:
        with pytest.raises(check.DifferentError):
            expected.compare(_scaled(factor).SerializeToString(), "")


def test_feeds_fit_what_they_are_for() -> None:
    b = Builder(18, True, False, False)
    b.input("ids", ("N", 3), "i")
    b.input("counts", ("N", 2))
    b.input("gate_f4", (4,))
    values = feeds(b.model([]), 5, seed=1)
    assert values["ids"].shape == (5, 3) and 0 <= values["ids"].min() <= values["ids"].max() < 11
    assert np.array_equal(values["counts"], np.round(values["counts"])) and set(np.unique(values["gate_f4"])) <= {
        0.0,
        1.0,
    }
