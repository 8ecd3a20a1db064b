"""The network of D. Zhang et al., "LQ-Nets", ECCV 2018, and of those who compare with it."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn
from torch.nn import functional

from graphopt.errors import UsageError
from graphopt.models.classifier import seeded


class VggSmall(nn.Module):
    """Six 3x3 convolutions, batch-norm, ReLU; a max pool after every second; one linear layer.

    Channels are ``width`` twice, ``2 width`` twice, ``4 width`` twice.
    """

    def __init__(self, width: int = 128, classes: int = 10, size: int = 32) -> None:
        super().__init__()
        self.shape = (3, size, size)
        widths = (3, width, width, 2 * width, 2 * width, 4 * width, 4 * width)
        self.convs = nn.ModuleList(nn.Conv2d(a, b, 3, padding=1, bias=False) for a, b in itertools.pairwise(widths))
        self.norms = nn.ModuleList(nn.BatchNorm2d(b) for b in widths[1:])
        self.linear = nn.Linear(widths[-1] * (size // 8) ** 2, classes)

    def forward(self, image: Tensor) -> Tensor:
        """``image`` is normalised, ``[n, 3, size, size]``; returns logits ``[n, classes]``."""
        x = image
        for index, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
            x = torch.relu(norm(conv(x)))
            if index % 2:
                x = functional.max_pool2d(x, 2)
        return self.linear(x.flatten(1))


def new(seed: int = 0, width: int = 128, size: int = 32) -> VggSmall:
    """Return a net with random weights, the same ones for the same seed.

    Args:
        seed: Of the weights.
        width: Channels of the first two convolutions; the others have twice and four times as many.
        size: Height and width of the images, a multiple of 8.

    Raises:
        UsageError: The size is no positive multiple of 8.
    """
    if size < 8 or size % 8:
        raise UsageError(f"images of {size}x{size}", "model.size", "a multiple of 8: they are halved three times")
    return seeded(seed, lambda: VggSmall(width, size=size))
