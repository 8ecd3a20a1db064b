"""Settings that make no sense are refused, and those next to them are not."""

from __future__ import annotations

import pytest

from graphopt.train.quantize import QuantizeSettings


@pytest.mark.parametrize(
    "wrong",
    [
        {"strategy": "neurons"}, {"order": "size"}, {"levels": 1}, {"levels": 257}, {"levels": 0}, {"activations": 1},
        {"activations": 300}, {"first_last": 1}, {"iterations": 4}, {"iterations": 1}, {"iterations": -1},
        {"samples": 0},
    ],
)  # fmt: skip
def test_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        QuantizeSettings(**wrong)


@pytest.mark.parametrize(
    "right",
    [
        {"levels": 2}, {"levels": 256}, {"levels": 23}, {"activations": 0}, {"activations": None}, {"first_last": 0},
        {"iterations": 0}, {"iterations": 5}, {"samples": 1},
    ],
)  # fmt: skip
def test_taken(right):
    QuantizeSettings(**right)


def test_levels_of_a_layer():
    usual = QuantizeSettings(levels=4)
    assert [usual.of_weights(end) for end in (False, True)] == [4, 256]
    assert [usual.of_inputs(end) for end in (False, True)] == [4, 256]
    other = QuantizeSettings(levels=4, activations=8, first_last=0)
    assert [other.of_weights(True), other.of_inputs(True), other.of_inputs(False)] == [4, 8, 8]
    assert QuantizeSettings(activations=0).of_inputs(True) == 0
