"""Gather with fill: kernel = function = numpy, bit by bit."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from graphopt.errors import GraphoptError
from tests.runtime_ops import running
from tests.runtime_ops.moving import TYPES, Drawn, drawn, numbers


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(case=drawn(), kind=st.sampled_from(TYPES), many=st.booleans(), constant=st.booleans(), symbolic=st.booleans())
def test_all_three_agree(case: Drawn, kind: str, many: bool, constant: bool, symbolic: bool) -> None:
    rng = case.rng
    count = int(rng.integers(0, 20))
    indices = rng.integers(-2, case.size, count) if case.size else np.full(count, -1)
    fill = numbers(rng, count if many else rng.choice(np.array([0, 1])), kind)
    fill = fill if many else numbers(rng, (1,) if fill.size else (), kind)
    inputs = {"data": numbers(rng, case.shape, kind), "indices": indices.astype(np.int64), "fill": fill}
    constants = ("indices", "fill") if constant else ()
    running.agree("Gather", inputs, {"axis": case.axis}, constants=constants, symbolic=symbolic)


@pytest.mark.parametrize("shape", [(3, 200, 100), (700, 50), (2, 1, 5_000), (4096, 33)])
@pytest.mark.parametrize("axis", [0, 1])
def test_large_ones_run_in_parts(shape: tuple[int, ...], axis: int) -> None:
    rng = np.random.default_rng(0)
    indices = rng.integers(-1, shape[axis], 300)
    inputs = {"data": numbers(rng, shape, "float32"), "indices": indices, "fill": np.float32(0.5)}
    running.agree("Gather", inputs, {"axis": axis}, threads=2, function=False)


def test_opsets(agree: Callable[..., object]) -> None:
    rng = np.random.default_rng(0)
    for opset in (18, 21, 25):
        inputs = {"data": numbers(rng, (3, 4), "float16"), "indices": np.array([1, -1, 0]), "fill": np.float16(2)}
        agree("Gather", inputs, {"axis": -1}, opset=opset)


@pytest.mark.parametrize(
    ("indices", "fill", "axis", "says"),
    [
        ([3], [0.0], 0, "indices[0] is 3, the axis of data has 3 positions"),
        ([0], [0.0], 2, "axis 2 is outside of data"),
        ([0], [0.0, 1.0, 2.0], 0, "fill holds 3 numbers"),
        ([[0]], [0.0], 0, "indices has 2 axes"),
    ],
)
def test_refusals_say_what_is_wrong(indices: list[int], fill: list[float], axis: int, says: str) -> None:
    inputs = {"data": np.ones((3, 2), np.float32), "indices": np.array(indices), "fill": np.array(fill, np.float32)}
    model = running.ops_model("Gather", inputs, {"axis": axis})
    with pytest.raises(GraphoptError) as error:
        running.run(model, inputs)
    assert says in str(error.value)


def test_the_last_position_is_in_reach() -> None:
    inputs = {"data": np.ones((3, 2), np.float32), "indices": np.array([2]), "fill": np.zeros(1, np.float32)}
    running.agree("Gather", inputs, {"axis": 0})
