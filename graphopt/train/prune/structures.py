"""What is removed together: single weights, runs of which N of M stay, blocks, and units that groups of slices make up.

Each structure is a pool of units that are compared with each other. It adds up the scores of a unit's weights, tells
which units are gone, and turns chosen units into masks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from graphopt.train.prune.groups import Group, Slice
from graphopt.train.prune.scores import Scores

Masks = dict[str, Tensor]
"""By parameter name, bool of the parameter's shape: True where it is zero from now on."""

Shapes = Mapping[str, torch.Size]


class Pool(Protocol):
    """Units that are compared with each other: those of a layer, or of layers that go together."""

    @property
    def name(self) -> str:
        """For people: of the parameter, or of the group."""
        ...

    @property
    def units(self) -> int:
        """How many units there are."""
        ...

    def importance(self, scores: Scores) -> Tensor:
        """Return ``[units]`` float64 on the CPU: the sum of the scores of each unit's weights."""
        ...

    def gone(self, held: Mapping[str, Tensor]) -> Tensor:
        """Return ``[units]`` bool: those of which every weight is held."""
        ...

    def masks(self, chosen: Tensor) -> Masks:
        """Return what the chosen units (``[units]`` bool) are zero in."""
        ...


@dataclass(frozen=True)
class Single:
    """Every weight of a parameter by itself."""

    name: str
    shape: torch.Size

    @property
    def units(self) -> int:
        """One for each weight."""
        return self.shape.numel()

    def importance(self, scores: Scores) -> Tensor:
        """Its own score."""
        return scores[self.name].detach().cpu().double().flatten()

    def gone(self, held: Mapping[str, Tensor]) -> Tensor:
        """Held itself."""
        return _held(held, self.name, self.shape).flatten()

    def masks(self, chosen: Tensor) -> Masks:
        """Itself."""
        return {self.name: chosen.reshape(self.shape)}


@dataclass(frozen=True)
class Blocks:
    """Blocks of ``rows`` outputs by ``columns`` inputs with all taps; those at the far edges may be smaller.

    Attributes:
        name: Of the parameter.
        shape: Of the parameter: outputs, inputs, taps; ``transposed``: inputs, outputs, taps.
        rows: Outputs that a block has.
        columns: Inputs that a block has.
        transposed: Of a transposed convolution.
    """

    name: str
    shape: torch.Size
    rows: int
    columns: int
    transposed: bool = False

    @property
    def _sides(self) -> tuple[int, int]:
        return (self.columns, self.rows) if self.transposed else (self.rows, self.columns)

    @property
    def units(self) -> int:
        """One for each block."""
        return -(-self.shape[0] // self._sides[0]) * -(-self.shape[1] // self._sides[1])

    def _unit(self) -> Tensor:
        """Return ``[shape[0], shape[1]]``: the block of each weight (of all of its taps)."""
        first, second = self._sides
        across = -(-self.shape[1] // second)
        return torch.arange(self.shape[0])[:, None] // first * across + torch.arange(self.shape[1]) // second

    def _sums(self, numbers: Tensor) -> Tensor:
        flat = numbers.reshape(self.shape[0] * self.shape[1], -1).sum(1)
        return torch.zeros(self.units, dtype=flat.dtype).index_add_(0, self._unit().flatten(), flat)

    def importance(self, scores: Scores) -> Tensor:
        """The sum over the block."""
        return self._sums(scores[self.name].detach().cpu().double())

    def gone(self, held: Mapping[str, Tensor]) -> Tensor:
        """Held everywhere."""
        return self._sums((~_held(held, self.name, self.shape)).double()) == 0

    def masks(self, chosen: Tensor) -> Masks:
        """The whole block."""
        found = chosen[self._unit()].reshape(*self.shape[:2], *(1,) * (len(self.shape) - 2))
        return {self.name: found.expand(self.shape).clone()}


@dataclass(frozen=True)
class Together:
    """The units of a group: filters, heads, hidden units, channels of a stream.

    The score of a unit is the sum over the weights that write it (parameters of two axes or more: biases and norms have
    no score). It is zero in what writes it and in what reads it, so that nothing is left of it whatever the activation
    in between makes of zero.
    """

    group: Group
    shapes: Shapes

    @property
    def name(self) -> str:
        """Of the group."""
        return self.group.name

    @property
    def units(self) -> int:
        """As the group says."""
        return self.group.units

    def importance(self, scores: Scores) -> Tensor:
        """The sum over what writes it; slices of parameters that have no score do not count."""
        total = torch.zeros(self.units, dtype=torch.float64)
        for slice_ in self.group.writes:
            if slice_.parameter in scores and len(self.shapes[slice_.parameter]) > 1:
                total += _per_unit(slice_, scores[slice_.parameter].detach().cpu().double())
        return total

    def gone(self, held: Mapping[str, Tensor]) -> Tensor:
        """Held in everything that writes it."""
        found = torch.ones(self.units, dtype=torch.bool)
        for slice_ in self.group.writes:
            left = ~_held(held, slice_.parameter, self.shapes[slice_.parameter])
            found &= _per_unit(slice_, left.double()) == 0
        return found

    def masks(self, chosen: Tensor) -> Masks:
        """All of its slices."""
        found: Masks = {}
        for slice_ in (*self.group.writes, *self.group.reads):
            shape = self.shapes[slice_.parameter]
            mask = found.setdefault(slice_.parameter, torch.zeros(shape, dtype=torch.bool))
            at = torch.from_numpy(slice_.index)[chosen].flatten()
            mask.index_fill_(slice_.axis, at, True)
        return found


@dataclass(frozen=True)
class Runs:
    """Runs of ``m`` weights along the inputs of a parameter, at the same output and tap, of which ``n`` stay.

    Where ``m`` does not divide the inputs, the last ones are left as they are.

    Attributes:
        name: Of the parameter.
        shape: Of the parameter.
        n: Weights of a run that stay.
        m: Weights of a run.
        axis: That of the inputs.
    """

    name: str
    shape: torch.Size
    n: int
    m: int
    axis: int = 1

    def select(self, scores: Scores, held: Mapping[str, Tensor], share: float) -> Masks:
        """Return the mask with ``floor(share (m - n))`` zeros in each run, those that are held among them.

        The smallest scores go first, of equal ones the first.
        """
        zeros = int(share * (self.m - self.n) + 1e-9)
        inputs = self.shape[self.axis] // self.m * self.m
        worth = scores[self.name].detach().cpu().double()
        worth = worth.masked_fill(_held(held, self.name, self.shape), -torch.inf)
        runs = worth.movedim(self.axis, -1)[..., :inputs].unflatten(-1, (-1, self.m))
        chosen = torch.zeros(runs.shape, dtype=torch.bool)
        chosen.scatter_(-1, runs.argsort(dim=-1, stable=True)[..., :zeros], True)
        mask = torch.zeros(self.shape, dtype=torch.bool)
        mask.movedim(self.axis, -1)[..., :inputs] = chosen.flatten(-2)
        return {self.name: mask}


def _held(held: Mapping[str, Tensor], name: str, shape: torch.Size) -> Tensor:
    return held[name].cpu() if name in held else torch.zeros(shape, dtype=torch.bool)


def _per_unit(slice_: Slice, numbers: Tensor) -> Tensor:
    """Return ``[units]``: the sum of the numbers at each unit's positions along the axis."""
    along = numbers.movedim(slice_.axis, 0).flatten(1).sum(1) if numbers.dim() > 1 else numbers
    return along[torch.from_numpy(slice_.index)].sum(1)
