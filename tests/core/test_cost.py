"""The cost model orders two ways of doing the same thing as the machine does."""

from __future__ import annotations

import numpy as np
import pytest

from graphopt.plan.cost import CostModel

COSTS = CostModel()


def test_channels_come_in_blocks() -> None:
    widths = np.array([33, 36, 48, 60, 64])
    a33, a36, a48, a60, a64 = COSTS.convolution(widths, widths, 9, 28 * 28)
    assert a36 == a48 < a60 == a64
    assert a33 < a36  # an image-to-column product fills nothing up


def test_one_channel_more_may_be_faster() -> None:
    # 47 inputs leave the blocked layout, 48 do not.
    assert COSTS.convolution(48, 48, 9, 784) < COSTS.convolution(47, 47, 9, 784)


@pytest.mark.parametrize("width", [0, 1, 7])
def test_costs_are_positive_and_grow(width: int) -> None:
    assert 0 < float(COSTS.convolution(width, 32, 9, 100)) < float(COSTS.convolution(64, 32, 9, 100))
    assert 0 < float(COSTS.product(width, 32, 100)) < float(COSTS.product(64, 32, 100))
    assert 0 < float(COSTS.depthwise(width, 9, 100)) < float(COSTS.depthwise(64 + width, 9, 100))
    assert 0 < COSTS.gather(width, 10, 10) <= COSTS.gather(width + 1, 10, 10)
    assert COSTS.scatter(width, 10, 10) > COSTS.gather(width, 10, 10)


def test_along_the_last_axis_every_element_is_copied_by_itself() -> None:
    assert COSTS.gather(64, 100, 1) > 10 * COSTS.gather(64, 100, 100)
