"""In which order samples are seen, and how they become batches."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler, default_collate

from graphopt.train.data import Samples


class Order(Sampler[int]):
    """One random order of all samples for all processes, of which each takes its share, in turns.

    Every process draws the same order from a generator in the same state. With two processes, the b-th batches of both
    together are the b-th batch of a single process whose batches are twice as large. (torch's ``DistributedSampler``
    does the same, but seeds with the sum of seed and epoch: seed 1 would see what seed 0 sees an epoch later.) Where
    the number of processes does not divide the samples, the first ones of the order are seen again.
    """

    def __init__(self, samples: int, generator: torch.Generator, rank: int = 0, processes: int = 1) -> None:
        self._samples, self._generator = samples, generator
        self._rank, self._processes = rank, processes

    def __len__(self) -> int:
        return -(-self._samples // self._processes)

    def __iter__(self) -> Iterator[int]:
        order = torch.randperm(self._samples, generator=self._generator)
        seen = (torch.arange(len(self)) * self._processes + self._rank) % max(1, self._samples)
        return iter(order[seen].tolist())


def loader(samples: Samples, batch: int, order: Order) -> DataLoader[tuple[Tensor, Tensor]]:
    """Return the batches of one pass over the samples after the other, the last one as small as what is left."""
    found: Any = samples  # whatever has a length and items will do
    return DataLoader(found, batch_size=batch, sampler=order, collate_fn=_together, generator=torch.Generator())


def _together(found: Any) -> Any:
    """A batch as it is where the samples come as one (``Split.__getitems__``); else the list of them, stacked."""
    return found if isinstance(found, tuple) else default_collate(found)
