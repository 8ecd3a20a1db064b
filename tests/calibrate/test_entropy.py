"""Relative entropy: by the definition, and where the textbook's form goes wrong."""

from __future__ import annotations

import numpy as np
import pytest

from graphopt.calibrate.entropy import bins, divergences
from graphopt.calibrate.grid import grid
from graphopt.calibrate.histogram import histogram
from graphopt.calibrate.solve import solve
from tests.calibrate.test_solve import SHAPES, drawn


def by_hand(numbers: np.ndarray, counts: np.ndarray, scale: float, zero: int, low: int, high: int) -> float:
    """``sum p log(p / q)``: the clipped numbers are in p only, in its outermost bins; q is even over what is inside."""
    codes = np.floor(numbers / scale + 0.5) + zero
    inside = (codes >= low) & (codes <= high)
    p, codes = counts[inside].astype(float), codes[inside]
    q = np.array([p[codes == code].mean() for code in codes])
    middle = numbers[inside][0]
    p[0] += counts[~inside & (numbers < middle)].sum()
    p[-1] += counts[~inside & (numbers > middle)].sum()
    p, q = p / p.sum(), q / q.sum()
    return float((p * np.log(p / q)).sum())


@pytest.mark.parametrize("shape", SHAPES)
def test_definition(shape: str) -> None:
    numbers, counts, _ = bins(histogram(drawn(shape, 997)), 2048)
    for scale, zero in ((0.1, 3), (0.013, 8), (0.5, 11)):
        found = divergences(numbers, counts, np.array([scale]), np.array([zero]), grid("uint4"))
        if np.isinf(found[0]):  # nothing is inside
            assert abs(float(numbers[np.abs(numbers).argmin()])) > scale
            continue
        assert found[0] == pytest.approx(by_hand(numbers, counts, scale, zero, 0, 15), abs=1e-11)
        assert found[0] >= -1e-12


def usual(counts: np.ndarray, kept: int, levels: int) -> float:
    """What usual programs compute for a range of ``kept`` bins from zero up: see the docstring of entropy.py."""
    p = counts[:kept].astype(float)
    p[-1] += counts[kept:].sum()
    q = np.zeros(kept)
    for part in np.array_split(np.arange(kept), levels):
        some = part[p[part] > 0]
        q[some] = counts[part].sum() / max(some.size, 1)
    p, q = (np.maximum(v / v.sum(), 1e-4) for v in (p, q))
    return float((p * np.log(p / q)).sum())


def test_a_gap_in_front_of_a_far_hill() -> None:
    """A range that ends inside a gap is as good as one that ends before it; the usual form finds it far worse."""
    counts = np.zeros(512, np.int64)
    counts[:96], counts[400] = 1000 + np.arange(96) % 7, 900
    numbers = np.flatnonzero(counts) + 0.5
    found = {}
    for kept in (96, 112):  # 6 and 7 bins to a level; with 112 the last two levels are empty
        scale, zero = np.array([kept / 16]), np.zeros(1, np.int64)
        # Cells of the grid end half a step later than bins of the usual form: move them there.
        found[kept] = divergences(numbers + scale[0] / -2, counts[counts > 0], scale, zero, grid("uint4"))[0]
    assert found[112] == pytest.approx(found[96], rel=0.02)
    assert usual(counts, 112, 16) > 1.3 * usual(counts, 96, 16)


def test_few_different_numbers_are_not_clipped() -> None:
    x = np.repeat(np.array([0, 1, 2, 900], np.float32), [99, 9, 9, 1])
    for name in ("uint2", "int8", "float8e4m3fn"):
        found, plain = (solve(histogram(x), grid(name), method=method) for method in ("entropy", "minmax"))
        assert (found.scale, found.zero_point) == (plain.scale, plain.zero_point)


def test_zeros_behind_a_relu_are_no_reason_to_clip() -> None:
    x = drawn("behind relu", 50_021)
    found, plain = (solve(histogram(x), grid("uint8"), method=method) for method in ("entropy", "minmax"))
    assert found.scale > 0.5 * plain.scale


def test_rare_numbers_far_away_are_clipped() -> None:
    x = drawn("few far away", 50_021)
    found, plain = (solve(histogram(x), grid("uint8"), method=method) for method in ("entropy", "minmax"))
    assert found.scale < 0.7 * plain.scale
    # Near miss: what fills its range evenly is not clipped.
    y = np.random.default_rng(0).uniform(-1, 1, 50_021)
    found, plain = (solve(histogram(y), grid("uint8"), method=method) for method in ("entropy", "minmax"))
    assert found.scale > 0.9 * plain.scale
