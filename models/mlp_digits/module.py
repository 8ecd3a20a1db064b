"""The network: fully connected layers."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from graphopt.models.classifier import seeded


class Mlp(nn.Module):
    """Linear layers with ReLU between."""

    def __init__(self, hidden: Sequence[int] = (300, 100), features: int = 64, classes: int = 10) -> None:
        super().__init__()
        self.shape = (features,)
        sizes = (features, *hidden, classes)
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(sizes))

    def forward(self, pixels: Tensor) -> Tensor:
        """``pixels`` is ``[n, 64]`` with values 0 to 1; returns ``[n, 10]`` logits."""
        x = pixels
        for layer in self.layers[:-1]:
            x = torch.relu(layer(x))
        return self.layers[-1](x)


def new(seed: int = 0, hidden: Sequence[int] = (300, 100)) -> Mlp:
    """Return a net with random weights, the same ones for the same seed. ``hidden``: units of each hidden layer."""
    return seeded(seed, lambda: Mlp(hidden))
