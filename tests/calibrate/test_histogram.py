"""Histograms: the same bits whatever the batches, the order and who merges; right at the edges of number formats."""

from __future__ import annotations

import math
from fractions import Fraction

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from graphopt.calibrate.accumulator import Accumulator
from graphopt.calibrate.histogram import DISTINCT, HALF, TINIEST, Histogram, exponent_of, histogram

EVERY_FLOAT32 = st.floats(width=32)
"""NaN, infinities, denormals, both zeros."""

ARRAYS = st.one_of(
    hnp.arrays(np.float32, st.integers(0, 40), elements=EVERY_FLOAT32),
    hnp.arrays(np.float64, st.integers(0, 40), elements=st.floats()),
    hnp.arrays(np.float16, st.integers(0, 40), elements=st.floats(width=16)),
    st.builds(lambda seed, size: np.random.default_rng(seed).normal(size=size), st.integers(0, 99), st.just(300)),
    st.builds(lambda seed: np.random.default_rng(seed).integers(0, 256, 400) / np.float32(255), st.integers(0, 99)),
)


def by_hand(numbers: list[float]) -> tuple[int, dict[int, int]]:
    """The definition, in exact arithmetic: exponent, and count of each bin that is not empty."""
    finite = [Fraction(x) for x in numbers if math.isfinite(x)]
    largest = max(map(abs, finite), default=Fraction(0))
    exponent = TINIEST
    for step in (1024, 512, 256, 128, 64, 32, 16, 8, 4, 2, 1):
        while largest / Fraction(2) ** (exponent + step - 1) >= HALF:
            exponent += step
    bins: dict[int, int] = {}
    for x in finite:
        bin_ = math.trunc(x / Fraction(2) ** exponent)
        bins[bin_] = bins.get(bin_, 0) + 1
    return exponent, bins


@given(ARRAYS)
def test_bins_are_what_their_definition_says(array: np.ndarray) -> None:
    found = histogram(array)
    exponent, bins = by_hand([float(x) for x in array])
    assert found.exponent == exponent
    assert {found.first + i: int(n) for i, n in enumerate(found.counts) if n} == bins
    assert found.counts.dtype == np.int64
    assert not found.counts.size or (found.counts[0] and found.counts[-1])
    assert found.nans == np.isnan(array).sum()
    assert found.infinities == np.isinf(array).sum()
    finite = array[np.isfinite(array)].astype(np.float64) + 0.0
    assert (found.minimum, found.maximum) == (finite.min(initial=math.inf), finite.max(initial=-math.inf))
    numbers, times = np.unique(finite, return_counts=True)
    if numbers.size < DISTINCT:
        assert found.distinct is not None and found.frequencies is not None
        assert np.array_equal(found.distinct, numbers) and np.array_equal(found.frequencies, times)
        assert not np.signbit(found.distinct[found.distinct == 0]).any()
    else:
        assert found.distinct is None and found.frequencies is None


@given(ARRAYS, ARRAYS, ARRAYS)
def test_sums_do_not_depend_on_the_order(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> None:
    a, b, c = histogram(x), histogram(y), histogram(z)
    assert a + b == b + a
    assert (a + b) + c == a + (b + c)
    assert a + Histogram() == a == Histogram() + a
    together = np.concatenate([one.astype(np.float64) for one in (x, y, z)])
    assert a + b + c == histogram(together)
    one_by_one = Accumulator()
    for array in (z, x[::-1], y):
        one_by_one.add(array)
    assert one_by_one.result() == a + b + c


@given(ARRAYS, st.integers(1, 7))
def test_batches_do_not_matter(array: np.ndarray, size: int) -> None:
    accumulator = Accumulator()
    for start in range(0, array.size, size):
        accumulator.add(array[start : start + size])
    whole = histogram(array)
    assert accumulator.result() == whole
    accumulator.merge(histogram(array[::2]))
    accumulator.add(array[::3])
    assert accumulator.result() == whole + histogram(array[::2]) + histogram(array[::3])


@pytest.mark.parametrize("kind", ["normal", "relu", "bytes", "fine bytes", "outlier", "zeros then normal"])
def test_arrays_of_many_pieces(kind: str) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=200_003).astype(np.float32)
    if kind == "relu":
        x = np.maximum(x, 0)
    if kind in ("bytes", "fine bytes"):
        x = rng.integers(0, 256, x.size).astype(np.float32)
    if kind == "fine bytes":
        x = np.where(x < 200, x * np.float32(1e-8), x)  # many different numbers in bin 0
    if kind == "outlier":
        x[-1] = 1e9
    if kind == "zeros then normal":
        x[:150_000] = 0
    whole = histogram(x)
    merged = sum((histogram(part) for part in np.array_split(rng.permutation(x), 7)), Histogram())
    assert whole == merged
    bins = np.trunc(np.ldexp(x.astype(np.float64), -whole.exponent)).astype(int)
    numbers, times = np.unique(bins, return_counts=True)
    assert np.array_equal(whole.counts[numbers - whole.first], times) and whole.count == x.size
    assert (whole.distinct is not None) == ("bytes" in kind)


