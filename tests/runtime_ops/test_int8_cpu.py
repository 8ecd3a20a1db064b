"""Int8Conv and Int8Gemm on the CPU: kernel = function = numpy reference, bit by bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from graphopt import runtime_ops
from tests.runtime_ops.running import agree, need_library, ops_model, run, taken

DRAWN = settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
SIZES = (0, 1, 2, 3, 5, 12, 13, 31, 32, 33, 67)


def full(op: str, attributes: dict[str, Any]) -> dict[str, Any]:
    """Return the attributes with the operator's defaults: its function has none."""
    return {**runtime_ops.operators()[op].attributes, **attributes}


def numbers(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """Return int8 numbers, the ends of the range more often than their share."""
    values = rng.integers(-128, 128, shape)
    return np.where(rng.random(shape) < 0.1, rng.choice([-128, 127], shape), values).astype(np.int8)


def scales(rng: np.random.Generator, count: int, depth: int) -> np.ndarray:
    """Return scales with which most results are inside of the range, and some outside."""
    typical = 40 / (74 * 74 * max(depth, 1) ** 0.5)
    return (typical * rng.uniform(0.5, 3, count)).astype(np.float32)


def requantization(rng: np.random.Generator, residual: bool) -> dict[str, Any]:
    """Draw zero points and bounds; zero and a ReLU more often than others."""
    y_zero = (0, -128, int(rng.integers(-128, 128)))[rng.integers(3)]
    found: dict[str, Any] = {
        "x_zero_point": (0, -128, int(rng.integers(-128, 128)))[rng.integers(3)],
        "y_zero_point": y_zero,
        "low": (-128, y_zero)[rng.integers(2)],
        "high": (127, max(y_zero, 90))[rng.integers(2)],
    }
    if residual:
        found["residual_scale"] = float(np.float32(rng.uniform(0.01, 2)))
        found["residual_zero_point"] = (0, int(rng.integers(-128, 128)))[rng.integers(2)]
    return found


@DRAWN
@given(
    lead=st.lists(st.sampled_from(SIZES), min_size=0, max_size=2),
    depth=st.sampled_from(SIZES[1:]),
    columns=st.sampled_from(SIZES[1:]),
    residual=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_gemm(level: str, lead: list[int], depth: int, columns: int, residual: bool, seed: int) -> None:
    rng = np.random.default_rng(seed)
    given: dict[str, np.ndarray] = {
        "x": numbers(rng, *lead, 2, depth),
        "w": numbers(rng, depth, columns),
        "scale": scales(rng, int(rng.choice([1, columns])), depth),
        "bias": rng.integers(-(depth**0.5) * 5000, depth**0.5 * 5000, columns).astype(np.int32),
    }
    if residual:
        given["residual"] = numbers(rng, *lead, 2, columns)
    constants = ["w", "scale", "bias"] if rng.random() < 0.7 else []
    agree(
        "Int8GemmAdd" if residual else "Int8Gemm",
        given,
        requantization(rng, residual),
        constants=constants,
        threads=int(rng.choice([1, 2])),
        symbolic=bool(rng.random() < 0.5),
    )


def window(rng: np.random.Generator, spatial: int, taps: list[int]) -> dict[str, Any]:
    """Draw a window, and sizes that it fits in."""
    pads = [int(value) for value in rng.integers(0, 3, 2 * spatial)]
    strides = [int(value) for value in rng.integers(1, 4, spatial)]
    dilations = [int(value) for value in rng.choice([1, 1, 2], spatial)]
    return {"pads": pads, "strides": strides, "dilations": dilations}


@settings(DRAWN, max_examples=25)
@given(
    spatial=st.sampled_from([1, 2, 2, 2]),
    batch=st.sampled_from([0, 1, 2, 3]),
    group=st.sampled_from([1, 1, 2, 3]),
    channels=st.sampled_from([1, 2, 3, 4, 5, 8, 17]),
    filters=st.sampled_from([1, 2, 5, 16, 33]),
    layouts=st.tuples(st.booleans(), st.booleans()),
    residual=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_conv(
    level: str,
    spatial: int,
    batch: int,
    group: int,
    channels: int,
    filters: int,
    layouts: tuple[bool, bool],
    residual: bool,
    seed: int,
) -> None:
    rng = np.random.default_rng(seed)
    taps = [int(size) for size in rng.choice([1, 1, 2, 3, 5], spatial)]
    attributes = {**window(rng, spatial, taps), **requantization(rng, residual), "group": group}
    least = [1 + d * (t - 1) for d, t in zip(attributes["dilations"], taps, strict=True)]
    sizes = [int(size + rng.integers(0, 9)) for size in least]
    check(rng, batch, group, channels, filters, sizes, taps, layouts, residual, attributes)


def check(
    rng: np.random.Generator,
    batch: int,
    group: int,
    channels: int,
    filters: int,
    sizes: list[int],
    taps: list[int],
    layouts: tuple[bool, bool],
    residual: bool,
    attributes: dict[str, Any],
) -> None:
    spatial = len(sizes)
    first, last_in = list(range(spatial + 2)), [0, spatial + 1, *range(1, spatial + 1)]
    last_out = [0, *range(2, spatial + 2), 1]
    attributes["input_perm"] = last_in if layouts[0] else first
    attributes["output_perm"] = last_out if layouts[1] else first
    x = numbers(rng, batch, group * channels, *sizes)
    w = numbers(rng, group * filters, channels, *taps)
    depth = channels * int(np.prod(taps))
    given: dict[str, np.ndarray] = {
        "x": np.ascontiguousarray(np.transpose(x, last_out)) if layouts[0] else x,
        "w": w,
        "scale": scales(rng, int(rng.choice([1, group * filters])), depth),
        "bias": rng.integers(-(depth**0.5) * 5000, depth**0.5 * 5000, group * filters).astype(np.int32),
    }
    if residual:
        out = [
            (
                size
                + attributes["pads"][i]
                + attributes["pads"][spatial + i]
                - attributes["dilations"][i] * (tap - 1)
                - 1
            )
            // attributes["strides"][i]
            + 1
            for i, (size, tap) in enumerate(zip(sizes, taps, strict=True))
        ]
        planes = numbers(rng, batch, group * filters, *out)
        given["residual"] = np.ascontiguousarray(np.transpose(planes, last_out)) if layouts[1] else planes
    op = "Int8ConvAdd" if residual else "Int8Conv"
    agree(
        op,
        given,
        full(op, attributes),
        constants=["w", "scale", "bias"] if rng.random() < 0.8 else [],
        threads=int(rng.choice([1, 2])),
        symbolic=bool(rng.random() < 0.5),
    )


@pytest.mark.parametrize("layouts", [(False, False), (True, True), (False, True), (True, False)])
@pytest.mark.parametrize("channels", [1, 3, 32, 35, 70])
def test_depthwise(level: str, channels: int, layouts: tuple[bool, bool]) -> None:
    rng = np.random.default_rng(channels)
    attributes = {"pads": [1, 0, 1, 2], "strides": [1, 2], "dilations": [1, 1], **requantization(rng, True)}
    check(rng, 2, channels, 1, 1, [6, 7], [3, 3], layouts, True, {**attributes, "group": channels})


def test_halves_go_to_the_even_number(level: str) -> None:
    x = np.arange(-128, 128).astype(np.int8).reshape(-1, 1)
    given = [x, np.ones((1, 1), np.int8), np.full(1, 0.5, np.float32), np.zeros(1, np.int32)]
    (y,) = agree("Int8Gemm", given, full("Int8Gemm", {}))
    assert y[128 + 1, 0] == 0 and y[128 + 3, 0] == 2 and y[128 - 1, 0] == 0 and y[128 - 5, 0] == -2


def test_steps_are_not_fused(level: str) -> None:
    """A fused multiply and add gives another number: 25 (x) times a scale, and a residual that all but cancels it."""
    rng = np.random.default_rng(3)
    depth = 64
    x, w = numbers(rng, 3000, depth), numbers(rng, depth, 32)
    given = [x, w, scales(rng, 32, depth), np.zeros(32, np.int32), numbers(rng, 3000, 32)]
    agree("Int8GemmAdd", given, full("Int8GemmAdd", {"residual_scale": 0.5}), constants=["w"])


@pytest.mark.parametrize("threads", [1, 2])
def test_layer_of_a_resnet(level: str, threads: int) -> None:
    rng = np.random.default_rng(5)
    check(rng, 2, 1, 64, 96, [14, 14], [3, 3], (False, True), False, {
        "pads": [1, 1, 1, 1], "strides": [1, 1], "dilations": [1, 1], "low": 0,
    })  # fmt: skip


def test_function_runs_without_the_library() -> None:
    rng = np.random.default_rng(1)
    given = {
        "x": numbers(rng, 3, 8),
        "w": numbers(rng, 8, 4),
        "scale": scales(rng, 4, 8),
        "bias": np.zeros(4, np.int32),
    }
    for opset in (18, 21, 23):
        model = ops_model("Int8Gemm", given, full("Int8Gemm", {}), opset=opset)
        (y,) = run(model, given, library=False)
        assert y.dtype == np.int8 and y.shape == (3, 4)


def test_the_kernel_is_taken(tmp_path: Any) -> None:
    need_library()
    rng = np.random.default_rng(1)
    given = {
        "x": numbers(rng, 1, 3, 5, 5),
        "w": numbers(rng, 4, 3, 3, 3),
        "scale": scales(rng, 4, 27),
        "bias": np.zeros(4, np.int32),
    }
    assert taken(ops_model("Int8Conv", given, full("Int8Conv", {}), constants=["w"]), tmp_path) == ["graphopt.Int8Conv"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scale": np.ones(3, np.float32)}, "scale"),
        ({"bias": np.ones(3, np.int32)}, "bias"),
        ({"x": np.ones((1, 4, 5, 5), np.int8)}, "channels"),
        ({"low": 5, "high": 4}, "low"),
        ({"x_zero_point": 200}, "x_zero_point"),
        ({"strides": [0, 1]}, "strides"),
        ({"output_perm": [1, 0, 2, 3]}, "output_perm"),
    ],
)
def test_errors_say_what_is_wrong(change: dict[str, Any], message: str) -> None:
    need_library()
    given: dict[str, np.ndarray] = {
        "x": np.ones((1, 3, 5, 5), np.int8),
        "w": np.ones((4, 3, 3, 3), np.int8),
        "scale": np.ones(4, np.float32),
        "bias": np.ones(4, np.int32),
    }
    attributes = {name: value for name, value in change.items() if name not in given}
    given |= {name: value for name, value in change.items() if name in given}
    with pytest.raises(Exception, match=message):
        run(ops_model("Int8Conv", given, full("Int8Conv", attributes)), given)
