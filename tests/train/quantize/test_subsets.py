"""Subsets are disjoint and complete, and their sizes differ by at most one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphopt.train.quantize import subsets


@given(st.integers(0, 101), st.one_of(st.just(0), st.integers(5, 40)), st.randoms(use_true_random=False))
def test_subsets_are_disjoint_complete_and_even(components, iterations, chance):
    order = list(range(components))
    chance.shuffle(order)
    found = subsets.divided(np.array(order, np.int64), subsets.number(components, iterations))
    assert np.array_equal(np.concatenate([np.zeros(0, np.int64), *found]), order)  # complete, in order, none twice
    assert all(len(one) for one in found)
    assert not found or max(map(len, found)) - min(map(len, found)) <= 1
    assert len(found) == (min(components, iterations) if iterations else components)


@pytest.mark.parametrize(("components", "expected"), [(0, []), (1, [1]), (7, [2, 2, 1, 1, 1]), (13, [3, 3, 3, 2, 2])])
def test_sizes(components, expected):
    found = subsets.divided(np.arange(components), subsets.number(components, 5))
    assert [len(one) for one in found] == expected


@pytest.mark.parametrize(("order", "number"), [([0, 2], 1), ([0, 0], 1), ([0, 1], 3), ([0, 1], 0), ([], 1)])
def test_what_is_no_division_is_refused(order, number):
    with pytest.raises(ValueError, match=r"order|subsets"):
        subsets.divided(np.array(order, np.int64), number)


@given(st.integers(0, 10_000), st.integers(1, 300))
def test_steps_are_shared_out_evenly(total, number):
    found = subsets.shares(total, number)
    assert sum(found) == total and len(found) == number and max(found) - min(found) <= 1


def test_nobody_gets_nothing():
    assert subsets.shares(7, 0) == []
