"""BinaryGemm, BinaryConv and their Sign forms: kernel = function = numpy, whatever the sizes, paddings and processor.

Sums of signs are integers, so everything is compared bit by bit. Scales are powers of two where the function takes
part: onnxruntime may move a scale into the weights of its convolution, which rounds elsewhere.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from graphopt import runtime_ops
from graphopt.runtime_ops.binary_conv.reference import sums
from graphopt.runtime_ops.binary_gemm import bits
from graphopt.runtime_ops.binary_gemm.reference import product
from tests.runtime_ops import running

FEW = settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True
)


def numbers(rng: np.random.Generator, dtype: type, *shape: int) -> np.ndarray:
    """Return what an activation holds: also zeros of both signs, infinities and NaN, or -1 and 1."""
    if dtype is np.int8:
        return rng.choice(np.array([-1, 1], np.int8), shape)
    x = rng.normal(size=shape).astype(np.float32)
    odd = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 1e-42, -1e-42], np.float32)
    return np.where(rng.random(shape) < 0.2, rng.choice(odd, shape), x)


def epilogue(rng: np.random.Generator, channels: int, sign: bool) -> dict[str, np.ndarray]:
    """Return thresholds that sums hit exactly, or scales that are powers of two, and biases that keep sums exact."""
    if sign:
        limits = rng.integers(-9, 9, channels).astype(np.float32) + rng.choice([0, 0.5], channels).astype(np.float32)
        odd = np.array([np.inf, -np.inf, np.nan], np.float32)
        return {"threshold": np.where(rng.random(channels) < 0.2, rng.choice(odd, channels), limits)}
    scale = (2.0 ** rng.integers(-3, 3, channels) * rng.choice([-1, 1], channels)).astype(np.float32)
    return {"scale": scale, "bias": rng.integers(-8, 8, channels).astype(np.float32) / 4}


@FEW
@given(
    lead=st.lists(st.sampled_from([1, 2, 3, 5, 33]), max_size=2),
    k=st.sampled_from([1, 2, 7, 8, 9, 63, 64, 65, 127, 200, 2113]),
    channels=st.sampled_from([1, 2, 7, 8, 9, 31, 32, 33, 70, 131]),
    dtype=st.sampled_from([np.float32, np.int8]),
    sign=st.booleans(),
    seed=st.integers(0, 999),
)
def test_products(level: str, lead: list[int], k: int, channels: int, dtype: type, sign: bool, seed: int) -> None:
    rng = np.random.default_rng(seed)
    inputs = {
        "x": numbers(rng, dtype, *lead, k),
        "weights": bits.pack(rng.normal(size=(channels, k))),
        **epilogue(rng, channels, sign),
    }
    running.agree("BinaryGemmSign" if sign else "BinaryGemm", inputs, {"k": k}, constants=["weights"])


@FEW
@given(data=st.data(), sign=st.booleans(), dtype=st.sampled_from([np.float32, np.int8]))
def test_convolutions(level: str, data: st.DataObject, sign: bool, dtype: type) -> None:
    rng = np.random.default_rng(data.draw(st.integers(0, 999)))
    group = data.draw(st.sampled_from([1, 1, 2, 3]))
    channels = data.draw(st.sampled_from([1, 3, 8, 31, 64, 65, 130]))
    filters = group * data.draw(st.sampled_from([1, 3, 4, 5, 66]))
    kernel = [data.draw(st.integers(1, 4)) for _ in range(2)]
    dilations = [data.draw(st.integers(1, 2)) for _ in range(2)]
    pads = [data.draw(st.integers(0, 3)) for _ in range(4)]
    strides = [data.draw(st.integers(1, 3)) for _ in range(2)]
    least = [max(1, (kernel[a] - 1) * dilations[a] + 1 - pads[a] - pads[a + 2]) for a in range(2)]
    sizes = [least[a] + data.draw(st.sampled_from([0, 1, 2, 5, 11])) for a in range(2)]
    inputs = {
        "x": numbers(rng, dtype, data.draw(st.integers(1, 3)), group * channels, *sizes),
        "weights": bits.pack_filters(rng.normal(size=(filters, channels, *kernel))),
        **epilogue(rng, filters, sign),
    }
    attributes = {"channels": channels, "group": group, "strides": strides, "pads": pads, "dilations": dilations}
    running.agree("BinaryConvSign" if sign else "BinaryConv", inputs, attributes, constants=["weights"], threads=2)


@pytest.mark.parametrize("dtype", [np.float32, np.int8])
@pytest.mark.parametrize("across", [1, 2, 3])
def test_windows_of_one_tap(across: int, dtype: type) -> None:
    """Without padding they have kernels of their own, that take 16 pixels at once: every size around their limits."""
    rng = np.random.default_rng(across)
    channels = itertools.cycle([1, 63, 64, 65, 31, 33, 128, 97])
    filters, batch = itertools.cycle([1, 3, 4, 9, 66]), itertools.cycle([1, 2, 1, 0, 1, 1, 3])
    for width in (1, 2, 14, 15, 16, 17, 18, 30, 31, 32, 33, 34, 47, 65, 129, 130, 131, 199):
        x = numbers(rng, dtype, next(batch), next(channels), int(rng.integers(1, 5)), width)
        _one_tap(rng, x, next(filters), 1, [int(rng.integers(1, 3)), across], [0] * 4, bool(rng.integers(2)))


@FEW
@given(data=st.data(), dtype=st.sampled_from([np.float32, np.int8]))
def test_windows_of_one_tap_in_groups(level: str, data: st.DataObject, dtype: type) -> None:
    """The near miss is a padding of one pixel on one side."""
    rng = np.random.default_rng(data.draw(st.integers(0, 999)))
    group, channels = data.draw(st.sampled_from([1, 3])), data.draw(st.sampled_from([1, 7, 32, 65]))
    x = numbers(rng, dtype, data.draw(st.integers(1, 2)), group * channels, 5, data.draw(st.sampled_from([1, 16, 35])))
    pads = data.draw(st.sampled_from([[0, 0, 0, 0], [0, 0, 0, 1]]))
    strides = [data.draw(st.integers(1, 3)) for _ in range(2)]
    _one_tap(rng, x, group * data.draw(st.sampled_from([1, 4, 66])), group, strides, pads, data.draw(st.booleans()))


def _one_tap(
    rng: np.random.Generator, x: np.ndarray, filters: int, group: int, strides: list[int], pads: list[int], sign: bool
) -> None:
    channels = x.shape[1] // group
    inputs = {
        "x": x,
        "weights": bits.pack_filters(rng.normal(size=(filters, channels, 1, 1))),
        **epilogue(rng, filters, sign),
    }
    attributes = {"channels": channels, "group": group, "strides": strides, "pads": pads, "dilations": [2, 1]}
    running.agree("BinaryConvSign" if sign else "BinaryConv", inputs, attributes, constants=["weights"], threads=2)


def test_a_scale_and_a_bias_round_as_the_reference_does(level: str) -> None:
    rng = np.random.default_rng(0)
    x, filters = rng.normal(size=(1, 70, 9, 9)).astype(np.float32), rng.normal(size=(37, 70, 3, 3))
    scale, bias = rng.normal(size=(2, 37)).astype(np.float32)
    inputs = {"x": x, "weights": bits.pack_filters(filters), "scale": scale, "bias": bias}
    attributes = {**runtime_ops.operators()["BinaryConv"].attributes, "channels": 70, "pads": [1, 1, 1, 1]}
    running.agree("BinaryConv", inputs, attributes, constants=["weights"], function=False)
    # A sum of up to 630 products that the function rounds one by one if the scale went into the weights.
    running.agree("BinaryConv", inputs, attributes, constants=["weights"], atol=630 * 2.0**-24 * 630, rtol=1e-6)
    one_tap = {**inputs, "weights": bits.pack_filters(filters[:, :, :1, :1])}
    running.agree("BinaryConv", one_tap, {**attributes, "pads": [0] * 4}, constants=["weights"], function=False)
    rows = {"x": rng.normal(size=(5, 70)).astype(np.float32), "weights": bits.pack(filters[:, :, 0, 0])}
    running.agree("BinaryGemm", {**rows, "scale": scale, "bias": bias}, {"k": 70}, constants=["weights"])


@pytest.mark.parametrize("shape", [(0, 70), (3, 0, 70)])
def test_nothing_gives_nothing(shape: tuple[int, ...]) -> None:
    inputs = {"x": np.zeros(shape, np.float32), "weights": bits.pack(np.ones((5, 70))), "threshold": np.zeros(5, "f4")}
    assert running.agree("BinaryGemmSign", inputs, {"k": 70}, constants=["weights"])[0].shape == (*shape[:-1], 5)


def test_no_image_and_no_products() -> None:
    inputs = {
        "x": np.zeros((0, 3, 5, 5), np.float32),
        "weights": bits.pack_filters(np.ones((4, 3, 3, 3))),
        "scale": np.ones(4, np.float32),
        "bias": np.ones(4, np.float32),
    }
    attributes = {**runtime_ops.operators()["BinaryConv"].attributes, "channels": 3}
    assert running.agree("BinaryConv", inputs, attributes, constants=["weights"])[0].shape == (0, 4, 3, 3)
    none = {"x": np.zeros((2, 0), "f4"), "weights": bits.pack(np.ones((3, 0))), "threshold": np.array([-1, 0, 1], "f4")}
    assert running.agree("BinaryGemmSign", none, {"k": 0}, constants=["weights"])[0].tolist() == [[1, -1, -1]] * 2


def test_padding_adds_nothing() -> None:
    """All weights and inputs +1: a corner of a 3x3 window sees 4 places, an edge 6, the rest 9."""
    inputs = {
        "x": np.ones((1, 2, 4, 5), np.float32),
        "weights": bits.pack_filters(np.ones((1, 2, 3, 3))),
        "scale": np.ones(1, np.float32),
        "bias": np.zeros(1, np.float32),
    }
    attributes = {**runtime_ops.operators()["BinaryConv"].attributes, "channels": 2, "pads": [1, 1, 1, 1]}
    (y,) = running.agree("BinaryConv", inputs, attributes, constants=["weights"])
    assert y[0, 0].tolist() == [[8, 12, 12, 12, 8], *[[12, 18, 18, 18, 12]] * 2, [8, 12, 12, 12, 8]]


def test_bits_beyond_the_last_do_not_count(level: str) -> None:
    packed = bits.pack(np.full((3, 5), -1)) | 0b11100000
    inputs = {"x": np.ones((2, 5), np.float32), "weights": packed, "threshold": np.full(3, -4.5, np.float32)}
    (y,) = running.agree("BinaryGemmSign", inputs, {"k": 5}, constants=["weights"])
    assert (y == -1).all()  # each sum is -5


def test_sizes_may_be_symbols(level: str) -> None:
    rng = np.random.default_rng(1)
    x, weights = rng.normal(size=(2, 3, 6, 7)).astype(np.float32), bits.pack_filters(rng.normal(size=(5, 3, 3, 2)))
    attributes = {**runtime_ops.operators()["BinaryConvSign"].attributes, "channels": 3, "strides": [2, 1]}
    inputs = {"x": x, "weights": weights, "threshold": np.zeros(5, np.float32)}
    running.agree("BinaryConvSign", inputs, attributes, constants=["weights"], symbolic=True)
    rows = {"x": x, "weights": bits.pack(rng.normal(size=(4, 7))), "threshold": np.zeros(4, np.float32)}
    running.agree("BinaryGemmSign", rows, {"k": 7}, constants=["weights"], symbolic=True)


@pytest.mark.parametrize("opset", [18, 21, 25])
def test_definitions_run_in_every_opset(opset: int) -> None:
    rng = np.random.default_rng(2)
    rows = {"x": rng.normal(size=(3, 9)), "weights": bits.pack(rng.normal(size=(4, 9))), "threshold": np.zeros(4)}
    rows = {name: array.astype(np.float32) if name != "weights" else array for name, array in rows.items()}
    running.agree("BinaryGemmSign", rows, {"k": 9}, constants=["weights"], opset=opset)


def wrong(op: str, inputs: dict[str, np.ndarray], attributes: dict[str, Any], message: str, **more: Any) -> None:
    model = running.ops_model(op, inputs, attributes, **{"constants": ["weights"], "symbolic": True, **more})
    with pytest.raises(Exception, match=message):
        running.run(model, inputs)


def test_errors_say_what_is_wrong() -> None:
    ones = np.ones(4, np.float32)
    rows = {"x": np.ones((3, 9), np.float32), "weights": bits.pack(np.ones((4, 9))), "threshold": ones}
    wrong("BinaryGemmSign", rows, {"k": 9}, "must be a constant", constants=[])
    wrong("BinaryGemmSign", rows, {"k": 17}, "17 numbers need 3")
    wrong("BinaryGemmSign", {**rows, "x": np.ones((3, 10), np.float32)}, {"k": 9}, "10 numbers in its last axis")
    wrong("BinaryGemmSign", {**rows, "threshold": ones[:3]}, {"k": 9}, "threshold .input 2. must have one axis of 4")
    image = {"x": np.ones((1, 3, 5, 5), np.float32), "weights": bits.pack_filters(np.ones((4, 3, 3, 3)))}
    defaults = runtime_ops.operators()["BinaryConvSign"].attributes
    good = {**defaults, "channels": 3}
    wrong("BinaryConvSign", {**image, "threshold": ones[:1]}, good, "one axis of 4")
    wrong("BinaryConvSign", {**image, "threshold": ones}, {**good, "strides": [0, 1]}, "strides must be 1 or more")
    wrong("BinaryConvSign", {**image, "threshold": ones}, {**good, "pads": [1, 1]}, "pads must hold 4 numbers")
    many = {**image, "x": np.ones((1, 6, 5, 5), np.float32), "threshold": ones}
    wrong("BinaryConvSign", many, good, "6 channels, the weights want 3")
    wrong("BinaryConvSign", many, {**good, "group": 3}, "no multiple of group")


def test_a_batch_norm_and_a_sign_are_a_threshold() -> None:
    """Of every sum that can occur, with gammas of both signs and of zero: what the float formula says in float64."""
    rng = np.random.default_rng(3)
    gain, offset = rng.normal(size=(2, 40))
    gain[:4], offset[4:8] = 0, 0
    k = 33
    limit, flip = bits.thresholds(gain, offset)
    possible = np.arange(-k, k + 1, 2)
    for channel in range(40):
        found = np.where(possible * (-1 if flip[channel] else 1) > limit[channel], 1, -1)
        assert (found == np.where(gain[channel] * possible + offset[channel] > 0, 1, -1)).all()
    weights = rng.normal(size=(40, k))
    x = rng.normal(size=(6, k)).astype(np.float32)
    flipped = product(x, bits.pack(np.where(flip[:, None], -np.sign(weights), weights)), k)
    assert (flipped == product(x, bits.pack(weights), k) * np.where(flip, -1, 1)).all()


def test_the_reference_is_a_convolution_of_signs() -> None:
    """The reference against torch-free arithmetic: one output, by hand."""
    x = np.array([[[[1, -2], [0, 3]]]], np.float32)
    weights = bits.pack_filters(np.array([[[[1, 1], [1, -1]]]]))
    assert sums(x, weights, 1, 1, [1, 1], [0, 0, 0, 0], [1, 1]).tolist() == [[[[1 - 1 - 1 - 1]]]]


@pytest.mark.parametrize("shape", [(7, 9), (2, 3, 64), (1, 65)])
def test_bits_survive_packing(shape: tuple[int, ...]) -> None:
    numbers = np.random.default_rng(4).choice([-1, 1], shape).astype(np.int8)
    packed = bits.pack(numbers)
    assert packed.dtype == np.uint8 and packed.shape == (*shape[:-1], -(-shape[-1] // 8))
    assert (bits.unpack(packed, shape[-1]) == numbers).all()
