"""Ranges that hold a part of the numbers."""

from __future__ import annotations

import numpy as np
import pytest

from graphopt.calibrate.grid import grid
from graphopt.calibrate.histogram import histogram
from graphopt.calibrate.percentile import of_histogram, of_rows
from graphopt.calibrate.solve import Constraint, solve, solve_rows
from tests.calibrate.test_solve import drawn


@pytest.mark.parametrize("percent", [90, 99.9, 99.99, 100])
def test_a_histogram_holds_as_much_as_the_numbers(percent: float) -> None:
    x = drawn("heavy tails", 100_003)
    low, high = of_histogram(histogram(x), percent, symmetric=False)
    inside = np.mean((x >= low - 1e-2) & (x <= high + 1e-2)) * 100
    assert inside >= percent - 1e-3 and inside <= percent + 0.2 * (100 - percent) + 2e-3
    reach = of_histogram(histogram(x), percent, symmetric=True)[1]
    assert np.mean(np.abs(x) <= reach + 1e-2) * 100 >= percent - 1e-3


def test_all_of_them_is_min_max() -> None:
    x = drawn("heavy tails")
    for name in ("uint8", "int4", "float8e4m3fn"):
        whole = solve(histogram(x), grid(name), method="percentile", percent=100)
        plain = solve(histogram(x), grid(name), method="minmax")
        assert float(whole.scale) == pytest.approx(float(plain.scale), rel=1e-3)


def test_discrete_numbers() -> None:
    x = np.repeat(np.array([0, 1, 100], np.float32), [1, 9990, 9])
    assert of_histogram(histogram(x), 99, symmetric=False) == (1, 1)
    assert of_histogram(histogram(x), 99.99, symmetric=False) == (0, 100)
    assert of_histogram(histogram(x), 100, symmetric=False) == (0, 100)


def test_rows() -> None:
    x = np.arange(1001, dtype=np.float32)[None] * np.array([[1], [-2]], np.float32)
    low, high = of_rows(x, 90, symmetric=False)
    assert low.tolist() == pytest.approx([50, -1900]) and high.tolist() == pytest.approx([950, -100])
    assert of_rows(x, 90, symmetric=True)[1].tolist() == pytest.approx([900, 1800])
    found = solve_rows(x, grid("int8"), Constraint(0), method="percentile", percent=90)
    assert found.scale.tolist() == pytest.approx([900 / 127, 1800 / 127])
