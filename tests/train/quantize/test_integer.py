"""Requantization: one multiplication and a shift are the exact quotient, rounded, halves to even."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphopt.errors import ModelError
from graphopt.train.quantize import integer
from graphopt.train.quantize.integer import Sums

INT32 = st.integers(-(2**31), 2**31 - 1)


@given(st.integers(-(2**62), 2**62), st.integers(1, 62))
def test_a_shift_rounds_halves_to_even(number, by):
    assert int(integer._shifted(np.array(number), by)) == round(Fraction(number, 2**by))


@given(st.lists(INT32, min_size=1, max_size=5), st.floats(1e-9, 1e3), st.integers(0, 255))
def test_one_term_is_right_within_a_step(numbers, ratio, zero):
    scale = np.array(0.37, np.float32)
    own = float(scale) * ratio
    found = Sums(((np.array(numbers, np.int32), np.array(own, np.float64)),)).levels(
        scale, np.array(zero), np.dtype(np.uint8)
    )
    for number, q in zip(numbers, found, strict=True):
        exact = Fraction(number) * Fraction(own) / Fraction(float(scale)) + zero
        assert abs(int(q) - min(max(exact, 0), 255)) <= Fraction(1, 2) + Fraction(1, 1000)


@given(INT32, INT32, st.floats(1e-4, 10), st.floats(1e-4, 10), st.booleans())
def test_two_terms_are_added_before_they_are_rounded(a, b, first, second, rectified):
    terms = (
        (np.array([a], np.int32), np.array(first, np.float64)),
        (np.array([b], np.int32), np.array(second, np.float64)),
    )
    found = Sums(terms, 0.0 if rectified else -np.inf).levels(np.array(4e7, np.float32), np.array(0), np.dtype(np.int8))
    exact = (a * Fraction(first) + b * Fraction(second)) / Fraction(float(np.float32(4e7)))
    exact = max(exact, Fraction(0)) if rectified else exact
    assert abs(int(found[0]) - min(max(exact, -128), 127)) <= Fraction(1, 2) + Fraction(1, 1000)


def test_what_is_cut_off_is_cut_off_before_it_is_rounded():
    numbers = np.array([-9, -1, 0, 3, 5, 7, 9], np.int32)
    found = Sums(((numbers, np.array(1, np.float64)),), 0.0, 6.0).levels(
        np.array(4, np.float32), np.array(10), np.dtype(np.uint8)
    )
    assert found.tolist() == [10, 10, 10, 11, 11, 12, 12]  # 6 / 4 is a half, and goes to the even 2
    assert Sums(((numbers, np.array(1, np.float64)),), 0.0, 6.0).numbers().tolist() == [0, 0, 0, 3, 5, 6, 6]


def test_channels_have_multipliers_of_their_own():
    numbers = np.array([[[100]], [[100]]], np.int32).reshape(1, 2, 1)
    found = Sums(((numbers, np.array([0.01, 0.5])),)).levels(np.array(1, np.float32), np.array(3), np.dtype(np.uint8))
    assert found.reshape(-1).tolist() == [4, 53]


def test_a_scale_that_holds_nothing_is_an_error():
    with pytest.raises(ModelError, match="too small"):
        Sums(((np.ones(1, np.int32), np.array(1.0, np.float64)),)).levels(
            np.array(1e-20, np.float32), np.array(0), np.dtype(np.uint8)
        )
