"""Rows that a weight is multiplied with: a convolution is their product, whatever its geometry."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from graphopt import model as models
from graphopt import runtime
from graphopt.calibrate.patches import Window, flat, patches
from tests.ops.net import Net

GEOMETRIES = [
    ((3, 3), 1, {"pads": [1, 1, 1, 1]}),
    ((3, 1), 2, {"pads": [0, 2, 1, 0], "strides": [2, 1]}),
    ((2, 3), 3, {"dilations": [3, 2], "strides": [2, 3]}),
    ((5,), 6, {"pads": [2, 1], "strides": [2]}),
    ((3, 2), 1, {"auto_pad": "SAME_UPPER", "strides": [2, 3]}),
    ((3, 2), 1, {"auto_pad": "SAME_LOWER", "strides": [1, 2]}),
    ((3, 3), 1, {"auto_pad": "VALID"}),
    ((1, 1), 1, {}),
    ((2, 2, 2), 2, {"pads": [1, 0, 0, 0, 1, 1]}),
]


def window(kernel: tuple[int, ...], groups: int, attributes: dict[str, Any]) -> Window:
    rank = len(kernel)
    return Window(
        kernel,
        tuple(attributes.get("strides", [1] * rank)),
        tuple(attributes.get("dilations", [1] * rank)),
        tuple(attributes.get("pads", [0] * 2 * rank)),
        attributes.get("auto_pad", "NOTSET"),
        groups,
    )


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize(("kernel", "groups", "attributes"), GEOMETRIES)
def test_a_convolution_is_the_product_with_its_patches(
    kernel: tuple[int, ...], groups: int, attributes: dict[str, Any], batch: int
) -> None:
    net = Net()
    weight = net.normal(12, 6 // groups, *kernel)
    net_input = net.input("x", "N", 6, *([7] * len(kernel)))
    model = models.load(net.model(net("Conv", net_input, weight, group=groups, **attributes)))
    x = np.random.default_rng(0).normal(size=(batch, 6, *([7] * len(kernel)))).astype(np.float32)
    (expected,) = runtime.run(runtime.session(model), {"x": x})
    rows = np.concatenate(list(patches(x, window(kernel, groups, attributes), positions=0)), axis=1)
    found = np.einsum("gnk,gok->gno", rows, weight.reshape(groups, 12 // groups, -1))
    found = found.reshape(groups, batch, -1, 12 // groups).transpose(1, 0, 3, 2).reshape(expected.shape)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_the_same_patches_of_every_sample() -> None:
    x = np.random.default_rng(0).normal(size=(5, 2, 9, 9)).astype(np.float32)
    small = window((3, 3), 1, {})
    whole = np.concatenate(list(patches(x, small, positions=11)), axis=1)
    assert whole.shape == (1, 5 * 11, 18)
    each = [row for one in x for row in patches(one[None], small, positions=11)]
    assert np.array_equal(np.concatenate(each, axis=1), whole)


def test_near_miss_few_patches_are_all_taken() -> None:
    x = np.zeros((3, 2, 5, 5), np.float32)
    assert sum(part.shape[1] for part in patches(x, window((3, 3), 1, {}), positions=9)) == 27
    assert sum(part.shape[1] for part in patches(x, window((3, 3), 1, {}), positions=8)) == 24


def test_nothing() -> None:
    small = window((3, 3), 1, {})
    assert list(patches(np.zeros((0, 2, 5, 5), np.float32), small)) == []
    assert list(patches(np.zeros((2, 2, 2, 5), np.float32), small)) == []
    assert list(flat(np.zeros((0, 5)))) == [] and list(flat(np.zeros((3, 0, 5)))) == []


def test_rows_of_a_product() -> None:
    x = np.arange(2 * 3 * 5.0).reshape(2, 3, 5)
    (rows,) = flat(x)
    assert np.array_equal(rows, x.reshape(1, 6, 5))
    (some,) = flat(x, positions=2)
    assert some.shape == (1, 4, 5) and np.array_equal(some[0, :2] + 15, some[0, 2:])
    (matrix,) = flat(x[0], positions=2)
    assert np.array_equal(matrix, x[:1])
