"""Tiny nets, data and families for the tests of quantization."""

from __future__ import annotations

import itertools
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from graphopt.models.classifier import classifier
from graphopt.train.data import Data, Split
from graphopt.train.family import Family
from graphopt.train.quantize.fold import folded
from graphopt.train.quantize.layers import Quantizable, quantizable
from graphopt.train.quantize.process import Process
from graphopt.train.quantize.settings import QuantizeSettings
from graphopt.train.settings import Settings
from graphopt.train.trainer import Trainer

Net = TypeVar("Net", bound=nn.Module)
Kind = TypeVar("Kind", bound=Process)


class Residual(nn.Module):
    """A residual stream, groups, a stride, a pool; what is registered first runs last."""

    def __init__(self, width: int = 6, groups: int = 2) -> None:
        super().__init__()
        self.shape = (2, 6, 6)
        self.head = nn.Linear(width, 3)
        self.last = nn.Conv2d(width, width, 3, stride=2, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.conv1 = nn.Conv2d(width, width, 3, padding=1, groups=groups, bias=False)
        self.stem = nn.Conv2d(2, width, 3, padding=1, bias=False)
        self.bn, self.bn1, self.bn2 = (nn.BatchNorm2d(width) for _ in range(3))

    def forward(self, image: Tensor) -> Tensor:
        """``[n, 2, 6, 6]`` to ``[n, 3]``."""
        x = torch.relu(self.bn(self.stem(image)))
        y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        x = torch.relu(x + y)
        return self.head(torch.relu(self.last(x)).mean(dim=(2, 3)))


class Sliced(nn.Module):
    """A shortcut that takes every other pixel and adds channels of zeros, as in ResNets for CIFAR."""

    def __init__(self) -> None:
        super().__init__()
        self.shape = (2, 6, 6)
        self.stem, self.conv = nn.Conv2d(2, 3, 3, padding=1), nn.Conv2d(3, 5, 3, stride=2, padding=1)
        self.head = nn.Linear(5, 3)

    def forward(self, image: Tensor) -> Tensor:
        """``[n, 2, 6, 6]`` to ``[n, 3]``."""
        x = torch.relu(self.stem(image))
        shortcut = nn.functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 1, 1))
        return self.head(torch.relu(shortcut + self.conv(x)).mean((2, 3)))


class Chain(nn.Module):
    """A stride, a pool of maxima, ReLU6, a flattening."""

    def __init__(self, width: int = 5) -> None:
        super().__init__()
        self.shape = (2, 6, 6)
        self.layers = nn.Sequential(
            nn.Conv2d(2, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(inplace=True), nn.MaxPool2d(2),
            nn.Conv2d(width, 7, 3, stride=2, padding=1), nn.ReLU6(), nn.Flatten(),
            nn.Linear(28, 11), nn.ReLU(), nn.Dropout(0.1), nn.Linear(11, 3),
        )  # fmt: skip

    def forward(self, image: Tensor) -> Tensor:
        """``[n, 2, 6, 6]`` to ``[n, 3]``."""
        return self.layers(image)


class Perceptron(nn.Module):
    """Linear layers with ReLU between."""

    def __init__(self, *widths: int) -> None:
        super().__init__()
        self.shape = (7,)
        sizes = (7, *widths, 3)
        self.linears = [nn.Linear(a, b) for a, b in itertools.pairwise(sizes)]
        self.layers = nn.ModuleList(self.linears)

    def forward(self, image: Tensor) -> Tensor:
        """``[n, 7]`` to ``[n, 3]``."""
        *hidden, last = self.layers
        for layer in hidden:
            image = torch.relu(layer(image))
        return last(image)


def seeded(net: Net, seed: int = 0) -> Net:
    """The same weights, and batch-norms that do something."""
    generator = torch.Generator().manual_seed(seed)
    for name, one in net.state_dict().items():
        if one.is_floating_point():
            noise = torch.randn(one.shape, generator=generator)
            positive = name.endswith("running_var")
            bn = "bn" in name and name.endswith("weight")
            fan = max(one[0].numel(), 1) if one.ndim > 1 else 1
            one.copy_(noise.abs() + 0.5 if positive else 1 + 0.3 * noise if bn else noise / fan**0.5)
    return net.eval()


def data(net: nn.Module, number: int = 40, seed: int = 0) -> Data:
    """Noise with labels that a net can learn: where in the sample the largest sum is."""
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(number, *net.shape, generator=generator)  # type: ignore[misc]
    targets = torch.stack([part.sum(1) for part in inputs.flatten(1).tensor_split(3, dim=1)]).argmax(0)
    return Data(Split(inputs, targets), Split(inputs.flip(0), targets.flip(0)))


def family(net: nn.Module) -> Family:
    """The family of a net."""
    return classifier("test", lambda seed=0: net, lambda: data(net))


def settings(steps: int = 30, **options: Any) -> QuantizeSettings:
    """Few steps, in batches of 8; no layer is treated otherwise than the rest."""
    plain = {"levels": 4, "first_last": 0, "iterations": 5, "samples": 40}
    retrain = Settings(steps=steps, epochs=1, batch=8, rate=1e-2, optimizer="adamw", weight_decay=0.1)
    return QuantizeSettings(retrain=retrain, final=Settings(epochs=1, batch=8), **{**plain, **options})


def prepared(net: nn.Module, given: QuantizeSettings) -> Quantizable:
    """A net with its quantizers."""
    example = family(net).example(net)
    return quantizable(folded(net, example), given, example)


def process(net: nn.Module, given: QuantizeSettings, kind: type[Kind] = Process) -> Kind:
    """A process that has not begun."""
    found = prepared(net, given)
    trainer = Trainer(found.net, data(net), family(net).task, device="cpu")
    return kind(found, trainer, given)
