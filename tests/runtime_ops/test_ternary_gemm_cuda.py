"""TernaryGemm's CUDA kernel on a GPU that is played: tiles, borders, decoding, quantizing, stages."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt.runtime_ops.ternary_gemm.reference import ternary_gemm
from tests.runtime_ops.emulator import ternary
from tests.runtime_ops.test_ternary_gemm import case


@pytest.fixture(scope="module", autouse=True)
def compiler() -> None:
    """The kernel has to be compiled for the processor."""
    if ternary.library() is None:
        pytest.skip("there is no g++ here")


def check(rows: int, columns: int, outputs: int, bits: int, kind: str, stored: bool, seed: int, exact: bool) -> None:
    inputs, attributes = case((rows,), columns, outputs, bits=bits, kind=kind, stored=stored, seed=seed, exact=exact)
    (expected,) = ternary_gemm(*inputs.values(), bits=attributes["bits"], stored=attributes["stored"])
    np.testing.assert_array_equal(ternary.run(inputs, bits), expected)


@settings(max_examples=15, deadline=None)
@given(
    rows=st.sampled_from([1, 2, 7, 15, 16, 17, 33, 64, 65]),
    columns=st.sampled_from([0, 1, 3, 4, 5, 16, 31, 32, 63, 64, 65, 128, 130, 144]),
    outputs=st.sampled_from([1, 2, 5, 8, 63, 64, 65, 70]),
    bits=st.sampled_from([2, 4]),
    kind=st.sampled_from(["uint8", "int8"]),
    stored=st.booleans(),
    seed=st.integers(0, 1000),
    exact=st.booleans(),
)
def test_it_computes_the_definition(
    rows: int, columns: int, outputs: int, bits: int, kind: str, stored: bool, seed: int, exact: bool
) -> None:
    check(rows, columns, outputs, bits, kind, stored, seed, exact)


@pytest.mark.parametrize("rows", [3, 20])
@pytest.mark.parametrize("bits", [2, 4])
@pytest.mark.parametrize("stored", [True, False])
def test_whole_rows_are_read_in_wide_words(rows: int, bits: int, stored: bool) -> None:
    check(rows, 256, 66, bits, "uint8", stored, 0, True)


def test_halves_and_what_saturates() -> None:
    inputs, attributes = case((1,), 8, 8, stored=False, levels=np.array([0, 1, 0, 0]), kind="int8")
    inputs["x"][:] = [0.5, 1.5, -0.5, 1e9, -1e9, np.inf, -np.inf, 126.5]
    (expected,) = ternary_gemm(*inputs.values(), bits=attributes["bits"], stored=attributes["stored"])
    np.testing.assert_array_equal(ternary.run(inputs, 2), expected)
