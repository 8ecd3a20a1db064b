"""Samples to learn from and to judge by."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from graphopt.errors import GraphoptError

_CHUNK = 4096
"""Samples that are looked at in one go."""


class Samples(Protocol):
    """Pairs of an input and a target, by number: a ``Split``, or any map-style ``torch.utils.data.Dataset``."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...


class Split(Dataset[tuple[Tensor, Tensor]]):
    """Samples in memory. A batch is one indexing operation, whatever its size.

    Attributes:
        inputs: ``[n, ...]``, as they are stored: images may be uint8, see ``Data.prepare``.
        targets: ``[n]`` labels, or ``[n, time]`` tokens; int64.
    """

    def __init__(self, inputs: Tensor, targets: Tensor) -> None:
        if len(inputs) != len(targets):
            raise ValueError(f"{len(inputs)} inputs and {len(targets)} targets")
        self.inputs, self.targets = inputs, targets

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.inputs[index], self.targets[index]

    def __getitems__(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Return inputs and targets of many samples; torch's loader asks for a batch in this way."""
        chosen = torch.as_tensor(indices, dtype=torch.int64)  # of none, too
        return self.inputs[chosen], self.targets[chosen]

    def first(self, n: int) -> Split:
        """Return the first ``n`` samples; all of them if there are fewer."""
        return Split(self.inputs[:n], self.targets[:n])


def take(samples: Samples, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Return inputs and targets of some samples, in this order, stacked along a first axis."""
    if isinstance(samples, Split):
        return samples.__getitems__(indices)
    inputs, targets = default_collate([samples[index] for index in indices])
    return inputs, targets


def finite(data: Data) -> None:
    """Refuse numbers that no loss can be computed of; samples that are not held in memory are not looked at.

    Raises:
        GraphoptError: It says which array, how many numbers, and where the first one is.
    """
    for part in ("train", "test"):
        split = getattr(data, part)
        for name in ("inputs", "targets"):
            numbers = getattr(split, name, None)
            if not isinstance(numbers, Tensor) or not numbers.is_floating_point():
                continue
            each = [int((~torch.isfinite(some)).sum()) for some in numbers.split(_CHUNK)]
            if not any(each):
                continue
            start = _CHUNK * next(place for place, number in enumerate(each) if number)
            first, *inside = (~torch.isfinite(numbers[start : start + _CHUNK])).nonzero()[0].tolist()
            index = (start + first, *inside)
            raise GraphoptError(
                f"the data holds numbers that are not finite: {sum(each)} of {numbers.numel()} in {part}.{name}",
                f"{part}.{name}{list(index)} is {float(numbers[index])}",
                "leave such samples out, or say what stands for what is missing",
            )


def as_stored(inputs: Tensor) -> Tensor:
    """Return the inputs themselves: for data that is stored as the net takes it."""
    return inputs


@dataclass(frozen=True)
class Data:
    """What a net learns from, and what it is judged by and never sees in training.

    Attributes:
        train: Samples to learn from. Any other map-style dataset of pairs works, too, only slower.
        test: Samples to judge by.
        prepare: From a stored batch to what the net takes (float, normalised), on the batch's device.
        augment: Random changes of a prepared training batch, drawn from the generator (on the CPU); None: none.
    """

    train: Split
    test: Split
    prepare: Callable[[Tensor], Tensor] = as_stored
    augment: Callable[[Tensor, torch.Generator], Tensor] | None = None
