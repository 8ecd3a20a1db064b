"""MaskedLayerNorm: kernel = function = numpy, and the LayerNorm of the row that still has all its positions."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt import runtime
from graphopt.errors import GraphoptError
from tests.runtime_ops import running

REFUSALS = (GraphoptError, RuntimeError)
TYPES = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}

# Sums of floats in another order: a few units of the last place of the largest term. Halves are rounded once, at the
# end, so that a neighbour may be the result: a unit of theirs.
TOLERANCES = {"float32": (4e-6, 1e-5), "float16": (2**-10, 2**-13), "bfloat16": (2**-7, 2**-10)}


def case(shape: tuple[int, ...], kind: str = "float32", seed: int = 0, *, one: bool = False) -> dict[str, np.ndarray]:
    """Inputs whose mean is not zero."""
    rng = np.random.default_rng(seed)
    parameters = (1,) if one else shape[-1:]
    return {
        "x": (rng.normal(size=shape) * 2 + rng.normal()).astype(TYPES[kind]),
        "scale": rng.uniform(0.2, 2, parameters).astype(TYPES[kind]),
        "bias": rng.normal(size=parameters).astype(TYPES[kind]),
    }


def check(inputs: dict[str, np.ndarray], kind: str = "float32", **attributes: float) -> np.ndarray:
    """All three agree within the type's tolerance."""
    rtol, atol = TOLERANCES[kind]
    constants = ("scale", "bias")
    return running.agree("MaskedLayerNorm", inputs, attributes, constants=constants, rtol=rtol, atol=atol)[0]


@settings(max_examples=60, deadline=None)
@given(
    shape=st.lists(st.sampled_from([0, 1, 2, 3, 5, 7]), max_size=2),
    size=st.sampled_from([0, 1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 33, 63, 64, 65, 97, 131]),
    kind=st.sampled_from(sorted(TYPES)),
    missing=st.sampled_from([0, 1, 2, 13, 1000]),
    fill=st.sampled_from([0.0, 0.5, -3.0]),
    spread=st.sampled_from([0.0, 0.25]),
    one=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_all_three_agree(
    shape: list[int], size: int, kind: str, missing: int, fill: float, spread: float, one: bool, seed: int
) -> None:
    inputs = case((*shape, size), kind, seed, one=one)
    check(inputs, kind, missing=missing, fill=fill, spread=spread, epsilon=1e-3)


@pytest.mark.parametrize("kind", sorted(TYPES))
@pytest.mark.parametrize("size", [1, 6, 16, 41, 96, 130, 768])
def test_every_set_of_instructions(level: str, kind: str, size: int) -> None:
    check(case((3, size), kind), kind, missing=size, fill=0.25, epsilon=1e-5)


@pytest.mark.parametrize(("fills", "kept"), [([0.0] * 40, 56), ([0.5, 0.5, 0.5], 13), ([-1.0, 2.0, 0.0, 7.0], 5)])
def test_it_is_the_layer_norm_of_all_positions(level: str, fills: list[float], kept: int) -> None:
    rng = np.random.default_rng(0)
    inputs = case((9, kept))
    missing = np.array(fills, np.float32)
    whole = np.concatenate([inputs["x"], np.broadcast_to(missing, (9, missing.size))], 1)
    order = rng.permutation(whole.shape[1])
    mean, variance = whole.mean(1, keepdims=True), whole.var(1, keepdims=True)
    normal = ((whole - mean) / np.sqrt(variance + 1e-5))[:, order]
    expected = normal[:, np.argsort(order)][:, :kept] * inputs["scale"] + inputs["bias"]
    spread = missing.var() * missing.size / whole.shape[1]
    found = check(inputs, missing=missing.size, fill=float(missing.mean()), spread=float(spread), epsilon=1e-5)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    forgotten = check(inputs, missing=missing.size - 1, fill=float(missing.mean()), spread=float(spread), epsilon=1e-5)
    assert np.abs(forgotten - expected).max() > 1e-4  # the near miss: one position less


def test_a_large_mean_does_not_swallow_the_variance(level: str) -> None:
    inputs = case((4, 100))
    inputs["x"] += 1000
    rtol, atol = 1e-4, 1e-3  # x itself is known to 2^-14 only
    running.agree("MaskedLayerNorm", inputs, {"missing": 0}, rtol=rtol, atol=atol)


def test_threads_share_the_rows() -> None:
    inputs = case((700, 130))
    rtol, atol = TOLERANCES["float32"]
    running.agree("MaskedLayerNorm", inputs, {"missing": 62}, rtol=rtol, atol=atol, threads=2, function=False)


@pytest.mark.parametrize("opset", [18, 21, 25])
def test_opsets_and_symbols(opset: int) -> None:
    rtol, atol = TOLERANCES["float32"]
    running.agree("MaskedLayerNorm", case((2, 3, 5)), {"missing": 3}, rtol=rtol, atol=atol, opset=opset, symbolic=True)


def test_attributes_have_defaults() -> None:
    inputs = case((3, 8))
    (found,) = running.agree("MaskedLayerNorm", inputs, {}, rtol=4e-6, atol=1e-5)
    x = inputs["x"]
    normal = (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + 1e-5)
    np.testing.assert_allclose(found, normal * inputs["scale"] + inputs["bias"], rtol=1e-5, atol=1e-5)


def test_it_may_write_where_it_reads() -> None:
    inputs = case((3, 50))
    model = running.ops_model("MaskedLayerNorm", inputs, {"missing": 14})
    (first,) = running.run(model, inputs)
    (again,) = running.run(model, inputs)
    np.testing.assert_array_equal(first, again)  # the caller's array is not written to
    np.testing.assert_array_equal(inputs["x"], case((3, 50))["x"])


@pytest.mark.parametrize(
    ("change", "attributes", "says"),
    [
        ({"scale": np.ones(4, np.float32)}, {}, "scale (input 1) must be [K] or [1]"),
        ({"bias": np.ones(6, np.float32)}, {}, "bias (input 2) must be [K] or [1]"),
        ({}, {"missing": -1}, "missing must not be negative"),
    ],
)
def test_refusals_say_what_is_wrong(change: dict[str, np.ndarray], attributes: dict[str, int], says: str) -> None:
    inputs = {**case((3, 5)), **change}
    model = running.ops_model("MaskedLayerNorm", inputs, attributes, symbolic=True)
    with pytest.raises(REFUSALS) as caught:
        runtime.run(running.open_session(model), inputs)
    assert says in str(caught.value)


def test_the_kernel_is_taken(tmp_path: Path) -> None:
    model = running.ops_model("MaskedLayerNorm", case((3, 5)), {"missing": 2})
    assert running.taken(model, tmp_path) == ["graphopt.MaskedLayerNorm"]
