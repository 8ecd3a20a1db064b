"""How many units of each group stay, so that every unit that goes makes the net faster.

The time of an operator falls in steps: of 16 channels on a CPU. A group of 64 filters that is pruned to 47 takes as
long as one of 48. So an amount is taken for the time that it would bring, and the units to remove are chosen anew: of
all widths whose predicted time is within that, those that cost the least score. Compared with removing the units of the
lowest scores, the net is never slower (as the target's figures have it), and never loses more.

The time is a sum over operators, each of a few groups' widths; scores are a sum over groups. Their least weighted sum
is found by elimination (``plan/solve.py``), the weight by bisection, and what time is then left is spent on the units
that are worth most.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import onnx_ir as ir

from graphopt import targets
from graphopt.errors import UsageError
from graphopt.plan.cost import CostModel
from graphopt.plan.solve import Table, minimise
from graphopt.train.prune.groups import Group
from graphopt.train.prune.predicted import Predicted

SCOPE = 3
"""Groups that one table may depend on; an operator on more is counted with the others as they are."""

MOST = 24
"""Widths of a group that elimination chooses from."""

HALVINGS = 30
"""Of the logarithmic interval that the price of a nanosecond lies in."""

GRID = 1 << 14
"""Of at most so many combinations of widths all are looked at."""

LOWER = 4
"""Widths below its own that a group is tried at for the sake of the others."""

TRIALS = 1000
"""Such trials, divided by the number of groups."""

Counts = dict[str, int]
"""Group → how many of its units stay."""


def choose(
    groups: Sequence[Group],
    scores: Mapping[str, np.ndarray],
    model: ir.Model,
    amount: float,
    costs: CostModel | None = None,
    *,
    of: Literal["units", "latency"] = "units",
    scope: Literal["layer", "global"] = "global",
    dead: Mapping[str, np.ndarray] | None = None,
) -> dict[str, np.ndarray]:
    """Return which units stay, by group: bool ``[units]``; at least one of each group.

    Args:
        groups: What may be removed.
        scores: By group, ``[units]``: how much each unit is worth. The least go first, of equal ones the first.
        model: The graph that the groups were read off (``graphopt.train.prune.groups.exported``).
        amount: Share of the units whose removal, least scores first, says how fast the net has to be; or the share of
            the predicted time itself that has to go.
        costs: Of the target; None: those of the CPU, measured ones where there are any (``graphopt calibrate-target``).
        of: What ``amount`` is a share of.
        scope: Whether that removal takes this share of every group, or of all groups together. With ``layer`` a
            group's width is moved to the step below or above, and no further.
        dead: By group, bool ``[units]``: units that are gone already.

    Raises:
        UsageError: The scores do not fit the groups, or no such amount can be removed.
    """
    if not 0 <= amount < 1:
        raise UsageError(f"an amount is a share from 0 to below 1, not {amount}")
    chooser = _Chooser(groups, scores, dead or {}, Predicted(groups, model, costs or targets.costs("cpu")))
    if of == "units":
        plain = chooser.plain(amount, scope)
        limit = chooser.time.of(plain)
    else:
        limit = (1 - amount) * chooser.time.of({})
        plain = chooser.plain_within(limit, scope)
    return chooser.kept(chooser.best(plain, limit, near=scope == "layer"))


def predicted(
    groups: Sequence[Group], model: ir.Model, stay: Mapping[str, int], costs: CostModel | None = None
) -> float:
    """Return the nanoseconds that the contractions of a graph are predicted to take.

    Args:
        groups: What was removed.
        model: The graph that the groups were read off.
        stay: By group, how many units stay; those that are not listed are whole.
        costs: As for ``choose``.
    """
    return Predicted(groups, model, costs or targets.costs("cpu")).of(stay)


class _Chooser:
    """Scores in order, and what widths cost."""

    def __init__(
        self, groups: Sequence[Group], scores: Mapping[str, np.ndarray], dead: Mapping[str, np.ndarray], time: Predicted
    ) -> None:
        self.time = time
        self.worth: dict[str, np.ndarray] = {}
        """By group, scores of the units that are there, falling."""
        self.order: dict[str, np.ndarray] = {}
        """By group, the units in that order, those that are gone behind them."""
        self.units = {group.name: group.units for group in groups}
        for group in groups:
            found = np.asarray(scores.get(group.name, ()), np.float64)
            gone = np.asarray(dead.get(group.name, np.zeros(group.units, bool)), bool)
            if found.shape != (group.units,) or gone.shape != (group.units,) or not np.isfinite(found[~gone]).all():
                raise UsageError(f"{group.units} finite scores are needed", group.name)
            # Of equal scores the first unit goes first: it is the last of those that stay.
            rising = np.flatnonzero(~gone)[np.argsort(found[~gone], kind="stable")]
            self.order[group.name] = np.concatenate([rising[::-1], np.flatnonzero(gone)])
            self.worth[group.name] = found[rising[::-1]]
        self.names = [name for name in self.order if self.worth[name].size]

    def kept(self, counts: Mapping[str, int]) -> dict[str, np.ndarray]:
        """Return masks of the units that are worth most."""
        found = {name: np.zeros(size, bool) for name, size in self.units.items()}
        for name in self.names:
            found[name][self.order[name][: counts[name]]] = True
        return found

    def whole(self) -> Counts:
        """Return what is there; of groups that are gone as a whole nothing."""
        return {name: self.worth[name].size for name in self.order}

    # -- least scores first -------------------------------------------------------------------------------------------

    def plain(self, amount: float, scope: str) -> Counts:
        """Return what stays if this share of the units goes, least scores first, those that are gone among them."""
        if scope == "layer":
            return self._without({name: int(amount * size + 1e-9) for name, size in self.units.items()})
        return self._least(int(amount * sum(self.units.values()) + 1e-9))

    def plain_within(self, limit: float, scope: str) -> Counts:
        """Return what stays if as few units go, least scores first, as bring the time within a limit.

        Raises:
            UsageError: The time is longer with one unit of each group.
        """
        total = sum(self.units.values())
        low, high = 0, total  # of removed units: the first may not do, the last does
        if self.time.of(self.plain(1.0, scope)) > limit:
            most = 1 - self.time.of(self.plain(1.0, scope)) / self.time.of({})
            raise UsageError(
                "so much of the time cannot be saved", help=f"with one unit of each group left {most:.1%} are saved"
            )
        while low < high:
            middle = (low + high) // 2
            if self.time.of(self.plain(middle / total, scope)) <= limit:
                high = middle
            else:
                low = middle + 1
        return self.plain(high / total, scope)

    def _without(self, removed: Mapping[str, int]) -> Counts:
        return {
            name: min(there, max(1, self.units[name] - removed[name])) if there else 0
            for name, there in self.whole().items()
        }

    def _least(self, number: int) -> Counts:
        number -= sum(self.units[name] - there for name, there in self.whole().items())
        if number <= 0:
            return self.whole()
        worth = np.concatenate([self.worth[name][1:][::-1] for name in self.names])
        of = np.repeat(np.arange(len(self.names)), [self.worth[name].size - 1 for name in self.names])
        gone = np.bincount(of[np.argsort(worth, kind="stable")[:number]], minlength=len(self.names))
        return {
            **self.whole(),
            **{name: self.worth[name].size - int(n) for name, n in zip(self.names, gone, strict=True)},
        }

    # -- the least loss within a time ---------------------------------------------------------------------------------

    def best(self, plain: Counts, limit: float, *, near: bool) -> Counts:
        """Return the counts of the least loss that were found within a time; ``plain`` is one of them."""
        levels = {name: self._levels(name, plain[name], near) for name in self.names}
        if math.prod(len(widths) for widths in levels.values()) <= GRID:
            return self._of_all(plain, limit, levels)
        low, high = self._prices(levels)
        counts = self._at_price(high, plain, levels)
        found: list[Counts] = []
        if self.time.of(counts) <= limit:  # else no price makes these widths fast enough
            found.append(counts)
            for _ in range(HALVINGS):
                price = math.sqrt(low * high)
                counts = self._at_price(price, plain, levels)
                if self.time.of(counts) <= limit:
                    found.append(counts)
                    high = price
                else:
                    low = price
        found = sorted(found, key=self.loss)[:1]
        filled = min((self._filled(counts, limit, levels) for counts in (plain, *found)), key=self.loss)
        return self._exchanged(filled, limit, levels)

    def _of_all(self, plain: Counts, limit: float, levels: Mapping[str, list[int]]) -> Counts:
        """Return the best of every combination of widths."""
        counts: dict[str, np.ndarray | int] = {**self.whole()}
        time: np.ndarray | float = 0.0
        loss: np.ndarray | float = 0.0
        for place, (name, widths) in enumerate(levels.items()):
            shape = [1] * len(levels)
            shape[place] = -1
            counts[name] = np.array(widths).reshape(shape)
            loss = loss + np.array([self.worth[name][n:].sum() for n in widths]).reshape(shape)
        for operator in self.time.operators:
            time = time + operator.time(counts, self.time.units, self.time.costs)
        sizes = [len(widths) for widths in levels.values()]
        fast = np.broadcast_to(time <= limit, sizes)
        if not fast.any():
            return plain  # the same sum in another order: the last digit
        at = np.unravel_index(np.where(fast, np.broadcast_to(loss, sizes), np.inf).argmin(), sizes)
        return {**plain, **{name: widths[i] for (name, widths), i in zip(levels.items(), at, strict=True)}}

    def _exchanged(self, counts: Counts, limit: float, levels: Mapping[str, list[int]]) -> Counts:
        """Narrow one group for the sake of the others, as long as that loses less."""
        trials, improved = TRIALS, True
        while improved:
            improved = False
            for name, widths in levels.items():
                for fewer in [n for n in widths if n < counts[name]][:LOWER]:
                    trials -= len(levels)
                    if trials < 0:
                        return counts
                    capped = {**levels, name: [n for n in widths if n <= fewer]}
                    other = self._filled({**counts, name: fewer}, limit, capped)
                    if self.loss(other) < self.loss(counts) * (1 - 1e-12):
                        counts, improved = other, True
                        break
        return counts

    def loss(self, counts: Mapping[str, int]) -> float:
        """Return the sum of the scores of what goes."""
        return float(sum(self.worth[name][counts[name] :].sum() for name in self.names))

    def _levels(self, name: str, plain: int, near: bool) -> list[int]:
        """Return widths worth looking at, falling: all of a small group, else those where the time may fall."""
        there, costs = self.worth[name].size, self.time.costs
        if not self.time.by_group[name]:
            return [plain]
        each = max(side.each.get(name, 0) for one in self.time.by_group[name] for side in (one.inputs, one.outputs))
        steps = {
            max(1, to // each) * n
            for to in (costs.multiple, costs.lanes)
            for n in range(1, there + 1)
            if max(1, to // each) * n <= there
        }
        found = sorted({*(range(1, there + 1) if there <= MOST else steps), there, plain}, reverse=True)
        if near:
            ends = {
                round_ * step
                for step in (max(1, costs.multiple // each), max(1, costs.lanes // each))
                for round_ in (plain // step, -(-plain // step))
            }
            return sorted({plain, *(n for n in ends if plain / 2 <= n <= there and n)}, reverse=True)
        wide = [n for n in found if n % max(1, costs.lanes // each) == 0 or n in (there, plain)]
        found = wide if len(found) > MOST and len(wide) >= 2 else found
        return found if len(found) <= MOST else [found[i] for i in np.linspace(0, len(found) - 1, MOST).astype(int)]

    def _prices(self, levels: Mapping[str, list[int]]) -> tuple[float, float]:
        """Return a price of a nanosecond at which hardly anything but scores counts, and one where time does."""
        total = max(sum(float(np.abs(self.worth[name]).sum()) for name in levels), 1e-300)
        return 1e-6 * total / max(self.time.of({}), 1.0), 1e3 * total

    def _at_price(self, price: float, plain: Counts, levels: Mapping[str, list[int]]) -> Counts:
        """Return the least sum of loss and price times time."""
        number = {name: place for place, name in enumerate(levels)}
        tables = [
            Table((number[name],), np.array([self.worth[name][n:].sum() for n in widths]))
            for name, widths in levels.items()
        ]
        whole = self.whole()
        for operator in self.time.operators:
            scope = [name for name in operator.names if name in levels and len(levels[name]) > 1][:SCOPE]
            if not scope:
                continue
            counts: dict[str, np.ndarray | int] = {name: plain.get(name, whole[name]) for name in operator.names}
            for place, name in enumerate(scope):
                shape = [1] * len(scope)
                shape[place] = -1
                counts[name] = np.array(levels[name]).reshape(shape)
            time = operator.time(counts, self.time.units, self.time.costs)
            sizes = [len(levels[name]) for name in scope]
            tables.append(Table(tuple(number[name] for name in scope), price * np.broadcast_to(time, sizes)))
        values = minimise([len(widths) for widths in levels.values()], tables)
        return {**plain, **{name: widths[at] for (name, widths), at in zip(levels.items(), values, strict=True)}}

    def _filled(self, counts: Counts, limit: float, levels: Mapping[str, list[int]]) -> Counts:
        """Take units back, those first that bring the most for a nanosecond, as long as there is time."""
        counts, left = dict(counts), limit - self.time.of(counts)
        while True:
            best: tuple[float, str, int, float] | None = None
            for name, widths in levels.items():
                now = counts[name]
                before = self.time.around(name, counts)
                for more in self._wider(now, widths):
                    dearer = self.time.around(name, {**counts, name: more}) - before
                    gain = float(self.worth[name][now:more].sum())
                    if dearer > left or (dearer <= 0 and gain < 0):
                        continue
                    rate = gain / max(dearer, 1e-9)
                    if gain >= 0 and (best is None or rate > best[0]):
                        best = (rate, name, more, dearer)
            if best is None:
                return counts
            counts[best[1]] = best[2]
            left -= best[3]

    def _wider(self, now: int, widths: list[int]) -> set[int]:
        """Return a few widths above one: the next, and the next whole block. Between steps nothing is gained surely."""
        above = [n for n in reversed(widths) if n > now]
        blocks = [n for n in above if n % self.time.costs.lanes == 0]
        return {*above[:1], *blocks[:1]}


__all__ = ["choose", "predicted"]
