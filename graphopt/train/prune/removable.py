"""Which groups `optimize` makes good: units that would stay in the file as zeros are not worth their accuracy.

What can be removed together is read off the graph; whether it *is* removed depends on more: a weight that two layers
share is cut for both or for none, a table that is summed up as a whole is a constant, and a LayerNorm of fewer
positions is several operators, which short rows do not pay for. All that is the optimizer's to say, so it is asked:
units are zeroed in the graph that the groups were read off, and the numbers that are left are counted.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import onnx_ir as ir
import torch

from graphopt import model as models
from graphopt import pipeline
from graphopt.dims import static
from graphopt.train.progress import Progress, quiet
from graphopt.train.prune.groups import Group
from graphopt.train.prune.selection import merged
from graphopt.train.prune.structures import Masks, Shapes, Together

Plan = Literal["smallest", "fastest"]

_QUESTIONS: tuple[tuple[Plan, float, str], ...] = (
    ("smallest", 1.0, "optimize cannot remove its units"),
    # A few positions may be held where that spares a gather or a scatter.
    ("fastest", 0.9, "the net would be slower without so many of its units than with them"),
)
"""With which plan, which share of the zeros has to be gone, and what it means if it is not."""


@dataclass(frozen=True)
class Removable:
    """Groups that are worth pruning, and why the others are not.

    Attributes:
        groups: Their units leave the file when they are zeroed.
        left: Name of another group → the reason.
    """

    groups: tuple[Group, ...]
    left: Mapping[str, str]


def removable(
    groups: Sequence[Group], model: ir.Model, shapes: Shapes, amount: float, *, progress: Progress = quiet
) -> Removable:
    """Ask `optimize` which groups it narrows if this share of the units of each is zero.

    Where all of them are, that takes four runs of the optimizer. Else groups that look alike are asked about together:
    a net of many equal blocks takes as many runs as one of few.

    Args:
        groups: Of a net.
        model: The graph they were read off (``Found.model``); is left as it is. Its numbers do not matter.
        shapes: By parameter name.
        amount: Share of the units, 0 to 1; at least one of each group, and not the last one.
        progress: Is told of how many groups it is known, for each question.

    Raises:
        GraphoptError: The model is at fault.
    """
    asked = _Asked(model, shapes, amount, progress)
    found, left = tuple(groups), dict[str, str]()
    for plan, share, reason in _QUESTIONS:
        asked.begin(len(found))
        good = {one.name for one in asked.good(_alike(found, shapes), plan, share)}
        left |= {one.name: reason for one in found if one.name not in good}
        found = tuple(one for one in found if one.name in good)
    return Removable(found, left)


def weights(model: ir.Model) -> int:
    """Return how many numbers the weights of two axes or more have.

    Vectors are not counted: batch-norms become part of a layer, norms of fewer positions bring corrections.
    """
    shapes = [static(value) or () for value in model.graph.initializers.values()]
    return sum(math.prod(size or 0 for size in shape) for shape in shapes if wide(shape))


def wide(shape: Sequence[int | None]) -> bool:
    """Tell whether two axes or more are longer than one."""
    return sum(size is not None and size > 1 for size in shape) > 1


def _alike(groups: Sequence[Group], shapes: Shapes) -> tuple[Group, ...]:
    """Groups of one form side by side, those of one form and one size most of all: what holds of one holds of all."""

    def form(group: Group) -> tuple[object, ...]:
        slices = (*group.writes, *group.reads)
        ranks = tuple((len(shapes[one.parameter]), one.axis) for one in slices)
        sizes = tuple((*shapes[one.parameter], one.index.shape[1]) for one in slices)
        return group.kind, len(group.writes), ranks, group.units, sizes

    return tuple(sorted(groups, key=form))  # type: ignore[arg-type]


@dataclass
class _Asked:
    model: ir.Model
    shapes: Shapes
    amount: float
    progress: Progress
    before: dict[Plan, int] = field(default_factory=dict)
    """Numbers that are left if nothing is zero."""
    known: int = 0
    total: int = 0

    def begin(self, number: int) -> None:
        """Another question, of so many groups."""
        self.known, self.total = 0, number
        self._know(0)

    def good(self, groups: tuple[Group, ...], plan: Plan, share: float) -> tuple[Group, ...]:
        """Return the groups that are removed, looked for by halves; alone, this share of a group is enough."""
        zeros = merged([self._zeros(one) for one in groups])
        number = self._number(zeros)
        gone = self._gone(zeros, plan) if number else 0
        if gone >= number * (share if len(groups) == 1 else 1):
            self._know(len(groups))
            return groups
        if gone < share * min(self._number(self._zeros(one)) for one in groups):  # not even the smallest one went
            self._know(len(groups))
            return ()
        half = len(groups) // 2
        return (*self.good(groups[:half], plan, share), *self.good(groups[half:], plan, share))

    def _know(self, number: int) -> None:
        self.known += number
        self.progress("asking which units can be removed", self.known, self.total)

    def _number(self, zeros: Masks) -> int:
        of_weights = [int(zero.sum()) for name, zero in zeros.items() if wide(self.shapes[name])]
        return sum(of_weights or (int(zero.sum()) for zero in zeros.values()))

    def _zeros(self, group: Group) -> Masks:
        """Some units of a group, spread over it; which ones makes no difference."""
        if group.units == 1:
            return {}
        gone = min(max(1, int(self.amount * group.units + 1e-9)), group.units - 1)
        chosen = torch.zeros(group.units, dtype=torch.bool)
        chosen[torch.arange(gone) * group.units // gone] = True
        return Together(group, self.shapes).masks(chosen)

    def _gone(self, zeros: Masks, plan: Plan) -> int:
        if plan not in self.before:
            self.before[plan] = self._left({}, plan)
        return self.before[plan] - self._left(zeros, plan)

    def _left(self, zeros: Masks, plan: Plan) -> int:
        """Return how many numbers the optimized model has in weights if these are zero and no other one is."""
        model, numbers = models.clone(self.model), np.random.default_rng(0)
        for name, shape in self.shapes.items():
            value = model.graph.initializers.get(name)
            if value is None or value.dtype is None:
                continue
            weight = numbers.uniform(0.1, 1.0, tuple(shape))
            if name in zeros:
                weight[zeros[name].numpy()] = 0
            value.const_value = ir.tensor(weight.astype(value.dtype.numpy()), name=name)
        return weights(pipeline.optimize(model, plan=plan, verify=False, measure=False, operators=False).model)
