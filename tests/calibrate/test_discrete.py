"""Tensors with few different numbers come out exact where they can, and as good as brute force where they cannot."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphopt.calibrate.grid import grid
from graphopt.calibrate.histogram import histogram
from graphopt.calibrate.solve import Constraint, solve
from tests.calibrate.brute_force import dense, error

BYTES = np.arange(256).astype(np.float32)


@pytest.mark.parametrize(
    ("numbers", "kinds"),
    [
        (BYTES, ["uint8", "int8", "uint16", "levels256", "uint12"]),
        ([0, 1], ["uint8", "int8", "uint2", "int2", "uint4", "ternary", "levels2", "float8e4m3fn"]),
        ([0, 3, 7, 200], ["uint8", "uint16"]),
        ([-1, 0, 1], ["ternary", "int2", "uint2", "levels3", "int8"]),
        ([-0.5, 0, 2], ["uint8", "levels6", "int4"]),
        (np.arange(7) * np.float32(0.25), ["uint3", "uint8", "levels7"]),
        ([-255], ["uint8", "ternary"]),
        ([5], ["uint8", "int4"]),
    ],
)
def test_exact(numbers: object, kinds: list[str]) -> None:
    x = np.asarray(numbers, np.float32)
    for name in kinds:
        found = solve(histogram(x), grid(name))
        assert found.mse == 0 and error(x, float(found.scale), int(found.zero_point), grid(name)) == 0
        assert found.sqnr_db == np.inf


def test_bytes_that_were_not_seen_are_exact_too() -> None:
    seen = np.array([0, 10, 11, 17, 254], np.float32)
    found = solve(histogram(seen), grid("uint8"))
    assert (float(found.scale), int(found.zero_point)) == (1.0, 0)


def test_of_exact_scales_the_finest() -> None:
    assert float(solve(histogram(np.array([0.0, 1.0])), grid("uint8")).scale) == pytest.approx(1 / 255)
    assert float(solve(histogram(np.array([0.0, 1.0, 2.0])), grid("uint8")).scale) == pytest.approx(1 / 127)


@pytest.mark.parametrize("name", ["uint8", "int8", "uint16"])
def test_bytes_divided_by_255_are_exact_to_a_rounding(name: str) -> None:
    x = BYTES / np.float32(255)
    found = solve(histogram(x), grid(name))
    assert found.mse <= 1e-14
    codes = np.rint(x / found.scale)
    assert np.unique(codes).size == 256 and np.array_equal(np.rint(codes / codes[1]), np.arange(256))


def test_bytes_normalised_are_exact_where_zero_is_one_of_them() -> None:
    x = ((BYTES / np.float32(255) - np.float32(127 / 255)) / np.float32(0.229)).astype(np.float32)
    x[127] = 0
    found = solve(histogram(x), grid("uint8"))
    assert int(found.zero_point) == 127 and found.mse <= 1e-13
    # Near miss: 0.485 * 255 is no integer, so that no scale puts zero and all bytes on one lattice.
    y = ((BYTES / np.float32(255) - np.float32(0.485)) / np.float32(0.229)).astype(np.float32)
    other = solve(histogram(y), grid("uint8"))
    assert 1e-7 < other.mse <= solve(histogram(y), grid("uint8"), method="minmax").mse
    assert other.mse <= 1.01 * dense(y, grid("uint8"), zeros=range(118, 131), scales=500)
    assert solve(histogram(y), grid("uint16")).mse <= 1e-13


def test_one_level_too_few_is_not_exact() -> None:
    assert solve(histogram(BYTES), grid("levels256")).mse == 0
    found = solve(histogram(BYTES), grid("levels255"))
    assert 0 < found.mse <= 1.01 * dense(BYTES, grid("levels255"), zeros=[0])


def test_a_clip_behind_leaves_exact_what_it_can() -> None:
    x = np.array([0, 1, 2, 3], np.float32)
    found = solve(histogram(x), grid("uint8"), Constraint(0, 6.0))
    assert found.mse == 0 and np.float32(found.scale) * np.float32(255) <= 6
    assert solve(histogram(x), grid("uint8"), Constraint(0, 2.5)).mse > 0


def test_frequencies_count() -> None:
    rare = solve(histogram(np.repeat(np.array([1, 10], np.float32), [1000, 1])), grid("uint2"), Constraint(0))
    even = solve(histogram(np.repeat(np.array([1, 10], np.float32), [1, 1])), grid("uint2"), Constraint(0))
    assert float(rare.scale) < 1.05 and float(even.scale) > 3


@given(
    st.lists(st.integers(0, 15), min_size=1, max_size=9),
    st.integers(0, 15),
    st.floats(2.0**-7, 100, width=32) | st.none(),
)
def test_every_lattice_is_found(codes: list[int], zero: int, scale: float | None) -> None:
    """Whatever 4-bit codes a tensor was made of, it comes out as it was."""
    step = np.float32(1 if scale is None else scale)
    x = (np.array(codes) - zero).astype(np.float32) * step
    found = solve(histogram(x), grid("uint4"))
    assert error(x, float(found.scale), int(found.zero_point), grid("uint4")) <= 4 * np.square(
        np.spacing(np.abs(x).max()).astype(np.float64)
    )
