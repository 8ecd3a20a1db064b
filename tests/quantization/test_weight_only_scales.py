"""Scales of blocks: the exact one is, the searched one nearly, and neither ever worse than covering the range."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from graphopt.calibrate.grid import grid
from graphopt.calibrate.solve import FREE, Constraint
from graphopt.quantization.weight_only import rounding, search, solve, sweep
from graphopt.quantization.weight_only.layout import blocked, from_rows, packed, restored, to_rows
from tests.quantization.blocks import nearest, unpacked

WEIGHTS = hnp.arrays(
    np.float32,
    hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=9),
    elements=st.floats(-4, 4, width=16).map(lambda x: 0.0 if abs(x) < 1e-3 else x),
)


def error(w: np.ndarray, scale: np.ndarray, below: int, above: int) -> np.ndarray:
    """``sum (w - S clip(round(w / S), -below, above))^2`` of every row, float64."""
    step = np.where(scale == 0, 1, scale)[:, None]
    back = np.clip(np.rint(w / step), -below, above) * scale[:, None]
    return ((w - back) ** 2).sum(axis=1)


@settings(max_examples=30)
@given(WEIGHTS, st.integers(0, 4), st.integers(0, 4))
def test_no_scale_is_better_than_the_exact_one(w: np.ndarray, below: int, above: int) -> None:
    w = w.astype(np.float64)
    scale, least = sweep.best_scale(w, below, above)
    np.testing.assert_allclose(error(w, scale, below, above), least, rtol=1e-5, atol=1e-6)
    largest = np.abs(w).max(axis=1)
    for part in np.linspace(0.02, 1.5, 300):
        assert (least <= error(w, largest * part, below, above) * (1 + 1e-5) + 1e-6).all()


@pytest.mark.parametrize("kind", ["normal", "heavy", "one-sided"])
@pytest.mark.parametrize(("below", "above"), [(8, 7), (3, 12), (0, 15), (15, 0), (64, 63)])
@pytest.mark.parametrize("size", [16, 32, 64])
def test_the_search_comes_near(kind: str, below: int, above: int, size: int) -> None:
    numbers = np.random.default_rng(size)
    w = {
        "normal": numbers.standard_normal((257, size)),
        "heavy": numbers.standard_t(4, (257, size)),
        "one-sided": np.abs(numbers.standard_normal((257, size))),
    }[kind].astype(np.float32)
    _, least = sweep.best_scale(w, below, above)
    near, told = search.best_scale(w, below, above)
    found = error(w, near, below, above)
    assert (found >= least * (1 - 1e-5) - 1e-9).all() and (found <= told * (1 + 1e-3) + 1e-9).all()
    assert found.sum() <= least.sum() * (1.12 if below + above > 15 else 1.01 if size > 16 else 1.02)


@pytest.mark.parametrize("name", ["int2", "uint2", "ternary", "int4", "uint4", "int8", "uint8"])
@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("size", [1, 16, 97])
def test_never_worse_than_covering_the_range(name: str, turned: bool, size: int) -> None:
    kind = grid(name)
    constraint = Constraint(zero_point=0) if kind.signed else FREE
    rows = np.random.default_rng(size).standard_normal((211, size)).astype(np.float32)
    errors = {}
    for method in ("mse", "minmax"):
        scale, zero = solve.of_rows(rows, 32, kind, constraint, method, turned=turned and method == "mse")
        codes = nearest(rows, scale, zero, 32, kind)
        squared = (restored(codes, scale, zero, 32).astype(np.float64) - rows) ** 2
        errors[method] = blocked(squared, 32).sum(axis=2)
        assert scale.dtype == np.float32 and scale.shape == zero.shape == (211, -(-size // 32))
        assert (zero >= kind.low).all() and (zero <= kind.high).all()
        assert turned or (scale > 0).all()
    assert (errors["mse"] <= errors["minmax"] * (1 + 1e-4) + 1e-9).all()


def test_zeros_and_what_is_too_small_for_the_type_of_the_scale() -> None:
    rows = np.zeros((3, 40), np.float32)
    rows[1, :8] = 1e-9
    scale, zero = solve.of_rows(rows, 32, grid("int4"), Constraint(zero_point=0), "mse", dtype=np.float16)
    assert (scale == 1).all() and not nearest(rows, scale, zero, 32, grid("int4")).any()


def test_what_four_bits_can_hold_is_held_exactly() -> None:
    numbers = np.random.default_rng(0)
    codes = numbers.integers(0, 16, (50, 64))
    codes[:, ::32] = 0
    codes[:, 1::32] = 15  # so that the zero point can be told from the range
    zero = numbers.integers(0, 16, (50, 2))
    scale = (2.0 ** numbers.integers(-8, 3, (50, 2))).astype(np.float32)
    rows = restored(codes.astype(np.int16), scale, zero, 32)
    found, points = solve.of_rows(rows, 32, grid("uint4"), FREE, "mse")
    back = restored(nearest(rows, found, points, 32, grid("uint4")), found, points, 32)
    np.testing.assert_allclose(back, rows, rtol=1e-6)


def test_scales_are_those_of_the_type_they_are_stored_in() -> None:
    rows = np.random.default_rng(0).standard_normal((5, 64)).astype(np.float16)
    scale, _ = solve.of_rows(rows, 32, grid("int4"), Constraint(zero_point=0), "mse", dtype=np.float16)
    assert (scale.astype(np.float16).astype(np.float32) == scale).all()


@given(st.integers(0, 5), st.integers(0, 19), st.sampled_from([2, 4, 8]))
def test_packing_can_be_undone(rows: int, size: int, bits: int) -> None:
    codes = np.random.default_rng(size).integers(0, 2**bits, (rows, size))
    stored = packed(codes, bits)
    assert stored.dtype == np.uint8 and stored.shape == (rows, -(-size * bits // 8))
    np.testing.assert_array_equal(unpacked(stored, bits, size), codes)


@given(hnp.array_shapes(min_dims=1, max_dims=4, min_side=1, max_side=5), st.data())
def test_rows_can_be_put_back(shape: tuple[int, ...], data: st.DataObject) -> None:
    axis = data.draw(st.integers(0, len(shape) - 1))
    array = np.arange(np.prod(shape)).reshape(shape)
    rows = to_rows(array, axis)
    assert rows.shape == (array.size // shape[axis], shape[axis])
    np.testing.assert_array_equal(from_rows(rows, shape, axis), array)


@pytest.mark.parametrize("name", ["int2", "int4", "uint4", "int8"])
@pytest.mark.parametrize("size", [1, 16, 97, 512])
def test_the_errors_of_a_row_add_up_to_nothing_nearly_for_free(name: str, size: int) -> None:
    kind = grid(name)
    rows = np.random.default_rng(size).standard_normal((101, size)).astype(np.float32)
    scale, zero = solve.of_rows(rows, 32, kind, Constraint(zero_point=0) if kind.signed else FREE, "mse", turned=True)
    total, squared = {}, {}
    for balanced in (False, True):
        codes = rounding.rounded(rows, scale, zero, 32, kind, balanced=balanced)
        assert codes.min() >= kind.low and codes.max() <= kind.high
        error = rows - restored(codes, scale, zero, 32).astype(np.float64)
        total[balanced], squared[balanced] = error.sum(axis=1), (error**2).sum(axis=1)
    form = {key: squared[key] + rounding.PRIOR * total[key] ** 2 for key in total}
    assert (form[True] <= form[False] * (1 + 1e-5) + 1e-9).all()
    if size == 512:
        assert np.sqrt(np.mean(total[True] ** 2)) < 0.2 * np.sqrt(np.mean(total[False] ** 2))
        assert squared[True].sum() < 1.01 * squared[False].sum()


def test_balancing_leaves_what_is_exact_and_pieces_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = np.random.default_rng(0)
    codes, scale = numbers.integers(-8, 8, (50, 64)), np.full((50, 2), 0.25, np.float32)
    zero, kind = np.zeros((50, 2), np.int16), grid("int4")
    rows = restored(codes, scale, zero, 32)
    np.testing.assert_array_equal(rounding.rounded(rows, scale, zero, 32, kind, balanced=True), codes)
    rows = numbers.standard_normal((50, 64)).astype(np.float32)
    whole = rounding.rounded(rows, scale, zero, 32, kind, balanced=True)
    monkeypatch.setattr(rounding, "CHUNK", 200)
    np.testing.assert_array_equal(rounding.rounded(rows, scale, zero, 32, kind, balanced=True), whole)
    assert rounding.rounded(rows[:, :0], scale[:, :0], zero[:, :0], 32, kind, balanced=True).shape == (50, 0)
