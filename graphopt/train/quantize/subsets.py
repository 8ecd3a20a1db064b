"""The filters of a layer in disjoint subsets that together are all of them, and whose sizes differ by at most one."""

from __future__ import annotations

import itertools

import numpy as np


def number(components: int, iterations: int) -> int:
    """Return how many subsets there are: ``iterations`` (0: one a component), but none is empty."""
    return components if not iterations else min(components, iterations)


def divided(order: np.ndarray, subsets: int) -> list[np.ndarray]:
    """Return the components in so many subsets: the first of ``order`` in the first one, and so on.

    Args:
        order: ``[n]`` int64, every number from 0 to n - 1 once.
        subsets: From 1 to n; 0 where n is 0.

    Raises:
        ValueError: ``order`` leaves a component out; there would be an empty subset.
    """
    if not np.array_equal(np.sort(order), np.arange(len(order))):
        raise ValueError("an order has every component once")
    if not min(len(order), 1) <= subsets <= len(order):
        raise ValueError(f"{subsets} subsets of {len(order)} components")
    return np.array_split(order, subsets) if subsets else []


def shares(total: int, subsets: int) -> list[int]:
    """Return how many of ``total`` steps each subset gets: they sum up to it, and differ by at most one."""
    ends = [total * each // subsets for each in range(subsets + 1)] if subsets else []
    return [after - before for before, after in itertools.pairwise(ends)]
