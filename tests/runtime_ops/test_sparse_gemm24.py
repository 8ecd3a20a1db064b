"""2:4 weights: the compact form, and the product that is made of it."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt.errors import ModelError
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
    st.sampled_from([0, 1, 5, 16, 33]),
    st.sampled_from([(0,), (1,), (7,), (2, 3)]),
    st.sampled_from([np.float16, ml_dtypes.bfloat16]),
    st.integers(0, 1 << 30),
)
@settings(max_examples=30, deadline=None)
def test_kernel_function_and_reference(
    level: str, fours: int, columns: int, batch: tuple[int, ...], dtype: Any, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    weight = weight24(rng, 4 * fours, columns, dtype)
    x = rng.standard_normal((*batch, 4 * fours)).astype(dtype)
    values, indices = compact24(weight)
    given = {"x": x, "values": values, "indices": indices}
    model = running.ops_model("SparseGemm24", given, constants=("values", "indices"))
    exact = x.astype(np.float64) @ weight.astype(np.float64)
    # Sums of K products in float32 in any order (Higham, section 3.1), then one rounding.
    unit = float(ml_dtypes.finfo(dtype).eps) / 2
    magnitude = np.abs(x.astype(np.float64)) @ np.abs(weight.astype(np.float64))
    bound = unit * np.abs(exact) + (4 * fours + 2) * 2.0**-24 * magnitude + float(ml_dtypes.finfo(dtype).tiny)
    ways = [running.run(model, given)[0], sparse_gemm24(x, values, indices)[0]]
    if dtype == np.float16:  # onnxruntime multiplies no bfloat16 on the processor
        ways.append(running.run(model, given, library=False)[0])
    for found in ways:
        assert found.shape == exact.shape and found.dtype == dtype
        assert (np.abs(found.astype(np.float64) - exact) <= bound).all()


def test_threads_do_not_matter() -> None:
    rng = np.random.default_rng(0)
    weight = weight24(rng, 128, 100, np.float16)
    values, indices = compact24(weight)
    given = {"x": rng.standard_normal((333, 128)).astype(np.float16), "values": values, "indices": indices}
    model = running.ops_model("SparseGemm24", given, constants=("values", "indices"))
    one, three = (running.run(model, given, threads=threads)[0] for threads in (1, 3))
    assert one.tobytes() == three.tobytes()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"indices": np.zeros((5, 2), np.uint8)}, r"indices must be \[N, ceil\(K / 8\)\]"),
        ({"values": np.zeros((5, 3), np.float16)}, "two numbers of each four"),
    ],
    ids=["indices", "values"],
)
def test_what_is_wrong_is_said(wrong: dict[str, np.ndarray], message: str) -> None:
    given = {"x": np.zeros((2, 8), np.float16), "values": np.zeros((5, 4), np.float16)}
    given |= {"indices": np.full((5, 1), 0b01000100, np.uint8)} | wrong
    model = running.ops_model("SparseGemm24", given, constants=("values", "indices"))
    with pytest.raises(ModelError, match=message):
        running.open_session(model)


def test_a_computed_weight_is_refused() -> None:
    given = {"x": np.zeros((2, 8), np.float16), "values": np.zeros((5, 4), np.float16)}
    given |= {"indices": np.full((5, 1), 0b01000100, np.uint8)}
    with pytest.raises(ModelError, match="must be initializers"):
        running.open_session(running.ops_model("SparseGemm24", given))
