"""Random masked models with runtime operators: the same function with their library, without, and without any again.

``python -m tests.strategies.hunt --kind operators-cuda --count 500`` looks further.
"""

from __future__ import annotations

import pytest

from tests.strategies import check
from tests.strategies.graphs import build
from tests.strategies.recipe import Recipe

TARGETS = ("cpu", "cuda")
PLANS = ("smallest", "fastest")


def examine(number: int) -> dict[str, int]:
    """One model; each fourth has the same target and plan."""
    try:
        graph = build(Recipe.random(number, most=24))
        return check.with_operators(graph, TARGETS[number % 2], plan=PLANS[number // 2 % 2])
    except check.NotUsableError:
        return {}


@pytest.mark.parametrize("first", range(0, 24, 8))
def test_the_function_stays(first: int) -> None:
    for number in range(first, first + 8):
        examine(number)


@pytest.mark.long
def test_the_function_stays_of_a_thousand() -> None:
    found = [examine(number) for number in range(1000, 2000)]
    assert len({name for calls in found for name in calls}) > 1
