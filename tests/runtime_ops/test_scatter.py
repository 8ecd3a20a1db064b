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


@pytest.mark.parametrize("kind", ["float32", "int32", "float16"])
def test_lines_in_order_of_any_length(level: str, kind: str) -> None:
    """Sixteen numbers are spread at once where a line has them; nearly in order, and out of it, are other ways."""
    rng = np.random.default_rng(0)
    for size in (1, 2, 15, 16, 17, 31, 32, 33, 100):
        indices = np.sort(rng.permutation(size)[: (size + 1) // 2])
        swapped = indices.copy()
        swapped[-2:] = swapped[-2:][::-1]
        for order in (indices, swapped, np.arange(size), indices[:0]):
            inputs = {
                "updates": numbers(rng, (5, order.size), kind),
                "indices": order.astype(np.int64),
                "fill": numbers(rng, size, kind),
            }
            running.agree("Scatter", inputs, {"axis": 1}, function=False)
            adding = {"data": numbers(rng, (5, size), kind), **inputs}
            running.agree("ScatterAdd", adding, {"axis": 1}, function=False)
            adding["fill"] = np.full(1, -0.0).astype(adding["fill"].dtype)
            running.agree("ScatterAdd", adding, {"axis": 1}, function=False)


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
