"""The form for binary layers: a batch-norm in front of each sign, and no ReLU."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional

from graphopt.models.classifier import seeded


class BinaryMlp(nn.Module):
    """Linear layers with a batch-norm and a clip to [-1, 1] behind all but the last."""

    def __init__(self, hidden: Sequence[int] = (300, 100), features: int = 64, classes: int = 10) -> None:
        super().__init__()
        self.shape = (features,)
        sizes = (features, *hidden, classes)
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(sizes))
        self.norms = nn.ModuleList(nn.BatchNorm1d(size) for size in hidden)

    def forward(self, pixels: Tensor) -> Tensor:
        """``pixels`` is ``[n, 64]`` with values 0 to 1; returns ``[n, 10]`` logits."""
        x = pixels
        for layer, norm in zip(self.layers, self.norms, strict=False):
            x = functional.hardtanh(norm(layer(x)))
        return self.layers[-1](x)


def new(seed: int = 0, hidden: Sequence[int] = (300, 100)) -> BinaryMlp:
    """Return a float net with random weights, the same ones for the same seed; ``binarize_net`` makes it binary."""
    return seeded(seed, lambda: BinaryMlp(hidden))
