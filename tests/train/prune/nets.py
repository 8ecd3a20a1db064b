"""Tiny nets and data for the tests of pruning."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from graphopt.train.data import Data, Split
from graphopt.train.prune.scores import Batches, Scores, score
from graphopt.train.task import CLASSIFICATION
from graphopt.train.trainer import Trainer


def loss(net: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
    """Cross entropy, the mean over the batch."""
    return cross_entropy(net(inputs), targets)


def convolutional(seed: int = 0) -> nn.Sequential:
    """Stride, padding, groups and a batch norm; 6x6 images of 2 channels, 3 classes."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(2, 6, 3, stride=2, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 8, 3, padding=1, groups=2),
        nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3),
    )  # fmt: skip


def perceptron(seed: int = 0, features: int = 7, hidden: int = 11, classes: int = 3) -> nn.Sequential:
    """Two linear layers."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(features, hidden), nn.ReLU(), nn.Linear(hidden, classes))


def images(number: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Noise with labels that a net can learn: which third of the image is brightest."""
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(number, 2, 6, 6, generator=generator)
    return inputs, inputs.sum(1).unflatten(1, (3, 2)).sum((2, 3)).argmax(1)


def vectors(number: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Noise with labels that a net can learn."""
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(number, 7, generator=generator)
    return inputs, inputs[:, :3].argmax(1)


def data(train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor]) -> Data:
    """Samples as data."""
    return Data(Split(*train), Split(*test))


def trainer(net: nn.Module, train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor], **options: object) -> Trainer:
    """A trainer on the CPU."""
    return Trainer(net, data(train, test), CLASSIFICATION, device="cpu", **options)  # type: ignore[arg-type]


def one(name: str, net: nn.Module, batches: Batches, **options: object) -> Tensor:
    """The scores of all weights, one after the other."""
    return together(score(name, net, batches, loss, **options))  # type: ignore[arg-type]


def together(scores: Scores) -> Tensor:
    """All scores in one vector."""
    return torch.cat([one.flatten() for one in scores.values()])
