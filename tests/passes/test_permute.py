"""Free axes are put into an order in which gathers and scatters are ranges; others stay as they are."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

import graphopt
from graphopt import model as models
from graphopt.facts.stats import stats
from graphopt.plan.order import _refine
from tests.ops.net import Net, dead
from tests.strategies import check

OFF = [0, 2, 5, 6, 9, 12]
OTHER = [1, 2, 3, 8, 11, 12]


def stream(*branches: list[int], shown: bool = False, width: int = 13, opset: int = 18) -> onnx.ModelProto:
    """A stem of `width` channels and branches whose last convolution has the given dead filters."""
    net = Net(opset)
    x = net("Relu", net("Conv", net.input("x", "N", 3, 6, 5), net.normal(width, 3, 3, 3), net.normal(width)))
    for off in branches:
        y = net("Relu", net("Conv", x, net.normal(7, width, 1, 1), net.normal(7)))
        y = net("Conv", y, dead(net.normal(width, 7, 1, 1), 0, off), dead(net.normal(width), 0, off))
        x = net("Relu", net("Add", x, y))
    out = net("Conv", x, net.normal(2, width, 1, 1), net.normal(2))
    return net.model(out, x) if shown else net.model(out)


def optimized(model: onnx.ModelProto) -> tuple[dict[str, int], int]:
    """Operators and parameters that are left; the function is the same, and a second run changes nothing."""
    expected = check.Expected.of(model, (1, 2, 5))
    result = graphopt.optimize(model, plan="smallest")
    expected.compare(models.serialize(result.model), "optimize")
    again = graphopt.optimize(result.model, plan="smallest")
    assert not any(row.changed for row in again.report.passes)
    found = stats(result.model)
    return dict(found.ops), found.parameters


def test_one_scatter_is_a_pad_alone() -> None:
    ops, _ = optimized(stream(OFF))
    assert ops.get("Pad") == 1 and "Gather" not in ops


def test_two_scatters_into_one_stream_always_fit() -> None:
    ops, _ = optimized(stream(OFF, OTHER))
    assert ops.get("Pad") == 2 and "Gather" not in ops


def test_sets_that_cross_are_given_up_one_by_one() -> None:
    # Three pairs of one triangle cannot all lie side by side.
    sets = [[0, 1], [1, 2], [0, 2]]
    ops, _ = optimized(stream(*([p for p in range(3) if p not in pair] for pair in sets), width=3))
    assert ops.get("Pad") == 3 and ops.get("Gather") == 1


def test_a_stream_that_an_output_shows_keeps_its_order() -> None:
    ops, _ = optimized(stream(OFF, shown=True))
    assert ops.get("Pad") == 1 and ops.get("Gather") == 1


def test_a_weight_that_two_operators_share_is_not_copied() -> None:
    net = Net()
    w = net.constant(net.normal(13, 3, 1, 1))
    x = net("Relu", net("Conv", net.input("x", "N", 3, 6, 5), w))
    z = net("Conv", net.input("z", "N", 3, 6, 5), w)
    y = net("Conv", x, dead(net.normal(13, 13, 1, 1), 0, OFF), dead(net.normal(13), 0, OFF))
    model = net.model(net("Conv", net("Add", x, y), net.normal(2, 13, 1, 1)), z)
    before = stats(models.load(model)).parameters
    ops, parameters = optimized(model)
    assert parameters <= before and ops.get("Gather") == 1


def test_a_gather_that_becomes_a_slice() -> None:
    # A stream of which one reader wants few channels.
    net = Net()
    x = net("Relu", net("Conv", net.input("x", "N", 3, 6, 5), net.normal(13, 3, 1, 1), net.normal(13)))
    a = net("Conv", x, dead(net.normal(2, 13, 1, 1), 1, OFF))
    b = net("Conv", x, net.normal(2, 13, 1, 1))
    ops, _ = optimized(net.model(net("Add", a, b)))
    assert ops.get("Slice") == 1 and "Gather" not in ops


def test_weights_behind_dequantize_linear_keep_their_order() -> None:
    net = Net(21)
    x = net("MatMul", net.input("x", "N", 4, 5), net.normal(5, 13))
    stored = net("DequantizeLinear", dead(net.rng.integers(1, 9, (13, 2)).astype(np.uint8), 0, OTHER), np.float32(0.1))
    a = net("MatMul", x, stored)
    ops, _ = optimized(net.model(a, net("MatMul", net("Relu", x), dead(net.normal(13, 3), 0, OFF))))
    assert ops.get("Gather", 0) + ops.get("Slice", 0) == 2


def test_old_operator_sets_gather() -> None:
    net = Net(9)
    x = net("Relu", net("Conv", net.input("x", "N", 3, 6, 5), net.normal(13, 3, 1, 1), net.normal(13)))
    a = net("Conv", x, dead(net.normal(2, 13, 1, 1), 1, OFF))
    ops, _ = optimized(net.model(net("Add", a, net("Conv", x, net.normal(2, 13, 1, 1)))))
    assert ops.get("Gather") == 1


@pytest.mark.parametrize(
    ("sets", "fit"), [([], 0), ([[0]], 1), ([[0, 4], [4, 6]], 2), ([[0, 4], [4, 6], [6, 0]], 2), ([[0, 1, 2], [1]], 2)]
)
def test_refinement(sets: list[list[int]], fit: int) -> None:
    cells: list[np.ndarray] | None = [np.arange(7)]
    found = 0
    for each in sets:
        better = _refine(cells, np.array(each))
        found += better is not None
        cells = better or cells
    order = np.concatenate(cells)
    assert found == fit and sorted(order.tolist()) == list(range(7))
    side_by_side = [np.ptp(np.flatnonzero(np.isin(order, each))) == len(each) - 1 for each in sets]
    assert sum(side_by_side) >= fit
