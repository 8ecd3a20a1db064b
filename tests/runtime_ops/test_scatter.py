"""Scatter with fill: kernel = function = numpy, bit by bit."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from graphopt.errors import GraphoptError
from tests.runtime_ops import running
from tests.runtime_ops.moving import TYPES, Drawn, drawn, numbers


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(case=drawn(), kind=st.sampled_from(TYPES), constant=st.booleans(), symbolic=st.booleans())
def test_all_three_agree(case: Drawn, kind: str, constant: bool, symbolic: bool) -> None:
    inputs = {
        "updates": numbers(case.rng, case.narrowed(), kind),
        "indices": case.indices,
        "fill": numbers(case.rng, case.size, kind),
    }
    constants = ("indices", "fill") if constant else ()
    running.agree("Scatter", inputs, {"axis": case.axis}, constants=constants, symbolic=symbolic)


@pytest.mark.parametrize("shape", [(3, 200, 100), (700, 50), (4096, 33), (2, 64, 28, 28)])
@pytest.mark.parametrize("axis", [0, 1, -1])
def test_large_ones_run_in_parts(shape: tuple[int, ...], axis: int) -> None:
    rng = np.random.default_rng(0)
    indices = np.sort(rng.permutation(shape[axis])[: shape[axis] // 2])
    given = list(shape)
    given[axis] = indices.size
    inputs = {
        "updates": numbers(rng, tuple(given), "float32"),
        "indices": indices,
        "fill": numbers(rng, shape[axis], "float32"),
    }
    running.agree("Scatter", inputs, {"axis": axis}, threads=2, constants=("indices", "fill"))


@pytest.mark.parametrize("constant", [True, False])
@pytest.mark.parametrize(
    ("indices", "says"),
    [
        ([1, 1], "indices holds 1 twice"),
        ([0, 3], "indices[1] is 3, outside of [0, 3)"),
        ([-1, 0], "indices[0] is -1, outside of [0, 3)"),
        ([0], "updates has 2 positions and indices 1"),
    ],
)
def test_refusals_say_what_is_wrong(indices: list[int], says: str, constant: bool) -> None:
    inputs = {
        "updates": np.ones((2, 2), np.float32),
        "indices": np.array(indices),
        "fill": np.zeros(3, np.float32),
    }
    model = running.ops_model("Scatter", inputs, {"axis": 0}, constants=("indices", "fill") if constant else ())
    with pytest.raises(GraphoptError) as error:
        running.run(model, inputs)
    assert says in str(error.value)
