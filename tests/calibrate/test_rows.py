"""Scales of weight rows: against dense grids for every row, and what must not change them."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from graphopt.calibrate import rounding
from graphopt.calibrate import rows as row_search
from graphopt.calibrate import solve as solving
from graphopt.calibrate.grid import GRIDS, grid
from graphopt.calibrate.solve import FREE, METHODS, Constraint, solve_rows
from tests.calibrate.brute_force import dense, error

SYMMETRIC = Constraint(zero_point=0)
NUMBERS = st.floats(-1e4, 1e4, width=32, allow_subnormal=False)
ROWS = st.integers(1, 7).flatmap(
    lambda width: hnp.arrays(np.float32, st.tuples(st.integers(1, 3), st.just(width)), elements=NUMBERS)
)


def drawn(rows: int, width: int, heavy: bool = False) -> np.ndarray:
    r = np.random.default_rng(rows * 1000 + width)
    return (0.1 * (r.laplace(size=(rows, width)) if heavy else r.normal(size=(rows, width)))).astype(np.float32)


@pytest.mark.parametrize("heavy", [False, True])
@pytest.mark.parametrize("width", [1, 2, 3, 7, 9, 27, 97, 331])
@pytest.mark.parametrize("name", ["int8", "int4", "ternary", "int2"])
def test_a_dense_grid_finds_nothing_better_for_any_row(name: str, width: int, heavy: bool) -> None:
    x, kind = drawn(5, width, heavy), grid(name)
    found = solve_rows(x, kind, SYMMETRIC)
    for row, mse in zip(x, found.mse, strict=True):
        assert mse <= 1.01 * dense(row, kind, zeros=[0], scales=700) + 1e-17
    assert (found.mse <= solve_rows(x, kind, SYMMETRIC, method="minmax").mse).all()


@pytest.mark.parametrize("width", [1, 5, 32, 131])
@pytest.mark.parametrize("name", ["uint4", "uint2", "levels5"])
def test_free_zero_points(name: str, width: int) -> None:
    x, kind = drawn(3, width) + np.float32(0.05), grid(name)
    found = solve_rows(x, kind)
    for row, mse in zip(x, found.mse, strict=True):
        assert mse <= 1.01 * dense(row, kind, scales=150) + 1e-17


@settings(max_examples=30)
@given(ROWS, st.sampled_from([*GRIDS, "levels23"]), st.sampled_from(METHODS), st.sampled_from([FREE, SYMMETRIC]))
def test_what_is_promised_of_every_solution(x: np.ndarray, name: str, method: str, constraint: Constraint) -> None:
    kind = grid(name)
    found = solve_rows(x, kind, constraint, method=method)  # type: ignore[arg-type]
    assert found.scale.dtype == np.float32 and found.zero_point.dtype == np.int64
    assert {v.shape for v in (found.scale, found.zero_point, found.mse, found.power)} == {(len(x),)}
    assert (found.scale >= np.finfo(np.float32).tiny).all() and np.isfinite(found.scale).all()
    assert ((found.zero_point >= kind.low) & (found.zero_point <= kind.high)).all()
    assert constraint is FREE or not found.zero_point.any()
    least = solve_rows(x, kind, constraint, method="minmax").mse
    for row, scale, zero, mse in zip(x, found.scale, found.zero_point, found.mse, strict=True):
        assert mse == pytest.approx(error(row, float(scale), int(zero), kind), rel=1e-6)
    assert method != "mse" or (found.mse <= least).all()


@settings(max_examples=40)
@given(ROWS, st.sampled_from(["int8", "int4", "ternary", "uint4", "float8e4m3fn"]), st.integers(-20, 20))
def test_twice_the_numbers_are_twice_the_scale(x: np.ndarray, name: str, power: int) -> None:
    one, other = (solve_rows(np.ldexp(x, p), grid(name)) for p in (0, power))
    small = np.abs(x[x != 0]).min(initial=1.0)
    if small < 1e-20 or not np.abs(x).max(1).all():
        return
    np.testing.assert_array_equal(other.scale, np.ldexp(one.scale, power))
    np.testing.assert_array_equal(other.zero_point, one.zero_point)


@settings(max_examples=40)
@given(ROWS, st.sampled_from(["ternary", "float8e4m3fn", "levels15"]))
def test_the_negative_of_a_row_has_the_same_scale(x: np.ndarray, name: str) -> None:
    kind = grid(name, signed=True)
    one, other = (solve_rows(y, kind, SYMMETRIC) for y in (x, -x))
    np.testing.assert_array_equal(one.scale, other.scale)


@pytest.mark.parametrize("name", ["int8", "int4", "ternary", "int2"])
def test_rows_do_not_see_each_other_much(name: str) -> None:
    x, kind = drawn(7, 31), grid(name)
    together, alone = solve_rows(x, kind, SYMMETRIC), [solve_rows(row[None], kind, SYMMETRIC) for row in x]
    np.testing.assert_allclose(together.mse, [one.mse[0] for one in alone], rtol=0.01)


@pytest.mark.parametrize("name", ["int8", "int4", "uint4"])
def test_weights_that_were_quantized_come_out_as_they_were(name: str) -> None:
    kind, r = grid(name), np.random.default_rng(5)
    scale = np.exp(r.normal(size=(11, 1))).astype(np.float32) * np.float32(0.01)
    codes = r.integers(int(kind.low), int(kind.high) + 1, (11, 67))
    codes[:, 0], codes[:, 1] = int(kind.low), int(kind.high)
    zero = 7 if name == "uint4" else 0
    x = (codes - zero).astype(np.float32) * scale
    found = solve_rows(x, kind, FREE if zero else SYMMETRIC)
    np.testing.assert_allclose(found.scale, scale[:, 0], rtol=3e-7)
    np.testing.assert_array_equal(np.rint(x / found.scale[:, None]) + found.zero_point[:, None], codes)


def test_no_rows_and_no_numbers() -> None:
    for shape in ((0, 5), (3, 0), (0, 0)):
        for method in METHODS:
            found = solve_rows(np.zeros(shape, np.float32), grid("int8"), SYMMETRIC, method=method)
            assert found.scale.tolist() == [1.0] * shape[0] and not found.mse.any()


def test_rows_of_zeros_among_others() -> None:
    x = drawn(3, 17)
    x[1] = 0
    found = solve_rows(x, grid("int8"), SYMMETRIC)
    assert found.scale[1] == 1 and found.mse[1] == 0 and (found.mse[[0, 2]] > 0).all()


def test_very_small_and_very_large_rows() -> None:
    x = drawn(3, 17)
    x = np.stack([x[0] * np.float32(1e-34), x[1] * np.float32(1e37), x[2] * np.float32(1e-42)])
    found = solve_rows(x, grid("int8"), SYMMETRIC)
    assert np.isfinite(found.scale).all() and (found.mse[:2] < 1e-4 * found.power[:2]).all()


def test_one_outlier_is_clipped_only_where_that_pays() -> None:
    x = np.full((1, 99), 1.0, np.float32)
    x[0, 0] = 5
    clipped, kept = solve_rows(x, grid("ternary"), SYMMETRIC), solve_rows(x, grid("int8"), SYMMETRIC)
    assert clipped.scale[0] < 1.1 and kept.scale[0] * 127 > 4.99
    assert kept.mse[0] < 1e-6


def peak(x: np.ndarray) -> int:
    """Return how many bytes the solution of rows takes while it is found."""
    solve_rows(x[:1, :9], grid("ternary"), SYMMETRIC)
    tracemalloc.start()
    try:
        solve_rows(x, grid("ternary"), SYMMETRIC)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_memory_follows_a_part_of_many_rows_and_the_length_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(solving, "_CHUNK", 1 << 19)
    many, one = np.asfortranarray(drawn(1000, 4096)), drawn(1, 1 << 20)
    assert peak(many) < many.nbytes
    assert peak(one) < 3 * one.nbytes


@pytest.mark.parametrize("name", ["int8", "uint4"])
def test_where_channels_lie_in_memory_does_not_matter(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A row that is spread over a large weight is copied before it is read a hundred times."""
    x, kind = drawn(5, 1031), grid(name)
    constraint = SYMMETRIC if name == "int8" else FREE
    whole = solve_rows(x, kind, constraint)
    read: list[np.ndarray] = []
    real = solving.best_rows
    monkeypatch.setattr(solving, "best_rows", lambda rows, *rest: read.append(rows) or real(rows, *rest))
    turned = solve_rows(np.asfortranarray(x), kind, constraint)
    assert read and all(rows.flags.c_contiguous for rows in read)
    for field in ("scale", "zero_point", "mse", "power"):
        np.testing.assert_array_equal(getattr(turned, field), getattr(whole, field))


def test_a_weight_in_parts_is_solved_as_well_as_in_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows, columns and both: numbers of any chunk but the first reach the sums, too."""
    x = drawn(7, 331)
    whole = solve_rows(x, grid("int8"), SYMMETRIC)
    monkeypatch.setattr(solving, "_CHUNK", 2 * 331)
    monkeypatch.setattr(row_search, "_BLOCK", 97)
    monkeypatch.setattr(row_search, "_PART", 89)
    monkeypatch.setattr(rounding, "_CHUNK", 83)
    found = solve_rows(x, grid("int8"), SYMMETRIC)
    np.testing.assert_allclose(found.mse, whole.mse, rtol=0.01)
    for row, scale, mse in zip(x, found.scale, found.mse, strict=True):
        assert mse == pytest.approx(error(row, float(scale), 0, grid("int8")), rel=1e-6)
        assert mse <= 1.01 * dense(row, grid("int8"), zeros=[0], scales=700)
