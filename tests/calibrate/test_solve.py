"""Scale and zero point of a tensor: against dense grids and min-max, under constraints, and what changes nothing."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from graphopt.calibrate.grid import GRIDS, Grid, grid
from graphopt.calibrate.histogram import histogram
from graphopt.calibrate.solve import METHODS, Constraint, Parameters, solve
from tests.calibrate.brute_force import dense, error

NUMBERS = st.floats(-1e6, 1e6, width=32, allow_subnormal=False)
SMALL = hnp.arrays(np.float32, st.integers(1, 13), elements=NUMBERS)
EVERY_GRID = st.sampled_from([*GRIDS, "levels2", "levels3", "levels23", "levels300"])
INTEGERS = ["uint8", "int8", "int6", "uint4", "int2", "ternary", "uint12", "int16"]
SOME = [*INTEGERS, "float8e4m3fn", "float8e5m2", "levels5"]

SHAPES = {
    "normal": lambda r, n: r.normal(size=n),
    "behind relu": lambda r, n: np.maximum(r.normal(size=n), 0),
    "heavy tails": lambda r, n: r.standard_t(2, size=n),
    "silu": lambda r, n: (lambda x: x / (1 + np.exp(-x)))(2 * r.normal(size=n)),
    "far from zero": lambda r, n: 3 + 0.1 * r.normal(size=n),
    "two hills": lambda r, n: np.where(r.random(n) < 0.3, 5, -1) + 0.1 * r.normal(size=n),
    "negative": lambda r, n: -(np.abs(r.normal(size=n)) ** 3),
    "mostly zero": lambda r, n: np.where(r.random(n) < 0.95, 0, r.normal(size=n)),
    "few far away": lambda r, n: np.where(r.random(n) < 1e-3, 50, 1) * r.normal(size=n),
}


def drawn(shape: str, size: int = 5003) -> np.ndarray:
    return SHAPES[shape](np.random.default_rng(7), size).astype(np.float32)


def values(p: Parameters) -> tuple[float, int]:
    return float(p.scale), int(p.zero_point)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", ["uint8", "int4", "ternary", "levels23"])
def test_a_dense_grid_finds_nothing_better(shape: str, name: str) -> None:
    x, kind = drawn(shape), grid(name, signed=True)
    found = solve(histogram(x), kind)
    true = error(x, *values(found), kind)
    assert found.mse == pytest.approx(true, rel=2e-3)
    near = np.arange(-3, 4) + int(found.zero_point)
    assert true <= 1.01 * dense(x, kind, zeros=near, scales=250)


def test_piles_that_a_clip_leaves_lie_on_levels() -> None:
    # No step of a search over scales is fine enough for two piles: 1.02 of the dense grid.
    x = np.clip(np.random.default_rng(1).normal(3, 9, 401_003), -3.1, 6).astype(np.float32)
    kind = grid("uint8")
    found = solve(histogram(x), kind)
    near = np.arange(-2, 3) + int(found.zero_point)
    assert error(x, *values(found), kind) <= 1.005 * dense(x, kind, zeros=near, scales=400)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", SOME)
def test_never_worse_than_min_max_on_the_numbers_themselves(shape: str, name: str) -> None:
    x, kind = drawn(shape), grid(name)
    best, plain = (solve(histogram(x), kind, method=method) for method in ("mse", "minmax"))
    assert error(x, *values(best), kind) <= error(x, *values(plain), kind)


@settings(max_examples=15)
@given(SMALL, st.sampled_from(["uint4", "int4", "ternary", "levels5", "int2", "uint3"]))
def test_few_numbers_against_brute_force(x: np.ndarray, name: str) -> None:
    kind = grid(name)
    found = solve(histogram(x), kind)
    # A float32 scale cannot do better than one rounding of the largest number.
    least = np.square(np.spacing(np.abs(x).max()).astype(np.float64))
    assert found.mse <= 1.01 * dense(x, kind, scales=400) + least


@settings(max_examples=60)
@given(SMALL, EVERY_GRID, st.sampled_from(METHODS))
def test_what_is_promised_of_every_solution(x: np.ndarray, name: str, method: str) -> None:
    kind = grid(name)
    found = solve(histogram(x), kind, method=method)  # type: ignore[arg-type]
    scale, zero = values(found)
    assert found.scale.dtype == np.float32 and found.scale.shape == found.zero_point.shape == ()
    assert scale >= np.finfo(np.float32).tiny and np.isfinite(scale)
    assert kind.low <= zero <= kind.high and (zero == 0 or not kind.floating)
    assert found.mse == pytest.approx(error(x, scale, zero, kind), rel=1e-6)
    assert found.power == pytest.approx(float(np.mean(np.square(x, dtype=np.float64))))
    assert found.mse <= solve(histogram(x), kind, method="minmax").mse or method != "mse"


@settings(max_examples=25)
@given(SMALL, EVERY_GRID, st.integers(-20, 20))
def test_twice_the_numbers_are_twice_the_scale(x: np.ndarray, name: str, power: int) -> None:
    kind = grid(name)
    one, other = solve(histogram(x), kind), solve(histogram(np.ldexp(x, power)), kind)
    if not x.any() or np.abs(x[x != 0]).min() < 1e-30:
        return
    assert values(other) == (np.ldexp(values(one)[0], power), values(one)[1])
    assert other.mse == np.ldexp(one.mse, 2 * power)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", ["uint8", "int8", "uint16", "float8e4m3fn", "uint4"])
def test_twice_the_numbers_are_twice_the_scale_of_a_histogram(shape: str, name: str) -> None:
    x = drawn(shape)
    one, other = (solve(histogram(np.ldexp(x, p)), grid(name)) for p in (0, -9))
    assert values(other) == (np.ldexp(values(one)[0], -9), values(one)[1])
    assert other.mse == np.ldexp(one.mse, -18)


@pytest.mark.parametrize("name", ["levels255", "ternary", "float8e5m2"])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_negative_of_a_tensor_has_the_same_symmetric_scale(shape: str, name: str) -> None:
    x, kind = drawn(shape, 997), grid(name, signed=True)
    one, other = (solve(histogram(y), kind, Constraint(0)) for y in (x, -x))
    assert one.mse == pytest.approx(other.mse, rel=1e-4)
    if not kind.floating:  # an octave further, float8 is as good
        assert float(one.scale) == pytest.approx(float(other.scale), rel=1e-3)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", INTEGERS)
def test_a_given_zero_point_is_kept(shape: str, name: str) -> None:
    x, kind = drawn(shape, 997), grid(name)
    for zero in (int(kind.low), 0 if kind.low < 0 else 1, int(kind.high)):
        found = [solve(histogram(x), kind, Constraint(zero), method=method) for method in METHODS]
        assert {int(p.zero_point) for p in found} == {zero}
        assert found[0].mse <= found[1].mse * (1 + 1e-6)


@settings(max_examples=40)
@given(SMALL, EVERY_GRID, st.floats(2.0**-10, 1e6, width=32), st.sampled_from(METHODS), st.booleans())
def test_a_clip_behind_is_never_reached(x: np.ndarray, name: str, upper: float, method: str, fixed: bool) -> None:
    kind = grid(name)
    lowest = Constraint(int(kind.low) if fixed and not kind.floating else None, upper)
    found = solve(histogram(x), kind, lowest, method=method)  # type: ignore[arg-type]
    reach = np.float32(found.scale) * np.float32(kind.high - int(found.zero_point))
    assert reach.dtype == np.float32 and reach <= np.float32(upper)


def test_relu6_uses_all_of_its_range() -> None:
    x = np.clip(6 * np.random.default_rng(0).normal(size=50_021), 0, 6).astype(np.float32)
    found = solve(histogram(x), grid("uint8"), Constraint(0, 6.0))
    assert values(found) == (pytest.approx(6 / 255, rel=1e-6), 0)
    assert np.float32(found.scale) * np.float32(255) <= 6.0
    # Near miss: without the constraint the scale may be a little larger.
    free = solve(histogram(x), grid("uint8"), Constraint(0))
    assert free.mse <= found.mse


def test_an_upper_limit_below_zero_is_refused() -> None:
    with pytest.raises(ValueError, match="leaves out zero"):
        solve(histogram(np.arange(9.0)), grid("uint8"), Constraint(upper=-1.0))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", GRIDS)
def test_nothing_and_zeros_get_scale_one(name: str, method: str) -> None:
    for x in (np.zeros(0), np.zeros(1), np.zeros(7)):
        found = solve(histogram(x), grid(name), method=method)  # type: ignore[arg-type]
        assert values(found) == (1.0, 0) and found.mse == found.power == 0 and found.sqnr_db == np.inf


@pytest.mark.parametrize("method", ["mse", "minmax"])
@pytest.mark.parametrize("value", [3.7, -2.5, 1e-30, -1e30, 1.0])
@pytest.mark.parametrize("name", [name for name in GRIDS if name not in ("int2", "ternary")])
def test_a_tensor_that_is_all_equal_is_exact(name: str, value: float, method: str) -> None:
    x = np.full(5, value, np.float32)
    found = solve(histogram(x), grid(name), method=method)  # type: ignore[arg-type]
    assert found.mse <= np.square(np.spacing(np.abs(x[0])).astype(np.float64))


def test_denormal_numbers_get_a_normal_scale() -> None:
    x = np.array([1e-40, -3e-41, 0], np.float32)
    for name in ("uint8", "uint16", "float8e4m3fn"):
        assert float(solve(histogram(x), grid(name)).scale) >= np.finfo(np.float32).tiny


def test_the_largest_numbers_do_not_overflow() -> None:
    x = np.array([3.4e38, -3.4e38, 1e38, 0], np.float32)
    for name in INTEGERS:
        for method in METHODS:
            found = solve(histogram(x), grid(name), method=method)
            assert np.isfinite(found.scale) and np.isfinite(found.mse)


def test_not_numbers_are_left_out() -> None:
    x = np.array([np.nan, np.inf, 1, 2, 3], np.float32)
    assert values(solve(histogram(x), grid("uint8"))) == values(solve(histogram(x[2:]), grid("uint8")))


def test_sixteen_bits_clip_nothing_that_min_max_keeps_at_no_gain() -> None:
    x = drawn("silu", 100_003)
    assert values(solve(histogram(x), grid("uint16"))) == values(solve(histogram(x), grid("uint16"), method="minmax"))


def test_float8_keeps_small_numbers_where_they_matter() -> None:
    """Near miss of integers: a larger float8 scale costs small numbers nothing until they become denormal."""
    x, kind = drawn("heavy tails"), Grid("e4m3", "float8e4m3fn", -448.0, 448.0, floating=True)
    found, plain = solve(histogram(x), kind), solve(histogram(x), kind, method="minmax")
    assert error(x, *values(found), kind) <= error(x, *values(plain), kind)
    assert error(x, *values(found), kind) <= 1.01 * dense(x, kind, scales=300)