def test_one_number_more_is_not_discrete() -> None:
    few = histogram(np.arange(DISTINCT - 1))
    assert few.distinct is not None and few.distinct.size == DISTINCT - 1
    assert histogram(np.arange(DISTINCT)).distinct is None
    assert (few + histogram(np.array([-1.0]))).distinct is None
    assert (few + histogram(np.array([0.0]))).distinct is not None


def test_a_range_that_grows_a_little_keeps_the_bins() -> None:
    small, large = histogram(np.array([-1.0, 1.999])), histogram(np.array([-1.0, 2.0]))
    assert (small.exponent, large.exponent) == (-14, -13)
    assert exponent_of(-2.0, 1.0) == -13 and exponent_of(-1.999, 1.0) == -14
    assert exponent_of(0.0, 0.0) == TINIEST


@pytest.mark.parametrize(
    ("array", "exponent", "minimum", "maximum"),
    [
        (np.zeros(0, np.float32), TINIEST, math.inf, -math.inf),
        (np.zeros((2, 0, 3)), TINIEST, math.inf, -math.inf),
        (np.zeros(3, np.float32), TINIEST, 0.0, 0.0),
        (np.array(-0.0, np.float32), TINIEST, 0.0, 0.0),
        (np.array([2**-149], np.float32), -163, 2**-149, 2**-149),
        (np.array([5e-324]), TINIEST, 5e-324, 5e-324),
        (np.array([3.4028235e38, -3.4028235e38], np.float32), 113, -3.4028234663852886e38, 3.4028234663852886e38),
        (np.array([np.finfo(np.float64).max, 5e-324]), 1009, 5e-324, np.finfo(np.float64).max),
        (np.array([65504, 2**-24], np.float16), 1, 2**-24, 65504.0),
        (np.array([1, 257], ml_dtypes.bfloat16), -6, 1.0, 256.0),
        (np.array([-448, 2**-9], ml_dtypes.float8_e4m3fn), -6, -448.0, 2**-9),
        (np.array([-8, 7], ml_dtypes.int4), -11, -8.0, 7.0),
        (np.array([-(2**31), 2**31 - 1], np.int32), 17, -(2.0**31), 2.0**31 - 1),
        (np.array([2**62 + 1]), 48, 2.0**62, 2.0**62),
        (np.array([2**64 - 1], np.uint64), 50, 2.0**64, 2.0**64),
        (np.array([True, False, True]), -14, 0.0, 1.0),
        (np.array([1.5, -2.5], ">f4"), -13, -2.5, 1.5),
    ],
)
def test_edges_of_the_number_formats(array: np.ndarray, exponent: int, minimum: float, maximum: float) -> None:
    found = histogram(array)
    assert (found.exponent, found.minimum, found.maximum) == (exponent, minimum, maximum)
    assert found.count == array.size
    assert found + found == histogram(np.concatenate([array.reshape(-1)] * 2))


@pytest.mark.parametrize("array", [np.array(["a"]), np.array([1j]), np.array([None]), np.zeros(2, "f4,f4")])
def test_what_is_not_a_real_number_is_refused(array: np.ndarray) -> None:
    with pytest.raises(TypeError, match="no histogram of"):
        histogram(array)


