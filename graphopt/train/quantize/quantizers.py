"""What stands in for integers while a net is trained: on weights, and on values between layers.

Both quantize some components (filters, channels) and leave the others as they are, so that a net can be quantized one
part after the other. Which ones is a buffer, as scale and zero point are: a checkpoint knows them.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from graphopt.calibrate.accumulator import Accumulator
from graphopt.calibrate.grid import Grid
from graphopt.calibrate.solve import FREE, Constraint
from graphopt.train.fake import fake_quantize


class WeightQuantizer(nn.Module):
    """A parametrization of a weight ``[out, ...]``: filters that are quantized are on their levels, zero point 0.

    Attributes:
        grid: The levels.
        scale: ``[out]`` float32; all equal where a weight has one scale.
        active: ``[out]`` bool: which filters are quantized.
        group: ``[out]`` int64: in which subset each filter is; -1 as long as that was not decided.
    """

    scale: Tensor
    active: Tensor
    group: Tensor

    def __init__(self, weight: Tensor, grid: Grid) -> None:
        super().__init__()
        self.grid = grid
        device = weight.device
        self.register_buffer("scale", torch.ones(len(weight), device=device))
        self.register_buffer("active", torch.zeros(len(weight), dtype=torch.bool, device=device))
        self.register_buffer("group", torch.full((len(weight),), -1, device=device))

    def forward(self, weight: Tensor) -> Tensor:
        """Return the weight with its active filters on their levels; the gradient goes straight through."""
        levels = fake_quantize(weight, self.scale, 0, int(self.grid.low), int(self.grid.high), axis=0)
        return torch.where(along(self.active, 0, weight.ndim), levels, weight)


class ValueQuantizer(nn.Module):
    """A value between layers, with its active channels on levels; one scale and zero point for all of it.

    Attributes:
        grid: The levels.
        axis: The axis of the channels.
        constraint: What scale and zero point must respect: behind a ReLU zero is the lowest level.
        scale: ``[]`` float32.
        zero_point: ``[]`` int64.
        active: ``[channels]`` bool: which channels are quantized.
        solved: ``[]`` bool: whether scale and zero point were found.
        marker: ``[]`` 1: how the exported graph knows this place, see ``export.py``.
        seen: Set to count what comes by.
        marking: Set to multiply by ``marker`` and do nothing else.
    """

    scale: Tensor
    zero_point: Tensor
    active: Tensor
    solved: Tensor
    marker: Tensor

    def __init__(self, grid: Grid, channels: int, axis: int, constraint: Constraint = FREE) -> None:
        super().__init__()
        self.grid, self.axis, self.constraint = grid, axis, constraint
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("zero_point", torch.zeros((), dtype=torch.int64))
        self.register_buffer("active", torch.zeros(channels, dtype=torch.bool))
        self.register_buffer("solved", torch.zeros((), dtype=torch.bool))
        self.register_buffer("marker", torch.ones(()), persistent=False)
        self.seen: Accumulator | None = None
        self.marking = False

    def forward(self, x: Tensor) -> Tensor:
        """Return x with its active channels on their levels; the gradient goes straight through where none is cut."""
        if self.marking:
            return x * self.marker
        if self.seen is not None:
            self.seen.add(np.asarray(x.detach().float().cpu()))
        levels = fake_quantize(x, self.scale, self.zero_point, int(self.grid.low), int(self.grid.high))
        return torch.where(along(self.active, self.axis, x.ndim), levels, x)


def along(vector: Tensor, axis: int, rank: int) -> Tensor:
    """Return ``[n]`` with axes of size 1 around it, so that it goes along one axis of a tensor of so many axes."""
    shape = [1] * rank
    shape[axis] = -1
    return vector.reshape(shape)
