"""Scatters and joins that graphopt writes become runtime operators, and what only looks like one does not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest

import graphopt
from graphopt import model as models
from graphopt.context import Context
from graphopt.facts.constants import Constants
from graphopt.model_shapes import infer_shapes
from graphopt.passes.lower.lower_moves import LowerMoves
from graphopt.verify import Reference
from tests.ops.net import Net, dead

SIZE = 7
KEPT = np.array([1, 2, 5])


class Branch:
    """A branch of three positions, scattered to seven in one of the ways that graphopt writes."""

    def __init__(self, opset: int = 18) -> None:
        self.net = Net(opset)
        self.x = self.net("Neg", self.net.input("x", "N", SIZE, 4))
        self.u = self.net("Neg", self.net.input("u", "N", 3, 4))

    def ints(self, *numbers: int) -> Any:
        return self.net.constant(np.array(numbers, np.int64))

    def floats(self, array: Any) -> Any:
        return self.net.constant(np.asarray(array, np.float32))

    def mapped(self, places: list[int] | None = None, pads: tuple[int, ...] = (0, 0, 0, 0, 1, 0)) -> Any:
        """``Gather(Pad(u), map)``."""
        if places is None:
            found = np.full(SIZE, 3)
            found[KEPT] = np.arange(3)
            places = found.tolist()
        wide = self.net("Pad", self.u, self.ints(*pads))
        return self.net("Gather", wide, self.ints(*places), axis=1)

    def ranged(self) -> Any:
        return self.net("Pad", self.u, self.ints(0, 3, 0, 0, 1, 0))

    def rows(self) -> Any:
        """``ScatterND`` between transposes, as between passes."""
        front = self.net("Transpose", self.u, perm=[1, 0, 2])
        rest = self.net("Shape", front, start=1)
        shape = self.net("Concat", self.ints(SIZE), rest, axis=0)
        fills = self.net("Expand", self.floats(np.arange(SIZE).reshape(-1, 1, 1)), shape)
        scattered = self.net("ScatterND", fills, self.net.constant(KEPT[:, None].astype(np.int64)), front)
        return self.net("Transpose", scattered, perm=[1, 0, 2])

    def filled(self, value: Any, *, everywhere: bool = False) -> Any:
        fill = np.arange(1.0, SIZE + 1)
        if not everywhere:
            fill[KEPT] = 0
        return self.net("Add", value, self.floats(fill.reshape(1, SIZE, 1)))


def lowered(proto: onnx.ModelProto, target: str = "cpu", **options: bool) -> tuple[Context, list[str]]:
    """Run the pass, prove the result equal with the functions, and return what is left."""
    model = models.load(proto)
    infer_shapes(model)
    context = Context(model, Constants(), target=target)
    context.runtime_operators = True
    item = LowerMoves(**options)
    changed = item.run(context)
    assert not item.run(context), "a second run finds nothing"
    assert changed == any(node.domain == "graphopt" for node in context.model.graph)
    assert Reference(proto).compare(context.model).passed
    return context, [node.op_type for node in context.model.graph]


SCATTERS: dict[str, Callable[[Branch], Any]] = {
    "map": lambda branch: branch.mapped(),
    "map with fills": lambda branch: branch.filled(branch.mapped()),
    "range": lambda branch: branch.ranged(),
    "rows": lambda branch: branch.rows(),
    "negative indices": lambda branch: branch.mapped([3, 0, -3, -1, 3, 2, 3]),
}


@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize("swapped", [True, False])
@pytest.mark.parametrize("way", SCATTERS)
def test_a_join_is_one_operator(way: str, swapped: bool, relu: bool) -> None:
    branch = Branch()
    sides = [branch.x, SCATTERS[way](branch)]
    y = branch.net("Add", *(reversed(sides) if swapped else sides))
    y = branch.net("Relu", y) if relu else y
    context, left = lowered(branch.net.model(branch.net("Abs", y)))
    assert left == ["Neg", "Neg", "ScatterAdd", "Abs"]
    assert context.counts["joins"] == 1


@pytest.mark.parametrize("way", [way for way in SCATTERS if way != "range"])
def test_a_scatter_that_nothing_joins(way: str) -> None:
    branch = Branch()
    y = branch.net("Abs", SCATTERS[way](branch))
    _, left = lowered(branch.net.model(branch.net("Add", y, branch.x)))
    assert sorted(left) == ["Abs", "Add", "Neg", "Neg", "Scatter"]


def test_a_pad_alone_is_one_operator_already() -> None:
    branch = Branch()
    _, left = lowered(branch.net.model(branch.net("Abs", branch.ranged()), branch.x))
    assert "Pad" in left and not {"Scatter", "Gather"} & set(left)


def test_a_map_that_repeats_is_a_gather() -> None:
    branch = Branch()
    joined = branch.net("Add", branch.x, branch.mapped([0, 0, 3, 1, 3, 2, 1]))
    _, left = lowered(branch.net.model(branch.net("Abs", joined)))
    assert sorted(left) == ["Abs", "Add", "Gather", "Neg", "Neg"] and "ScatterAdd" not in left


def test_fills_where_something_is_written_stay_an_addition() -> None:
    branch = Branch()
    joined = branch.net("Add", branch.x, branch.filled(branch.mapped(), everywhere=True))
    _, left = lowered(branch.net.model(branch.net("Abs", joined)))
    assert sorted(left) == ["Abs", "Add", "Add", "Neg", "Neg", "Scatter"]


def test_a_scatter_with_another_reader_is_written_once() -> None:
    branch = Branch()
    wide = branch.mapped()
    joined = branch.net("Add", branch.x, wide)
    _, left = lowered(branch.net.model(branch.net("Abs", joined), branch.net("Exp", wide)))
    assert "ScatterAdd" not in left and left.count("Scatter") == 1


def test_a_join_that_stretches_a_side_stays() -> None:
    branch = Branch()
    short = branch.net("ReduceMax", branch.x, branch.ints(1), keepdims=1)
    _, left = lowered(branch.net.model(branch.net("Abs", branch.net("Add", short, branch.mapped()))))
    assert "ScatterAdd" not in left


def test_two_scatters_that_meet() -> None:
    branch = Branch()
    other = branch.net("Neg", branch.net.input("v", "N", 3, 4))
    wide = branch.mapped()
    branch.u = other
    joined = branch.net("Relu", branch.net("Add", wide, branch.filled(branch.mapped())))
    _, left = lowered(branch.net.model(branch.net("Abs", joined)))
    assert sorted(left) == ["Abs", "Neg", "Neg", "Scatter", "ScatterAdd"]


def test_options_leave_things_alone() -> None:
    branch = Branch()
    joined = branch.net("Add", branch.x, branch.mapped())
    proto = branch.net.model(branch.net("Abs", joined))
    assert "Scatter" in lowered(proto, joins=False)[1]
    assert "ScatterAdd" in lowered(proto, scatters=False)[1]


def test_types_that_a_target_has_no_kernels_for_stay() -> None:
    net = Net(18)
    x, u = net("Neg", net.input("x", "N", 4, dtype="i")), net("Neg", net.input("u", "N", 2, dtype="i"))
    wide = net("Pad", u, net.constant(np.array([0, 1, 0, 1])))
    proto = net.model(net("Abs", net("Add", x, wide)))
    assert "ScatterAdd" in lowered(proto, "cpu")[1]
    assert "ScatterAdd" not in lowered(proto, "cuda")[1]
    assert "ScatterAdd" not in lowered(proto, "portable")[1]


def test_nothing_unless_it_was_asked_for() -> None:
    branch = Branch()
    model = models.load(branch.net.model(branch.net("Abs", branch.net("Add", branch.x, branch.mapped()))))
    infer_shapes(model)
    assert not LowerMoves().run(Context(model, Constants()))


def test_a_narrowed_residual_net_is_joined() -> None:
    """From dead filters to the operator, through the whole pipeline."""
    net = Net(18)
    x = net("Relu", net("Conv", net.input("x", "N", 3, 8, 8), net.normal(16, 3, 3, 3), pads=[1] * 4))
    inner = net("Relu", net("Conv", x, net.normal(16, 16, 3, 3), pads=[1] * 4))
    filters = dead(net.normal(16, 16, 3, 3), 0, [0, 2, 3, 5, 8, 9, 12, 15])
    branch = net("Conv", inner, filters, net.normal(16), pads=[1] * 4)
    y = net("Conv", net("Relu", net("Add", x, branch)), net.normal(5, 16, 1, 1))
    result = graphopt.optimize(net.model(y), operators=True, plan="smallest", measure=False)
    types = [node.op_type for node in result.model.graph]
    assert types == ["Conv", "Relu", "Conv", "Relu", "Conv", "ScatterAdd", "Conv"]


@pytest.mark.parametrize(
    ("axis", "index", "ours"),
    [
        (2, [3, 1, -1], True),
        (-1, [0], True),
        (1, [3, 1, -1], False),  # rows
        (2, [[0, 1]], False),
    ],
)
def test_gathers_of_the_last_axis(axis: int, index: list[int], ours: bool) -> None:
    net = Net(18)
    x = net("Neg", net.input("x", "N", 7, 4))
    context, left = lowered(net.model(net("Abs", net("Gather", x, np.array(index), axis=axis))))
    assert left == ["Neg", "Gather", "Abs"]
    assert ("graphopt" in {node.domain for node in context.model.graph}) == ours
    assert context.counts["gathers"] == ours


def test_gathers_of_constants_and_by_what_is_computed_stay() -> None:
    net = Net(18)
    index = net.input("i", 2, dtype="i")
    table = net("Gather", net.constant(net.normal(3, 4)), np.array([1, 0]), axis=1)
    x = net("Gather", net("Neg", net.input("x", 3, 4)), net("Clip", index, np.int64(0), np.int64(3)), axis=1)
    context, _ = lowered(net.model(net("Add", table, x)))
    assert not context.counts["gathers"]