def test_nan_and_infinities_are_counted_apart() -> None:
    accumulator = Accumulator()
    assert accumulator.add(np.array([np.nan, np.inf, -np.inf, np.nan, 3.0], np.float32)) == (2, 2)
    assert accumulator.add(np.array([np.nan])) == (1, 0)
    assert accumulator.add(np.array([4.0])) == (0, 0)
    found = accumulator.result()
    assert (found.nans, found.infinities, found.count, found.minimum, found.maximum) == (3, 2, 2, 3.0, 4.0)


def test_dead_is_all_equal() -> None:
    assert histogram(np.full(7, 0.3)).dead
    assert histogram(np.array([0.0, -0.0])).dead
    assert not histogram(np.array([0.3, 0.30000001])).dead
    assert not Histogram().dead
    assert (histogram(np.full(7, 0.3)) + Histogram()).dead


@given(hnp.arrays(np.float32, st.integers(1, 400), elements=st.floats(-1e6, 1e6, width=32)))
def test_mean_and_variance(array: np.ndarray) -> None:
    found, x = histogram(array), array.astype(np.float64)
    scale = np.abs(x).max()
    exact = found.distinct is not None
    half_bin = 0.0 if exact else 2.0 ** (found.exponent - 1) * 2  # bin 0 is two widths wide
    assert found.mean == pytest.approx(x.mean(), rel=0, abs=half_bin + 1e-12 * scale + 1e-300)
    assert found.variance == pytest.approx(x.var(), rel=0, abs=4 * half_bin * scale + 1e-11 * scale**2 + 1e-300)


@given(ARRAYS, st.integers(0, 100))
def test_percentile_is_within_a_bin(array: np.ndarray, percent: int) -> None:
    found = histogram(array)
    finite = np.sort(array[np.isfinite(array)].astype(np.float64))
    value = found.percentile(percent)
    if not finite.size:
        assert math.isnan(value)
        return
    exact = finite[max(math.ceil(percent / 100 * finite.size) - 1, 0)]
    if found.distinct is not None:
        assert value == exact
    else:
        assert abs(value - exact) <= 2.0 ** (found.exponent + 1)
        assert found.minimum <= value <= found.maximum


def test_percentile_between_numbers() -> None:
    x = np.random.default_rng(0).uniform(-1, 3, 100_000)
    found = histogram(x)
    assert found.percentile(25) == pytest.approx(0, abs=0.02)
    assert found.percentile(99.9) == pytest.approx(np.quantile(x, 0.999), abs=2**-13)
    assert (found.percentile(0), found.percentile(100)) == (x.min(), x.max())
    with pytest.raises(ValueError, match="101"):
        found.percentile(101)


@given(ARRAYS, st.integers(3, 300))
def test_moments_of_coarse_bins(array: np.ndarray, bins: int) -> None:
    found = histogram(array)
    coarse = found.moments(bins)
    x, n = found.points()
    assert coarse.count.size <= bins
    assert coarse.count.dtype == np.int64 and coarse.count.sum() == found.count
    t = np.trunc(np.ldexp(x, -coarse.exponent)).astype(int) - coarse.first
    for i in range(coarse.count.size):
        here = t == i
        assert coarse.count[i] == n[here].sum()
        assert coarse.total[i] == pytest.approx((n * x)[here].sum(), rel=1e-12, abs=1e-300)
        with np.errstate(over="ignore"):
            assert coarse.squares[i] == pytest.approx((n * x * x)[here].sum(), rel=1e-12, abs=1e-300)
    assert coarse.exponent == found.exponent or 2 * coarse.count.size + 2 > bins


def test_moments_need_three_bins() -> None:
    with pytest.raises(ValueError, match="2 bins"):
        histogram(np.arange(4.0)).moments(2)


def test_a_result_does_not_change_when_more_is_added() -> None:
    accumulator = Accumulator()
    accumulator.add(np.arange(5.0))
    before, again = accumulator.result(), histogram(np.arange(5.0))
    accumulator.add(np.arange(-900.0, 900.0))
    assert before == again
    assert before != accumulator.result()
