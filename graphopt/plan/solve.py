"""The least sum of small tables: which value each variable takes.

Every *variable* has a few values; every *table* says what each combination of values of some variables costs. The sum
is minimised by eliminating one variable after the other (bucket elimination, also called non-serial dynamic
programming: Bertelè and Brioschi 1972; Dechter 1999): a variable's tables are added up, its best value is found for
every combination of its neighbours, and the result is a table of the neighbours. That is exact, and linear for chains
and for streams with branches, whose tables stay small. Where a table would grow beyond ``limit``, the variable with
the most neighbours is fixed at its present value instead, and the fixed ones are improved one at a time afterwards.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

LIMIT = 1 << 14
"""Entries of the largest table that elimination may make."""


@dataclass(frozen=True, slots=True)
class Table:
    """What the combinations of some variables' values cost: ``costs[value of scope[0], value of scope[1], …]``."""

    scope: tuple[int, ...]
    costs: np.ndarray


def minimise(sizes: Sequence[int], tables: Sequence[Table], limit: int = LIMIT) -> list[int]:
    """Return a value for each variable that makes the sum of the tables least.

    Args:
        sizes: the number of values of each variable, at least one.
        tables: their scopes name variables without repetition.
        limit: entries of the largest table that may be made; the result is the exact minimum where that suffices.
    """
    fixed: dict[int, int] = {}
    while True:
        blocking = _too_wide(sizes, tables, fixed, limit)
        if blocking is None:
            break
        fixed[blocking] = 0
    values = _eliminate(sizes, tables, fixed)
    return _improve(sizes, tables, values, sorted(fixed)) if fixed else values


def total(tables: Sequence[Table], values: Sequence[int]) -> float:
    """Return what an assignment costs."""
    return float(sum(table.costs[tuple(values[v] for v in table.scope)] for table in tables))


def _too_wide(sizes: Sequence[int], tables: Sequence[Table], fixed: dict[int, int], limit: int) -> int | None:
    """Return the variable to fix before elimination can go on with tables of ``limit`` entries; ``None`` if it can."""
    neighbours = _neighbours(sizes, tables, fixed)
    for variable in _Order(sizes, neighbours):
        around = neighbours[variable]
        entries = sizes[variable]
        for other in around:
            entries *= sizes[other]
        if entries > limit:
            return max((variable, *around), key=lambda v: (len(neighbours[v]), -v))
        _join(neighbours, variable)
    return None


def _neighbours(sizes: Sequence[int], tables: Sequence[Table], fixed: dict[int, int]) -> list[set[int]]:
    neighbours: list[set[int]] = [set() for _ in sizes]
    for table in tables:
        free = [v for v in table.scope if v not in fixed]
        for variable in free:
            neighbours[variable].update(free)
            neighbours[variable].discard(variable)
    return neighbours


class _Order:
    """Variables by the number of their neighbours, looked at anew after each is taken."""

    def __init__(self, sizes: Sequence[int], neighbours: list[set[int]]) -> None:
        self.neighbours = neighbours
        self.left = set(range(len(sizes)))
        self.heap = [(len(neighbours[v]), v) for v in self.left]
        heapq.heapify(self.heap)

    def __iter__(self) -> _Order:
        return self

    def __next__(self) -> int:
        while self.heap:
            degree, variable = heapq.heappop(self.heap)
            if variable not in self.left:
                continue
            if degree != len(self.neighbours[variable]):
                heapq.heappush(self.heap, (len(self.neighbours[variable]), variable))
                continue
            self.left.discard(variable)
            return variable
        raise StopIteration


def _join(neighbours: list[set[int]], variable: int) -> None:
    """Take a variable out; its neighbours now see one another."""
    around = neighbours[variable]
    for other in around:
        neighbours[other] |= around
        neighbours[other] -= {other, variable}


def _eliminate(sizes: Sequence[int], tables: Sequence[Table], fixed: dict[int, int]) -> list[int]:
    buckets: list[list[Table]] = [[] for _ in sizes]
    for table in tables:
        reduced = _at(table, fixed)
        for variable in reduced.scope:
            buckets[variable].append(reduced)
    neighbours = _neighbours(sizes, tables, fixed)
    done: set[int] = set()
    chosen: list[tuple[int, tuple[int, ...], np.ndarray]] = []
    for variable in _Order(sizes, neighbours):
        if variable in fixed:
            continue
        around = tuple(sorted(neighbours[variable]))
        scope = (*around, variable)
        costs = np.zeros([sizes[v] for v in scope])
        for table in buckets[variable]:
            if not done.intersection(table.scope):
                costs = costs + _spread(table, scope)
        best = costs.argmin(axis=-1)
        chosen.append((variable, around, best))
        done.add(variable)
        if around:
            result = Table(around, costs.min(axis=-1))
            for other in around:
                buckets[other].append(result)
        _join(neighbours, variable)
    values = [fixed.get(v, 0) for v in range(len(sizes))]
    for variable, around, best in reversed(chosen):
        values[variable] = int(best[tuple(values[v] for v in around)])
    return values


def _at(table: Table, fixed: dict[int, int]) -> Table:
    """Return the table with the fixed variables at their values."""
    if not any(v in fixed for v in table.scope):
        return table
    index = tuple(fixed.get(v, slice(None)) for v in table.scope)
    return Table(tuple(v for v in table.scope if v not in fixed), np.asarray(table.costs[index]))


def _spread(table: Table, scope: tuple[int, ...]) -> np.ndarray:
    """Return the costs with one axis for every variable of ``scope``."""
    order = sorted(range(len(table.scope)), key=lambda i: scope.index(table.scope[i]))
    costs = np.transpose(table.costs, order)
    shape = [1] * len(scope)
    for place, i in enumerate(order):
        shape[scope.index(table.scope[i])] = costs.shape[place]
    return costs.reshape(shape)


def _improve(sizes: Sequence[int], tables: Sequence[Table], values: list[int], fixed: list[int]) -> list[int]:
    """Try the other values of the fixed variables, each with the rest as it is, until none is better."""
    near: dict[int, list[Table]] = {v: [] for v in range(len(sizes))}
    for table in tables:
        for variable in table.scope:
            near[variable].append(table)
    improved = True
    while improved:
        improved = False
        for variable in (*fixed, *range(len(sizes))):
            before = total(near[variable], values)
            for value in range(sizes[variable]):
                trial = [*values]
                trial[variable] = value
                cost = total(near[variable], trial)
                if cost < before * (1 - 1e-12) - 1e-12:
                    values, before, improved = trial, cost, True
    return values


__all__ = ["LIMIT", "Table", "minimise", "total"]
