"""2:4 weights: the compact form, and the product that is made of it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt import runtime
from graphopt.runtime_ops.sparse_gemm24.reference import sparse_gemm24
from graphopt.runtime_ops.sparse_gemm24.semi_structured import compact24, dense24, violation
from tests.runtime_ops import running


def weight24(rng: np.random.Generator, rows: int, columns: int, dtype: Any = np.float32) -> np.ndarray:
    """A weight with two, one or no numbers in each four."""
    weight = rng.standard_normal((rows // 4, 4, columns))
    kept = rng.permuted(np.broadcast_to(np.arange(4)[:, None], weight.shape), axis=1) < rng.integers(
        0, 3, (rows // 4, 1, columns)
    )
    return (weight * kept).reshape(rows, columns).astype(dtype)


@given(st.integers(0, 12), st.integers(0, 7), st.integers(0, 1 << 30))
def test_the_compact_form_is_the_weight(fours: int, columns: int, seed: int) -> None:
    weight = weight24(np.random.default_rng(seed), 4 * fours, columns)
    values, indices = compact24(weight)
    assert values.shape == (columns, 2 * fours) and indices.shape == (columns, -(-fours // 2))
    assert indices.dtype == np.uint8
    assert np.array_equal(dense24(values, indices), weight)


def test_a_third_number_is_named() -> None:
    weight = np.zeros((12, 5), np.float32)
    weight[4:6, 3] = 1
    assert violation(weight) is None  # the near miss
    weight[7, 3] = 1
    assert violation(weight) == "rows 4 to 7 of column 3 hold 3 numbers, not two"
    with pytest.raises(ValueError, match="rows 4 to 7 of column 3"):
        compact24(weight)
    assert violation(weight[:10]) == "10 rows, not a multiple of four"


@given(
    st.integers(0, 9),
    st.sampled_from([0, 1, 5, 16]),
    st.sampled_from([(0,), (1,), (7,), (2, 3)]),
    st.sampled_from([np.float32, np.float16]),
    st.integers(0, 1 << 30),
)
@settings(max_examples=40, deadline=None)
def test_the_function_is_the_reference(fours: int, columns: int, batch: tuple[int, ...], dtype: Any, seed: int) -> None:
    rng = np.random.default_rng(seed)
    weight = weight24(rng, 4 * fours, columns, dtype)
    x = rng.standard_normal((*batch, 4 * fours)).astype(dtype)
    values, indices = compact24(weight)
    given = {"x": x, "values": values, "indices": indices}
    model = running.ops_model("SparseGemm24", given, constants=("values", "indices") if values.size else ())
    (found,) = running.run(model, given, library=False)
    (expected,) = sparse_gemm24(x, values, indices)
    assert found.shape == expected.shape and found.dtype == expected.dtype
    # A sum of K products, rounded in another order, and once at the end: Higham, section 3.1.
    unit = np.finfo(dtype).eps / 2
    bound = np.abs(x).astype(np.float64) @ np.abs(weight).astype(np.float64)
    steps = 4 * fours + 2 if dtype == np.float32 else 3
    assert (np.abs(found.astype(np.float64) - expected) <= steps * unit * bound + np.finfo(dtype).tiny).all()


def test_without_a_kernel_the_library_does_not_matter() -> None:
    weight = weight24(np.random.default_rng(0), 16, 16)
    values, indices = compact24(weight)
    x = np.random.default_rng(1).standard_normal((3, 16)).astype(np.float32)
    given = {"x": x, "values": values, "indices": indices}
    model = running.ops_model("SparseGemm24", given, constants=("values", "indices"))
    session = running.open_session(model)
    assert np.array_equal(runtime.run(session, {"x": x})[0], running.run(model, given, library=False)[0])
