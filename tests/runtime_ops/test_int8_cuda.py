"""The CUDA kernels of Int8Conv and Int8Gemm on a GPU that is played: tiles, borders, layouts, pipelines.

The source is the one that nvcc compiles; what tensor cores do is written down once more in ``emulator/``. That they do
it is seen on a GPU (``make gpu-check``).
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt.runtime_ops.int8_conv.reference import convolution
from graphopt.runtime_ops.int8_gemm.reference import join, requantize, scaled
from tests.runtime_ops.emulator import int8
from tests.runtime_ops.test_int8_cpu import numbers, requantization, scales

DRAWN = settings(max_examples=8, deadline=None)


def problem(
    rng: np.random.Generator,
    batch: int,
    groups: int,
    channels: int,
    columns: int,
    sizes: tuple[int, int],
    taps: tuple[int, int],
    planes: bool,
    residual: bool,
    pads: tuple[int, int, int, int] = (0, 0, 0, 0),
    strides: tuple[int, int] = (1, 1),
    dilations: tuple[int, int] = (1, 1),
    **how: Any,
) -> tuple[int8.Product, dict[str, np.ndarray], np.ndarray]:
    """Return what a kernel is told, the arrays that it works on, and what y must become. x is NHWC."""
    attributes = {**requantization(rng, True), **how}
    x = numbers(rng, batch, groups * channels, *sizes)
    w = numbers(rng, groups * columns, channels, *taps)
    depth = channels * taps[0] * taps[1]
    scale = scales(rng, groups * columns, depth)
    bias = rng.integers(-(depth**0.5) * 5000, depth**0.5 * 5000, groups * columns).astype(np.int32)
    x_zero = attributes["x_zero_point"]
    total = convolution(x, w, bias, pads, strides, dilations, groups, x_zero)
    value = scaled(total, scale.reshape(-1, 1, 1))
    out = value.shape
    value = value if planes else np.moveaxis(value, 1, -1)
    added = numbers(rng, *value.shape)
    if residual:
        value = join(value, added, attributes["residual_scale"], attributes["residual_zero_point"])
    expected = requantize(value, attributes["y_zero_point"], attributes["low"], attributes["high"])
    arrays = {
        "planes": x,
        "x": int8.aligned(np.moveaxis(x, 1, -1)),
        "w": w,
        "scale": int8.aligned(scale),
        "bias": int8.aligned((bias - x_zero * w.reshape(w.shape[0], -1).sum(1, dtype=np.int64)).astype(np.int32)),
        "y": int8.aligned(np.full(expected.shape, 77, np.int8)),
    }
    if residual:
        arrays["residual"] = int8.aligned(added)
    told = int8.Product(
        batch=batch, height=sizes[0], width=sizes[1], out_height=out[2], out_width=out[3], channels=channels,
        x_step=groups * channels, groups=groups, columns=columns, kernel_height=taps[0], kernel_width=taps[1],
        pad_top=pads[0], pad_left=pads[1], stride_height=strides[0], stride_width=strides[1],
        dilation_height=dilations[0], dilation_width=dilations[1], rows=batch * out[2] * out[3],
        zero=(x_zero & 0xFF) * 0x01010101, planes=planes, low=attributes["low"] - attributes["y_zero_point"],
        high=attributes["high"] - attributes["y_zero_point"], y_zero_point=attributes["y_zero_point"],
        residual_zero_point=attributes["residual_zero_point"], residual_scale=attributes["residual_scale"],
    )  # fmt: skip
    return told, arrays, expected


def run(tile: int, told: int8.Product, arrays: dict[str, np.ndarray], order: int) -> np.ndarray:
    packed = int8.aligned(int8.pack(arrays["w"], told.groups, told.channels))
    told.depth = packed.shape[1]
    int8.pointers(told, **{name: arrays.get(name) for name in ("x", "scale", "bias", "residual", "y")}, w=packed)
    tiles = int8.aligned(int8.pair_tiles(packed, told.groups))
    told.w_tiles = tiles.ctypes.data
    library = int8.announce(arrays["x"], packed, tiles, order=order)
    if tile == int8.TILES.index("pair 128x256"):
        assert library.graphopt_cuda_int8_pair(ctypes.byref(told), None) == 0
    else:
        assert library.graphopt_cuda_int8_product(ctypes.byref(told), tile, None) == 0
    return arrays["y"]


@pytest.fixture(scope="module", autouse=True)
def _compiled() -> None:
    if int8.library() is None:
        pytest.skip("no g++ here to compile the kernels for the processor")


@pytest.mark.parametrize("tile", range(len(int8.TILES)), ids=int8.TILES)
@DRAWN
@given(
    rows=st.sampled_from([1, 63, 64, 65, 129]),
    depth=st.sampled_from([16, 48, 128, 144, 640]),
    columns=st.sampled_from([1, 2, 7, 16, 63, 65, 100]),
    residual=st.booleans(),
    order=st.integers(0, 1),
    seed=st.integers(0, 2**32 - 1),
)
def test_matrix(tile: int, rows: int, depth: int, columns: int, residual: bool, order: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    told, arrays, expected = problem(rng, rows, 1, depth, columns, (1, 1), (1, 1), False, residual)
    np.testing.assert_array_equal(run(tile, told, arrays, order), expected)


@pytest.mark.parametrize("tile", range(len(int8.TILES)), ids=int8.TILES)
@DRAWN
@given(
    batch=st.sampled_from([1, 2, 3]),
    groups=st.sampled_from([1, 1, 2]),
    channels=st.sampled_from([16, 32, 64]),
    columns=st.sampled_from([3, 16, 40]),
    taps=st.sampled_from([(1, 1), (3, 3), (1, 5), (2, 3)]),
    strides=st.sampled_from([(1, 1), (2, 1), (1, 3)]),
    dilations=st.sampled_from([(1, 1), (2, 1), (1, 2)]),
    pads=st.sampled_from([(0, 0, 0, 0), (1, 1, 1, 1), (2, 0, 1, 3)]),
    planes=st.booleans(),
    residual=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_convolution(
    tile: int,
    batch: int,
    groups: int,
    channels: int,
    columns: int,
    taps: tuple[int, int],
    strides: tuple[int, int],
    dilations: tuple[int, int],
    pads: tuple[int, int, int, int],
    planes: bool,
    residual: bool,
    seed: int,
) -> None:
    rng = np.random.default_rng(seed)
    told, arrays, expected = problem(
        rng, batch, groups, channels, columns, (5, 9), taps, planes, residual, pads, strides, dilations
    )
    np.testing.assert_array_equal(run(tile, told, arrays, seed % 2), expected)


@pytest.mark.parametrize(
    ("tile", "order"), [(tile, tile % 2) for tile in range(len(int8.TILES))] + [(len(int8.TILES) - 1, 2)]
)
def test_several_tiles_and_rounds_of_the_stages(tile: int, order: int) -> None:
    rng = np.random.default_rng(9)
    rows, depth, columns = (140, 720, 140) if tile < 2 else (270, 1200, 530)
    told, arrays, expected = problem(rng, rows, 1, depth, columns, (1, 1), (1, 1), False, False)
    np.testing.assert_array_equal(run(tile, told, arrays, order), expected)


@pytest.mark.parametrize("tile", range(len(int8.TILES)), ids=int8.TILES)
def test_sums_wrap_and_ends_saturate(tile: int) -> None:
    rng = np.random.default_rng(0)
    told, arrays, expected = problem(rng, 70, 1, 256, 32, (1, 1), (1, 1), False, False, x_zero_point=0)
    arrays["x"][...] = -128
    arrays["w"][...] = -128
    arrays["scale"][...] = 1e-3
    arrays["bias"][:16] = 2**31 - 1
    arrays["bias"][16:] = 0
    total = 256 * 128 * 128 + arrays["bias"].astype(np.int64)
    expected = requantize(
        scaled(total, arrays["scale"]),
        told.y_zero_point,
        int(told.low) + told.y_zero_point,
        int(told.high) + told.y_zero_point,
    )
    found = run(tile, told, arrays, 0)
    np.testing.assert_array_equal(found.reshape(70, 32), np.broadcast_to(expected, (70, 32)))
    assert expected[0] != expected[-1]


@DRAWN
@given(
    batch=st.sampled_from([1, 2]),
    groups=st.sampled_from([1, 2, 3]),
    channels=st.sampled_from([1, 3, 16, 70]),
    positions=st.sampled_from([(1, 1), (5, 13), (8, 8)]),
    planes=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_rearrange(batch: int, groups: int, channels: int, positions: tuple[int, int], planes: bool, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x = numbers(rng, batch, groups, channels, *positions)
    wide = -(-channels // 16) * 16
    expected = np.zeros((batch, *positions, groups, wide), np.int8)
    expected[..., :channels] = np.moveaxis(x, (1, 2), (3, 4))
    source = x if planes else np.moveaxis(x, (1, 2), (3, 4))
    given_x, to = int8.aligned(source), int8.aligned(np.full(expected.shape, 77, np.int8))
    told = int8.Rearrange(
        x=given_x.ctypes.data, to=to.ctypes.data, batch=batch, positions=positions[0] * positions[1], groups=groups,
        channels=channels, wide=wide, planes=planes,
    )  # fmt: skip
    assert int8.announce().graphopt_cuda_int8_rearrange(ctypes.byref(told), None) == 0
    np.testing.assert_array_equal(to, expected)


@DRAWN
@given(
    groups=st.sampled_from([1, 5, 32]),
    channels=st.sampled_from([1, 3]),
    columns=st.sampled_from([1, 2]),
    strides=st.sampled_from([(1, 1), (2, 2)]),
    pads=st.sampled_from([(0, 0, 0, 0), (1, 1, 1, 1), (2, 0, 1, 3)]),
    x_planes=st.booleans(),
    planes=st.booleans(),
    residual=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_direct(
    groups: int,
    channels: int,
    columns: int,
    strides: tuple[int, int],
    pads: tuple[int, int, int, int],
    x_planes: bool,
    planes: bool,
    residual: bool,
    seed: int,
) -> None:
    rng = np.random.default_rng(seed)
    told, arrays, expected = problem(
        rng, 2, groups, channels, columns, (5, 6), (3, 3), planes, residual, pads, strides, (1, 2)
    )
    x = arrays["planes"] if x_planes else arrays["x"]
    w = np.ascontiguousarray(np.moveaxis(arrays["w"].reshape(groups * columns, channels, -1), 0, -1).swapaxes(0, 1))
    int8.pointers(told, **{name: arrays.get(name) for name in ("scale", "bias", "residual", "y")}, x=x, w=w)
    direct = int8.Direct(
        product=told,
        x_position=1 if x_planes else groups * channels,
        x_channel=30 if x_planes else 1,
        x_image=groups * channels * 30,
    )
    assert int8.announce().graphopt_cuda_int8_direct(ctypes.byref(direct), None) == 0
    np.testing.assert_array_equal(arrays["y"], expected)
