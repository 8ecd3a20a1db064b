"""Two sides at the least cost: which nodes run on integers when every border between integers and float costs.

``minimise sum over nodes of cost(node, side) + sum over borders``: a minimum cut. A node on the first side pays the
edge to the sink, one on the second side the edge from the source, and an edge ``a -> b`` is paid where ``a`` is on the
first side and ``b`` on the second.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Hashable

NEVER = math.inf
"""What must not be: an edge of this capacity is never cut."""


class Cut:
    """A network whose minimum cut is wanted (Dinic's algorithm: shortest augmenting paths, level by level)."""

    def __init__(self) -> None:
        """Start with a source and a sink, and no edge."""
        self._index: dict[Hashable, int] = {}
        self._edges: list[list[int]] = [[], []]
        self._heads: list[int] = []
        self._left: list[float] = []

    def side(self, what: Hashable, *, first: float, second: float) -> None:
        """Say what it costs to be on the first side (integers) and on the second (float)."""
        number = self._of(what)
        if second:
            self._edge(0, number, second)
        if first:
            self._edge(number, 1, first)

    def border(self, a: Hashable, b: Hashable | None, cost: float) -> None:
        """Say what it costs when ``a`` is on the first side and ``b`` is not; ``None`` is always on the second."""
        if cost:
            self._edge(self._of(a), 1 if b is None else self._of(b), cost)

    def solve(self) -> set[Hashable]:
        """Return who is on the first side: the smallest such set among those of least cost."""
        while True:
            level = self._levels()
            if level[1] < 0:
                return {what for what, number in self._index.items() if level[number] >= 0}
            self._augment(level)

    def _of(self, what: Hashable) -> int:
        number = self._index.setdefault(what, len(self._edges))
        if number == len(self._edges):
            self._edges.append([])
        return number

    def _edge(self, a: int, b: int, capacity: float) -> None:
        for tail, head, amount in ((a, b, capacity), (b, a, 0.0)):
            self._edges[tail].append(len(self._heads))
            self._heads.append(head)
            self._left.append(amount)

    def _levels(self) -> list[int]:
        level = [-1] * len(self._edges)
        level[0] = 0
        waiting = deque([0])
        while waiting:
            here = waiting.popleft()
            for edge in self._edges[here]:
                there = self._heads[edge]
                if level[there] < 0 and self._left[edge] > _NOTHING:
                    level[there] = level[here] + 1
                    waiting.append(there)
        return level

    def _augment(self, level: list[int]) -> None:
        """Fill every path along rising levels."""
        at = [0] * len(self._edges)
        path: list[int] = []
        here = 0
        while True:
            if here == 1:
                amount = min(self._left[edge] for edge in path)
                for edge in path:
                    self._left[edge] -= amount
                    self._left[edge ^ 1] += amount
                path, here = [], 0
                continue
            edges = self._edges[here]
            while at[here] < len(edges):
                edge = edges[at[here]]
                if self._left[edge] > _NOTHING and level[self._heads[edge]] == level[here] + 1:
                    break
                at[here] += 1
            if at[here] < len(edges):
                path.append(edges[at[here]])
                here = self._heads[path[-1]]
            elif path:
                here = self._heads[path.pop() ^ 1]
                at[here] += 1
            else:
                return


_NOTHING = 1e-6
"""Less than this many nanoseconds are rounding errors of sums."""
