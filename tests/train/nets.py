"""Small nets and small data that learn something in a second."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from graphopt.train.data import Data, Split
from graphopt.train.hooks import Hook
from graphopt.train.settings import Settings
from graphopt.train.task import CLASSIFICATION
from graphopt.train.trainer import Trainer

FEATURES, CLASSES = 7, 3


def data(train: int = 61, test: int = 31, seed: int = 0) -> Data:
    """Points and which of three directions they lie in."""
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(train + test, FEATURES, generator=generator)
    targets = (inputs @ torch.randn(FEATURES, CLASSES, generator=generator)).argmax(1)
    return Data(Split(inputs[:train], targets[:train]), Split(inputs[train:], targets[train:]))


def net(seed: int = 0, hidden: int = 13, dropout: float = 0.0, norm: bool = False) -> nn.Sequential:
    """Two layers."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers: list[nn.Module] = [nn.Linear(FEATURES, hidden)]
        layers += [nn.BatchNorm1d(hidden)] if norm else []
        layers += [nn.ReLU(), nn.Dropout(dropout), nn.Linear(hidden, CLASSES)]
        return nn.Sequential(*layers)


def trainer(**more: object) -> Trainer:
    """A trainer of such a net on such data; arguments are those of ``Trainer``, ``net`` and ``data`` among them."""
    arguments: dict = {"net": net(), "data": data(), "device": "cpu", **more}
    return Trainer(arguments.pop("net"), arguments.pop("data"), CLASSIFICATION, **arguments)


def short(**more: object) -> Settings:
    """Two epochs of eight steps."""
    options: dict = {"epochs": 2, "batch": 8, "rate": 0.02, **more}
    return Settings(**options)


def weights(net: nn.Module) -> dict[str, Tensor]:
    """Copies of parameters and buffers."""
    return {name: one.detach().clone() for name, one in net.state_dict().items()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    """Bit by bit."""
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


class Diary(Hook):
    """Notes what it was told, and counts steps as its state."""

    def __init__(self, net: nn.Module | None = None) -> None:
        self.net = net
        self.calls: list[tuple[str, float]] = []
        self.count = 0

    def at(self, share: float) -> None:
        self.calls.append(("at", share))

    def after_backward(self) -> None:
        self.calls.append(("backward", _size([one.grad for one in self.net.parameters()]) if self.net else 0.0))

    def after_step(self) -> None:
        self.calls.append(("step", _size(list(self.net.parameters())) if self.net else 0.0))
        self.count += 1

    def state_dict(self) -> dict:
        return {"count": self.count}

    def load_state_dict(self, state) -> None:
        self.count = state["count"]


def _size(tensors: list) -> float:
    return float(sum(one.detach().double().square().sum() for one in tensors if one is not None)) ** 0.5
