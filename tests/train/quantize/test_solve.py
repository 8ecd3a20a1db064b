"""Scales are those of a dense grid within one percent, and never worse than the whole range."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from graphopt.calibrate.grid import levels
from graphopt.calibrate.histogram import histogram
from graphopt.calibrate.minmax import of_range
from graphopt.calibrate.rounding import squared_error
from graphopt.train.quantize import solve
from graphopt.train.quantize.quantizers import ValueQuantizer

LEVELS = [2, 3, 4, 8, 16, 23, 256]
DENSE = np.geomspace(3e-3, 3, 3000)


def dense(row, grid):
    """The least squared error on a dense grid of scales, zero point 0."""
    whole = max(row.max() / max(grid.high, 1), -row.min() / max(-grid.low, 1), 1e-30)
    scales = (whole * DENSE).astype(np.float32)
    return squared_error(np.repeat(row[None], len(scales), 0), scales, np.zeros(len(scales)), grid).min()


@settings(max_examples=25, deadline=None)
@given(
    arrays.arrays(np.float32, st.tuples(st.integers(1, 3), st.integers(1, 40)), elements=st.floats(-4, 4, width=32)),
    st.sampled_from(LEVELS),
)
def test_filters_are_within_one_percent_of_a_dense_grid(weight, number):
    grid = levels(number, signed=True)
    found = solve.of_filters(torch.from_numpy(weight), grid)
    errors = squared_error(weight, found.scale, found.zero_point, grid)
    assert not found.zero_point.any() and (found.scale > 0).all()
    for row, scale, error in zip(weight, found.scale, errors, strict=True):
        # Few numbers may lie on levels by luck: a hundredth of what rounding usually costs is as good as nothing.
        assert error <= 1.01 * dense(row, grid) + 0.01 * scale**2 / 12


@pytest.mark.parametrize("number", LEVELS)
@pytest.mark.parametrize("rectified", [True, False])
def test_values_are_within_one_percent_of_a_dense_grid(number, rectified):
    x = np.random.default_rng(number).standard_normal(20_011).astype(np.float32)
    x = np.maximum(x, 0) if rectified else x
    quantizer = ValueQuantizer(levels(number, signed=False), 1, 1)
    grid = quantizer.grid
    found = solve.of_values(quantizer, histogram(x), "x")
    zeros = np.arange(int(grid.low), int(grid.high) + 1) if number < 30 else np.array([int(found.zero_point)])
    best = min(
        squared_error(x[None], np.array([s], np.float32), np.array([z]), grid)[0]
        for z in zeros
        for s in np.linspace(0.2, 1.1, 30) * (x.max() - min(x.min(), 0)) / (number - 1)
    )
    mine = squared_error(x[None], found.scale.reshape(1), found.zero_point.reshape(1), grid)[0]
    whole = of_range(np.array([x.min()]), np.array([x.max()]), grid, quantizer.constraint)
    assert mine <= 1.01 * best
    assert mine <= squared_error(x[None], *whole, grid)[0] * 1.0001
    # Near miss. Two levels lose much wherever they lie.
    wider = squared_error(x[None], found.scale.reshape(1) * 1.5, found.zero_point.reshape(1), grid)[0]
    assert number == 2 or wider > 1.01 * best


def test_one_scale_for_all():
    weight = torch.randn(5, 7, generator=torch.Generator().manual_seed(0))
    found = solve.of_filters(weight, levels(4, signed=True), per_filter=False)
    assert found.scale.shape == (5,) and np.unique(found.scale).size == 1
    assert np.unique(solve.of_filters(weight, levels(4, signed=True)).scale).size == 5


@pytest.mark.parametrize("shape", [(0, 4), (3, 0), (1, 1), (2, 3, 1, 1)])
@pytest.mark.parametrize("per_filter", [True, False])
def test_sizes_of_nothing_and_one(shape, per_filter):
    found = solve.of_filters(torch.ones(shape), levels(3, signed=True), per_filter=per_filter)
    assert found.scale.shape == shape[:1] and (found.scale > 0).all()


@pytest.mark.parametrize("number", LEVELS)
def test_constants_are_exact(number):
    quantizer = ValueQuantizer(levels(number, signed=False), 1, 1)
    for value in (0.0, 0.37, -2.5):
        found = solve.of_values(quantizer, histogram(np.full((3, 5), value, np.float32)), "x")
        assert float(found.mse) <= 1e-14 * value * value and float(found.scale) > 0
