"""The CUDA kernels of ``Histogram`` on a GPU that is played: the integers of numpy."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings

from graphopt.calibrate.accumulator import Accumulator
from graphopt.runtime_ops.histogram.reference import histogram
from tests.runtime_ops.emulator.warps import address, library
from tests.runtime_ops.test_histogram import draws

BINS, SLOTS, FREE = 1 << 16, 1 << 10, 0xFFFFFFFF
TYPES = {"float32": 0, "float16": 1, "bfloat16": 2}
STATE = np.dtype(
    [
        ("counts", "u8", BINS),
        ("nans", "u8"),
        ("infinities", "u8"),
        ("times", "u8", SLOTS),
        ("keys", "u4", SLOTS),
        ("used", "u4"),
        ("dropped", "u4"),
        ("low", "u4"),
        ("high", "u4"),
        ("exponent", "i4"),
    ],
    align=True,
)
"""``DeviceState`` of runtime_ops/histogram/device_state.h."""


def number(key: int) -> float:
    """The float of an integer in the same order."""
    bits = key & 0x7FFFFFFF if key & 0x80000000 else ~key & 0xFFFFFFFF
    return float(np.array(bits, np.uint32).view(np.float32))


def same(arrays: Sequence[np.ndarray]) -> None:
    """Assert that the kernels count what numpy counts."""
    kernels = library("histogram")
    if kernels is None:
        pytest.skip("no compiler")
    state = np.zeros(1, STATE)
    state["keys"], state["low"], state["exponent"] = FREE, FREE, -1074
    accumulator = Accumulator()
    for x in arrays:
        accumulator.add(x)
        rows = x.shape[0] if x.ndim else 1
        nonfinite = np.full((rows, 2), 77, np.int64)
        sizes = ctypes.c_int64(x.size), ctypes.c_int64(rows)
        given = TYPES[x.dtype.name], address(x), *sizes, address(state), address(nonfinite), None
        assert kernels.graphopt_cuda_histogram(*given) == 0
        assert np.array_equal(nonfinite, histogram(x)[1])
    found, expected = state[0], accumulator.result()
    assert (found["nans"], found["infinities"]) == (expected.nans, expected.infinities)
    counts = np.zeros(BINS, np.int64)
    counts[np.arange(expected.first, expected.first + expected.counts.size)] = expected.counts
    assert np.array_equal(found["counts"].astype(np.int64), counts)
    assert (found["low"] <= found["high"]) == (expected.minimum <= expected.maximum)
    if expected.minimum <= expected.maximum:
        assert found["exponent"] == expected.exponent
        assert [number(int(found[end])) for end in ("low", "high")] == [expected.minimum, expected.maximum]
    assert bool(found["dropped"]) == (expected.distinct is None)
    if expected.distinct is not None and expected.frequencies is not None:
        used = found["keys"] != FREE
        numbers = found["keys"][used].view(np.float32).astype(np.float64)
        order = np.argsort(numbers)
        assert np.array_equal(numbers[order], expected.distinct)
        assert np.array_equal(found["times"][used][order].astype(np.int64), expected.frequencies)


@given(draws([np.float32, np.float16, ml_dtypes.bfloat16]))
@settings(max_examples=25, deadline=None)
def test_the_integers_of_numpy(arrays: list[np.ndarray]) -> None:
    same(arrays)


def test_windows_of_shared_memory() -> None:
    x = np.random.default_rng(0).standard_normal((1 << 20) + 17).astype(np.float32)
    x[5] = 9
    same([np.abs(x), x * 3, -np.abs(x)])  # to the right of zero, on both sides and beyond, to the left
    same([np.round(x * 10)])
