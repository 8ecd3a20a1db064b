"""The minimum is the minimum: compared with every combination."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt.plan.solve import Table, minimise, total


@st.composite
def problems(draw: st.DrawFn) -> tuple[list[int], list[Table]]:
    """Up to seven variables of one to four values, tables of up to three of them."""
    sizes = draw(st.lists(st.integers(1, 4), min_size=0, max_size=7))
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    tables = []
    for _ in range(draw(st.integers(0, 9)) if sizes else 0):
        width = min(len(sizes), draw(st.integers(1, 3)))
        scope = tuple(int(v) for v in rng.permutation(len(sizes))[:width])
        tables.append(Table(scope, rng.integers(0, 20, size=[sizes[v] for v in scope]).astype(float)))
    return sizes, tables


def exhaustive(sizes: list[int], tables: list[Table]) -> float:
    """The least cost of all combinations."""
    return min(total(tables, values) for values in itertools.product(*(range(size) for size in sizes)))


@settings(max_examples=300)
@given(problems())
def test_elimination_finds_the_minimum(problem: tuple[list[int], list[Table]]) -> None:
    sizes, tables = problem
    values = minimise(sizes, tables)
    assert len(values) == len(sizes) and all(0 <= value < size for value, size in zip(values, sizes, strict=True))
    assert total(tables, values) == exhaustive(sizes, tables)


@settings(max_examples=100)
@given(problems())
def test_where_tables_would_be_too_large_no_single_change_is_better(problem: tuple[list[int], list[Table]]) -> None:
    sizes, tables = problem
    values = minimise(sizes, tables, limit=4)
    cost = total(tables, values)
    for variable, size in enumerate(sizes):
        for value in range(size):
            assert total(tables, [*values[:variable], value, *values[variable + 1 :]]) >= cost


@pytest.mark.parametrize("length", [1, 2, 5_003])
def test_a_chain_is_solved_exactly_and_in_one_sweep(length: int) -> None:
    # Neighbours should differ, and the first is given: the only minimum alternates.
    tables = [Table((i, i + 1), np.array([[1.0, 0.0], [0.0, 1.0]])) for i in range(length - 1)]
    tables.append(Table((0,), np.array([0.5, 0.0])))
    assert minimise([2] * length, tables) == [1 - i % 2 for i in range(length)]


def test_a_hub_with_many_spokes() -> None:
    tables = [Table((0, i), np.array([[0.0, 3.0], [3.0, 1.0]])) for i in range(1, 200)]
    tables.append(Table((0,), np.array([1000.0, 0.0])))
    assert minimise([2] * 200, tables) == [1] * 200
