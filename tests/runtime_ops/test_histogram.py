"""``graphopt.Histogram`` counts exactly what ``graphopt.calibrate.histogram`` counts, on every path."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt import runtime
from graphopt.calibrate.accumulator import Accumulator
from graphopt.calibrate.histogram import Histogram, histogram
from graphopt.errors import GraphoptError, ModelError
from graphopt.runtime_ops.histogram import reference
from graphopt.runtime_ops.histogram.handle import Statistics
from tests.runtime_ops import running

TYPES = [np.float32, np.float64, np.float16, ml_dtypes.bfloat16, np.int8, np.uint8, np.int32, np.int64, np.bool_]


def counted(
    arrays: Sequence[np.ndarray], threads: int = 1, statistics: Statistics | None = None, provider: str = "cpu"
) -> Histogram:
    """What the library counts of arrays of one type and rank, one run after the other."""
    running.need_library()
    statistics = statistics or Statistics()
    model = running.ops_model(
        "Histogram", [arrays[0]], {"handle": statistics.handle}, symbolic=True, outputs=2, opset=21
    )
    session = running.open_session(model, threads=threads, provider=provider)
    for array in arrays:
        same, nonfinite = runtime.run(session, {"x": array})
        assert same.tobytes() == array.tobytes() and same.shape == array.shape
        assert np.array_equal(nonfinite, reference.histogram(array)[1])
    return statistics.result()


def bits(h: Histogram) -> tuple[Any, ...]:
    """All of a histogram, to the bit."""
    arrays = (h.counts, h.distinct, h.frequencies)
    return (
        h.exponent,
        h.first,
        np.array([h.minimum, h.maximum]).tobytes(),
        h.nans,
        h.infinities,
        *((None if a is None else (a.dtype, a.shape, a.tobytes())) for a in arrays),
    )


def same(arrays: Sequence[np.ndarray], threads: int = 1) -> Histogram:
    """Assert that the library counts what numpy counts."""
    expected = Accumulator()
    for array in arrays:
        expected.add(array)
    found = counted(arrays, threads)
    assert bits(found) == bits(expected.result())
    return found


@st.composite
def draws(draw: st.DrawFn, types: Sequence[Any] = TYPES) -> list[np.ndarray]:
    """Arrays of one type: of any spread, discrete or not, with zeros, signs, NaN and infinities in them."""
    dtype = np.dtype(draw(st.sampled_from(types)))
    rng = np.random.default_rng(draw(st.integers(0, 1 << 30)))
    arrays = []
    for _ in range(draw(st.integers(1, 3))):
        size = draw(st.sampled_from([0, 1, 2, 7, 8, 9, 15, 16, 17, 31, 256, 257, 1009, 4095, 4096, 4097, 9001]))
        spread = 2.0 ** draw(st.sampled_from([-1060, -160, -140, -126, -30, -3, 0, 3, 10, 100, 127, 900]))
        with np.errstate(over="ignore", invalid="ignore", under="ignore"):
            x = rng.standard_normal(size) * spread
            if draw(st.booleans()):
                x = np.round(x / spread * draw(st.sampled_from([1, 20, 60]))) * spread
            x = np.where(rng.random(size) < draw(st.sampled_from([0, 0.5, 1])), 0.0, x)
            x *= draw(st.sampled_from([1.0, -1.0]))
            if draw(st.booleans()):
                x = np.abs(x)
            if dtype.kind in "iub":
                x = np.clip(np.nan_to_num(x), *((0, 1) if dtype.kind == "b" else _limits(dtype)))
            else:
                rate = draw(st.sampled_from([0, 0, 0.1, 1]))
                wrong = rng.random(size) < rate
                x = np.where(wrong, rng.choice([np.nan, np.inf, -np.inf], size), x)
            arrays.append(x.astype(dtype))
    return arrays


def _limits(dtype: np.dtype) -> tuple[float, float]:
    limits = np.iinfo(dtype)
    return max(float(limits.min), -(2.0**62)), min(float(limits.max), 2.0**62)


@given(draws())
@settings(max_examples=60, deadline=None)
def test_exactly_that_of_numpy(level: str, arrays: list[np.ndarray]) -> None:
    same(arrays)


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.int8], ids=str)
@pytest.mark.parametrize("signs", [1, 2])
def test_threads_do_not_matter(dtype: Any, signs: int) -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal(1 << 20) * 20
    x[3::2] = 0
    x[-1] = 100  # the range grows at the very end
    x = x if signs == 2 else np.abs(x)
    same([x.astype(dtype), (x[:999_983] / 7).astype(dtype)], threads=3)


def test_threads_find_a_number_too_many_for_discrete() -> None:
    x = np.tile(np.arange(256, dtype=np.float32), 4096)
    assert same([x], threads=2).distinct is not None  # near miss
    x[777_777] = 0.5
    assert same([x], threads=2).distinct is None
    assert same([np.full((1 << 20) + 1, np.nan, np.float32), x], threads=2).nans == (1 << 20) + 1


def test_the_same_zeros() -> None:
    found = same([np.array([0.0, -0.0], np.float32), np.array([-0.0], np.float32)])
    assert found.frequencies is not None and found.frequencies.tolist() == [3]


def test_sessions_share_a_handle_at_once() -> None:
    running.need_library()
    statistics = Statistics()
    x = np.random.default_rng(1).standard_normal(70_001).astype(np.float32)
    parts = [x * 2.0**i for i in range(4)]
    at_work = [threading.Thread(target=counted, args=([part], 2, statistics)) for part in parts for _ in range(3)]
    for thread in at_work:
        thread.start()
    for thread in at_work:
        thread.join()
    assert bits(statistics.result()) == bits(sum([histogram(part) for part in parts * 3], Histogram()))


def test_reset_forgets() -> None:
    running.need_library()
    statistics = Statistics()
    counted([np.array([3.5, np.nan, -1e9], np.float32)], statistics=statistics)
    statistics.reset()
    assert bits(statistics.result()) == bits(Histogram())
    counted([np.array([0.25], np.float32)], statistics=statistics)
    assert bits(statistics.result()) == bits(histogram(np.array([0.25])))


def test_a_session_outlives_its_statistics() -> None:
    running.need_library()
    statistics = Statistics()
    x = np.arange(5, dtype=np.float32)
    session = running.open_session(running.ops_model("Histogram", [x], {"handle": statistics.handle}, outputs=2))
    del statistics
    assert runtime.run(session, {"x": x})[1].tolist() == [[0, 0]] * 5


def test_a_handle_of_nobody_is_refused() -> None:
    running.need_library()
    model = running.ops_model("Histogram", [np.zeros(3, np.float32)], {"handle": 1 << 40}, outputs=2)
    with pytest.raises(ModelError, match=r"Histogram.*no such handle in this process"):
        running.open_session(model)
    runtime.run(
        running.open_session(model, library=False), {"x": np.zeros(3, np.float32)}
    )  # the function does not care


@pytest.mark.parametrize("dtype", TYPES, ids=lambda t: np.dtype(t).name)
@pytest.mark.parametrize("shape", [(), (0,), (1,), (3, 0, 2), (5, 7)])
def test_kernel_and_function_agree(dtype: Any, shape: tuple[int, ...]) -> None:
    x = (np.random.default_rng(2).standard_normal(shape) * 100).astype(dtype)
    if x.ndim and x.size and np.dtype(dtype).kind not in "iub":
        x.reshape(-1)[0] = np.inf
        x.reshape(-1)[-1] = np.nan
    running.agree("Histogram", [x], {"handle": 0}, opset=21)


@pytest.mark.parametrize("dtype", [np.float32, np.float16], ids=str)
def test_on_a_gpu(dtype: Any) -> None:
    running.need_library()
    if not _has_cuda():
        pytest.skip("onnxruntime has no CUDA provider here")
    rng = np.random.default_rng(0)
    arrays = [(rng.standard_normal((size, 3)) * size).astype(dtype) for size in (0, 1, 400_009, 7)]
    expected = sum([histogram(array) for array in arrays], Histogram())
    assert bits(counted(arrays, provider="cuda")) == bits(expected)


def _has_cuda() -> bool:
    try:
        running.open_session(running.ops_model("Histogram", [np.zeros(1, np.float32)], outputs=2), provider="cuda")
    except GraphoptError:
        return False
    return True
