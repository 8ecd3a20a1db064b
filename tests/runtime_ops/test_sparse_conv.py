"""SparseConv: kernel and function are as near to the exact convolution as their sums allow, whatever the attributes."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from graphopt import runtime
from graphopt.errors import GraphoptError
from graphopt.runtime_ops.compact import compact
from tests.runtime_ops import running
from tests.runtime_ops.sparse import check, weight

SMALL = st.integers(1, 3)


def inputs(
    rng: np.random.Generator, images: tuple[int, ...], filters: int, kernel: tuple[int, ...], zeros: float, **rest: Any
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """What a convolution of random numbers takes, and its attributes."""
    array = weight(rng, (filters, images[1] // rest.get("group", 1), *kernel), zeros)
    values, gaps = compact(array)
    axes = len(kernel)
    attributes = {"strides": [1] * axes, "pads": [0] * 2 * axes, "dilations": [1] * axes, "group": 1, "relu": 0}
    given_ = {"x": rng.normal(size=images).astype(np.float32), "values": values, "gaps": gaps}
    return given_ | {"bias": rng.normal(size=filters).astype(np.float32)}, attributes | rest | {
        "shape": list(array.shape)
    }


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_all_attributes(level: str, data: st.DataObject) -> None:
    axes = data.draw(st.integers(1, 2))
    kernel = tuple(data.draw(SMALL) for _ in range(axes))
    group = data.draw(SMALL)
    images = (data.draw(st.integers(0, 3)), group * data.draw(SMALL), *(data.draw(st.integers(1, 19)) for _ in kernel))
    strides, dilations = ([data.draw(SMALL) for _ in kernel] for _ in range(2))
    pads = [data.draw(st.integers(0, 3)) for _ in range(2 * axes)]
    for axis in range(axes):
        reach = dilations[axis] * (kernel[axis] - 1) + 1
        assume(images[2 + axis] + pads[axis] + pads[axes + axis] >= reach)
    rest = {
        "strides": strides,
        "dilations": dilations,
        "pads": pads,
        "group": group,
        "relu": data.draw(st.integers(0, 1)),
    }
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    zeros = data.draw(st.sampled_from([0.0, 0.5, 0.9, 1.0]))
    given_, attributes = inputs(rng, images, group * data.draw(SMALL), kernel, zeros, **rest)
    function = level == "portable" and max(pads) < min(kernel)  # onnxruntime refuses some larger ones
    check("SparseConv", given_, attributes, symbolic=data.draw(st.booleans()), function=function)


LAYERS = [
    pytest.param((1, 64, 14, 14), 70, (3, 3), {"pads": [1] * 4}, id="3x3"),
    pytest.param((1, 64, 14, 14), 70, (1, 1), {}, id="1x1"),
    pytest.param((9, 48, 7, 7), 33, (3, 3), {"pads": [1] * 4}, id="small images together"),
    pytest.param((3, 48, 7, 7), 33, (1, 1), {}, id="small images one by one"),
    pytest.param((2, 32, 29, 31), 20, (3, 3), {"pads": [1] * 4, "strides": [2, 2]}, id="every second pixel"),
    pytest.param((2, 32, 28, 28), 20, (1, 1), {"strides": [2, 2]}, id="1x1, every second pixel"),
    pytest.param((1, 3, 65, 64), 24, (7, 7), {"pads": [3] * 4, "strides": [2, 2]}, id="stem"),
    pytest.param((1, 48, 17, 17), 48, (3, 3), {"pads": [1] * 4, "group": 48}, id="a filter a channel"),
    pytest.param((1, 16, 33, 33), 16, (3, 3), {"pads": [4] * 4, "dilations": [4, 4]}, id="dilated"),
    pytest.param((1, 16, 21, 40), 16, (3, 3), {}, id="no padding"),
    pytest.param((2, 16, 300), 16, (5,), {"pads": [2, 2]}, id="one axis"),
]


@pytest.mark.parametrize(("images", "filters", "kernel", "rest"), LAYERS)
def test_layers(
    level: str, images: tuple[int, ...], filters: int, kernel: tuple[int, ...], rest: dict[str, Any]
) -> None:
    given_, attributes = inputs(np.random.default_rng(0), images, filters, kernel, 0.9, **rest)
    check("SparseConv", given_, attributes, function=level == "portable")


@pytest.mark.parametrize(("images", "filters", "kernel", "rest"), LAYERS)
def test_threads_change_nothing(
    images: tuple[int, ...], filters: int, kernel: tuple[int, ...], rest: dict[str, Any]
) -> None:
    given_, attributes = inputs(np.random.default_rng(0), images, filters, kernel, 0.5, **rest)
    one = check("SparseConv", given_, attributes, function=False)
    two = check("SparseConv", given_, attributes, function=False, threads=2)
    assert one.tobytes() == two.tobytes()


@pytest.mark.parametrize("size", [7, 41])
def test_no_thread_keeps_what_it_laid_out_before(size: int) -> None:
    rng = np.random.default_rng(0)
    given_, attributes = inputs(rng, (2, 24, size, size), 40, (3, 3), 0.5, pads=[1] * 4)
    model = running.ops_model("SparseConv", given_, attributes, constants=["values", "gaps", "bias"])
    one, two = (running.open_session(model, threads=threads) for threads in (1, 2))
    for _ in range(20):
        feeds = {"x": rng.normal(size=given_["x"].shape).astype(np.float32)}
        np.testing.assert_array_equal(runtime.run(two, feeds)[0], runtime.run(one, feeds)[0])


def test_images_of_several_sizes_in_one_session() -> None:
    rng = np.random.default_rng(0)
    given_, attributes = inputs(rng, (1, 4, 9, 9), 5, (3, 3), 0.5, pads=[1] * 4)
    model = running.ops_model("SparseConv", given_, attributes, constants=["values", "gaps", "bias"], symbolic=True)
    native, plain = running.open_session(model), running.open_session(model, library=False)
    for shape in [(1, 4, 9, 9), (2, 4, 5, 30), (1, 4, 1, 1), (7, 4, 9, 9), (1, 4, 9, 9), (0, 4, 3, 3)]:
        feeds = {"x": rng.normal(size=shape).astype(np.float32)}
        found, wanted = runtime.run(native, feeds)[0], runtime.run(plain, feeds)[0]
        np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5)


def test_one_session_of_several_threads() -> None:
    rng = np.random.default_rng(0)
    given_, attributes = inputs(rng, (1, 4, 9, 9), 5, (3, 3), 0.5, pads=[1] * 4)
    model = running.ops_model("SparseConv", given_, attributes, constants=["values", "gaps", "bias"], symbolic=True)
    session = running.open_session(model)
    feeds = [{"x": rng.normal(size=(n, 4, 9 + n, 9)).astype(np.float32)} for n in range(1, 5)]
    wanted = [runtime.run(session, one)[0] for one in feeds]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda i: runtime.run(session, feeds[i % 4])[0], range(200)))
    for i, one in enumerate(found):
        np.testing.assert_array_equal(one, wanted[i % 4])


def test_what_lies_outside_of_the_image_is_zero_not_what_was_there_before(level: str) -> None:
    rng = np.random.default_rng(0)
    given_, attributes = inputs(rng, (1, 2, 6, 6), 3, (3, 3), 0.0, pads=[1] * 4)
    model = running.ops_model("SparseConv", given_, attributes, constants=["values", "gaps", "bias"])
    once = running.open_session(model)
    wanted = runtime.run(once, {"x": given_["x"]})[0]
    runtime.run(once, {"x": np.full_like(given_["x"], np.nan)})
    np.testing.assert_array_equal(runtime.run(once, {"x": given_["x"]})[0], wanted)


def test_the_kernel_is_taken(tmp_path: Any) -> None:
    given_, attributes = inputs(np.random.default_rng(0), (1, 4, 9, 9), 5, (3, 3), 0.5)
    model = running.ops_model("SparseConv", given_, attributes, constants=["values", "gaps", "bias"])
    assert running.taken(model, tmp_path) == ["graphopt.SparseConv"]


@pytest.mark.parametrize(
    ("rest", "shape", "says"),
    [
        ({"strides": [1]}, (1, 4, 9, 9), "strides: must have 2 numbers"),
        ({"strides": [1, 0]}, (1, 4, 9, 9), "strides: must not be below 1"),
        ({"pads": [0, 0, 0, -1]}, (1, 4, 9, 9), "pads: must not be below 0"),
        ({"group": 2}, (1, 4, 9, 9), "group: does not divide"),
        ({}, (1, 5, 9, 9), "x: its channels"),
        ({}, (1, 4, 9), "x: must have as many axes"),
        ({}, (1, 4, 2, 9), "x: smaller than the kernel"),
    ],
)
def test_refusals_say_what_is_wrong(rest: dict[str, Any], shape: tuple[int, ...], says: str) -> None:
    given_, attributes = inputs(np.random.default_rng(0), (1, 4, 9, 9), 5, (3, 3), 0.5)
    given_ |= {"x": np.ones(shape, np.float32)}
    with pytest.raises(GraphoptError) as error:
        running.run(running.ops_model("SparseConv", given_, attributes | rest, constants=["values", "gaps"]), given_)
    assert says in str(error.value)


def test_a_computed_weight_is_refused() -> None:
    given_, attributes = inputs(np.random.default_rng(0), (1, 4, 9, 9), 5, (3, 3), 0.5)
    with pytest.raises(GraphoptError) as error:
        running.run(running.ops_model("SparseConv", given_, attributes, constants=["values"]), given_)
    assert "gaps: must be an initializer" in str(error.value)
