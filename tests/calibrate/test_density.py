"""The error that look-ups find is the error of the numbers themselves."""

from __future__ import annotations

import numpy as np
import pytest

from graphopt.calibrate.clipping import clipping
from graphopt.calibrate.density import Density, density
from graphopt.calibrate.grid import Grid, grid
from graphopt.calibrate.histogram import histogram
from tests.calibrate.brute_force import error
from tests.calibrate.test_solve import SHAPES, drawn


def both(x: np.ndarray, d: Density, scale: float, zero: int, kind: Grid) -> tuple[float, float]:
    found = d.error(np.array([np.ldexp(scale, -d.exponent)]), np.array([zero]), kind)
    return float(np.ldexp(found[0], 2 * d.exponent)), error(x, scale, zero, kind)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", ["uint8", "int4", "ternary", "levels23", "float8e4m3fn"])
def test_error_of_any_scale_and_zero_point(shape: str, name: str) -> None:
    x, kind = drawn(shape), grid(name)
    d = density(histogram(x))
    zeros = [0] if kind.floating else [int(kind.low), int((kind.low + kind.high) // 2), int(kind.high)]
    for zero in zeros:
        for share in (0.03, 0.3, 0.9, 1.4):
            found, true = both(x, d, share * float(np.abs(x).max()) / kind.high, zero, kind)
            assert found == pytest.approx(true, rel=4e-3)


@pytest.mark.parametrize("shape", SHAPES)
def test_moments(shape: str) -> None:
    x = drawn(shape).astype(np.float64)
    d = density(histogram(x))
    assert np.ldexp(d.mean, d.exponent) == pytest.approx(x.mean(), rel=1e-3, abs=1e-5 * np.abs(x).max())
    assert np.ldexp(d.square, 2 * d.exponent) == pytest.approx((x * x).mean(), rel=1e-3)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", ["uint10", "int12", "uint16"])
def test_integral_and_sum_agree_where_levels_are_close(shape: str, name: str) -> None:
    kind = grid(name)
    d = density(histogram(drawn(shape, 100_003)))
    whole = max(abs(d.low), abs(d.high)) / kind.high
    scale = whole * np.array([0.4, 0.8, 1.0, 1.3])
    for zero in (int(kind.low), int((kind.low + kind.high) // 2)):
        zeros = np.full(scale.size, zero)
        np.testing.assert_allclose(clipping(d).error(scale, zeros, kind), d.error(scale, zeros, kind), rtol=0.25)


def test_numbers_in_one_bin() -> None:
    x = (1 + np.arange(300) * 1e-7).astype(np.float32)
    d = density(histogram(x))
    found, true = both(x, d, 1 / 255, 0, grid("uint8"))
    assert found <= 1e-8 and true <= 1e-8


def test_exact_zeros_cost_nothing() -> None:
    x = drawn("mostly zero", 50_021)
    d = density(histogram(x))
    assert d.spike == pytest.approx(np.mean(x == 0), abs=1e-3)
    # Near miss: numbers around zero that are not zero are no spike.
    assert density(histogram(drawn("normal", 50_021))).spike < 1e-3
