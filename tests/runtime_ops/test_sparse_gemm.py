"""SparseGemm: kernel and function are as near to the exact product as their sums allow, whatever the sizes."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from graphopt import runtime
from graphopt.errors import GraphoptError
from graphopt.runtime_ops.compact import compact, dense
from tests.runtime_ops import running
from tests.runtime_ops.sparse import check, weight

SIZES = st.one_of(st.sampled_from([0, 1, 2, 7, 8, 16, 17, 31]), st.integers(0, 70))


def inputs(
    rng: np.random.Generator, rows: tuple[int, ...], k: int, n: int, zeros: float
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """What a product of random sizes takes, and its attributes."""
    values, gaps = compact(weight(rng, (k, n), zeros))
    x = rng.normal(size=(*rows, k)).astype(np.float32)
    return {"x": x, "values": values, "gaps": gaps, "bias": rng.normal(size=n).astype(np.float32)}, {
        "shape": [k, n],
        "relu": 0,
    }


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    m=SIZES,
    k=SIZES,
    n=SIZES,
    zeros=st.sampled_from([0.0, 0.5, 0.9, 1.0]),
    relu=st.integers(0, 1),
    seed=st.integers(0, 2**32 - 1),
    symbolic=st.booleans(),
)
def test_all_sizes(level: str, m: int, k: int, n: int, zeros: float, relu: int, seed: int, symbolic: bool) -> None:
    given_, attributes = inputs(np.random.default_rng(seed), (m,), k, n, zeros)
    check("SparseGemm", given_, {**attributes, "relu": relu}, symbolic=symbolic, function=level == "portable" and k > 0)


@pytest.mark.parametrize("rows", [1, 4, 15, 16, 17, 96, 97, 224, 225, 500])
def test_every_width_of_a_tile(level: str, rows: int) -> None:
    given_, attributes = inputs(np.random.default_rng(rows), (rows,), 37, 21, 0.7)
    check("SparseGemm", given_, attributes, function=False)


@pytest.mark.parametrize("rows", [(2, 3), (1, 1), (5, 0), (2, 3, 4), (300, 5)])
def test_more_axes(rows: tuple[int, ...]) -> None:
    given_, attributes = inputs(np.random.default_rng(0), rows, 19, 23, 0.8)
    # onnxruntime's own MatMul and Add, fused, refuse a batch of nothing.
    check("SparseGemm", given_, {**attributes, "relu": 1}, function=0 not in rows)


@pytest.mark.parametrize("rows", [1, 9, 260])
def test_threads_change_nothing(rows: int) -> None:
    given_, attributes = inputs(np.random.default_rng(0), (rows,), 700, 601, 0.9)
    one = check("SparseGemm", given_, attributes, function=False)
    two = check("SparseGemm", given_, attributes, function=False, threads=2)
    assert one.tobytes() == two.tobytes()


@pytest.mark.parametrize("rows", [1, 5, 16, 40])
@pytest.mark.parametrize("n", [1, 127, 128, 129, 389])
def test_columns_of_unequal_lengths(rows: int, n: int) -> None:
    """Most are empty and a few are full: they are sorted 128 at a time, and shared out by their numbers."""
    rng = np.random.default_rng(n)
    array = weight(rng, (409, n), 0.0) * (rng.random((409, n)) < rng.choice([0, 0.1, 1], n, p=[0.7, 0.2, 0.1]))
    array[:, -1] = 1  # the end of the last, shorter lot
    values, gaps = compact(array)
    x, bias = rng.normal(size=(rows, 409)).astype(np.float32), rng.normal(size=n).astype(np.float32)
    given_ = {"x": x, "values": values, "gaps": gaps, "bias": bias}
    one = check("SparseGemm", given_, {"shape": [409, n], "relu": 1}, function=False)
    two = check("SparseGemm", given_, {"shape": [409, n], "relu": 1}, function=False, threads=2)
    assert one.tobytes() == two.tobytes()


@pytest.mark.parametrize("rows", [1, 4, 40])
def test_no_thread_keeps_what_it_read_before(rows: int) -> None:
    rng = np.random.default_rng(0)
    given_, attributes = inputs(rng, (rows,), 409, 389, 0.5)
    model = running.ops_model("SparseGemm", given_, attributes, constants=["values", "gaps", "bias"])
    one, two = (running.open_session(model, threads=threads) for threads in (1, 2))
    for _ in range(20):
        feeds = {"x": rng.normal(size=(rows, 409)).astype(np.float32)}
        np.testing.assert_array_equal(runtime.run(two, feeds)[0], runtime.run(one, feeds)[0])


def test_one_session_of_several_threads() -> None:
    rng = np.random.default_rng(0)
    given_, attributes = inputs(rng, (1,), 61, 53, 0.7)
    model = running.ops_model("SparseGemm", given_, attributes, constants=["values", "gaps", "bias"], symbolic=True)
    feeds = [{"x": rng.normal(size=(rows, 61)).astype(np.float32)} for rows in (1, 7, 30, 300)]
    wanted = [running.run(model, one)[0] for one in feeds]
    session = running.open_session(model)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda i: runtime.run(session, feeds[i % 4])[0], range(200)))
    for i, one in enumerate(found):
        np.testing.assert_array_equal(one, wanted[i % 4])


def test_panels_that_do_not_fit_at_once() -> None:
    given_, attributes = inputs(np.random.default_rng(0), (1100,), 2500, 9, 0.97)
    check("SparseGemm", given_, attributes, function=False)


def test_what_is_no_number_passes_relu_and_zeros_are_not_read(level: str) -> None:
    values, gaps = compact(np.array([[1, 0], [0, 1]], np.float32))
    for rows in (1, 3, 40):
        x = np.full((rows, 2), [np.nan, 2], np.float32)
        given_ = {"x": x, "values": values, "gaps": gaps, "bias": np.zeros(2, np.float32)}
        found = running.run(
            running.ops_model("SparseGemm", given_, {"shape": [2, 2], "relu": 1}, constants=["values", "gaps"]), given_
        )[0]
        assert np.isnan(found[:, 0]).all() and (found[:, 1] == 2).all()


def test_the_kernel_is_taken(tmp_path: Any) -> None:
    given_, attributes = inputs(np.random.default_rng(0), (3,), 5, 4, 0.5)
    model = running.ops_model("SparseGemm", given_, attributes, constants=["values", "gaps", "bias"])
    assert running.taken(model, tmp_path) == ["graphopt.SparseGemm"]


@settings(max_examples=100, deadline=None)
@given(size=st.integers(0, 5000), zeros=st.sampled_from([0.0, 0.5, 0.99, 0.999, 1.0]), seed=st.integers(0, 99))
def test_compact_and_back(size: int, zeros: float, seed: int) -> None:
    array = weight(np.random.default_rng(seed), (size,), zeros)
    values, gaps = compact(array)
    assert gaps.dtype == np.uint8 and (gaps[1:] > 0).all()
    assert dense(values, gaps, [size]).tobytes() == array.tobytes()


def test_compact_form_is_small() -> None:
    values, gaps = compact(weight(np.random.default_rng(0), (512, 512), 0.95))
    assert values.nbytes + gaps.nbytes < 512 * 512 * 4 / 15


def wrong(**changes: np.ndarray | list[int]) -> tuple[dict[str, Any], dict[str, Any]]:
    given_, attributes = inputs(np.random.default_rng(0), (3,), 5, 4, 0.5)
    attributes = {name: changes.get(name, value) for name, value in attributes.items()}
    return {name: changes.get(name, array) for name, array in given_.items()}, attributes


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"gaps": np.array([3, 0], np.uint8), "values": np.ones(2, np.float32)}, "gaps: one behind the first"),
        ({"gaps": np.array([20], np.uint8), "values": np.ones(1, np.float32)}, "gaps: they reach beyond"),
        ({"gaps": np.array([1], np.uint8), "values": np.ones(2, np.float32)}, "gaps: must have one axis, as long"),
        ({"shape": [5, 4, 1]}, "shape: must be the weight's two sizes"),
        ({"x": np.ones((3, 6), np.float32)}, "x: its last axis"),
        ({"x": np.ones(5, np.float32)}, "x: must have two axes"),
        ({"bias": np.ones(3, np.float32)}, "bias: must have one number"),
    ],
)
def test_refusals_say_what_is_wrong(changes: dict[str, Any], says: str) -> None:
    given_, attributes = wrong(**changes)
    with pytest.raises(GraphoptError) as error:
        running.run(running.ops_model("SparseGemm", given_, attributes, constants=["values", "gaps"]), given_)
    assert says in str(error.value)


def test_a_computed_weight_is_refused() -> None:
    given_, attributes = inputs(np.random.default_rng(0), (3,), 5, 4, 0.5)
    with pytest.raises(GraphoptError) as error:
        running.run(running.ops_model("SparseGemm", given_, attributes, constants=["gaps"]), given_)
    assert "values: must be an initializer" in str(error.value)


@pytest.mark.parametrize("kind", [np.int32, np.int64])
def test_wider_gaps(kind: type) -> None:
    given_, attributes = inputs(np.random.default_rng(0), (3,), 50, 40, 0.99)
    array = dense(given_["values"], given_["gaps"], [50, 40])
    positions = np.flatnonzero(array)
    given_ |= {"values": array.reshape(-1)[positions], "gaps": np.diff(positions, prepend=0).astype(kind)}
    check("SparseGemm", given_, attributes)
