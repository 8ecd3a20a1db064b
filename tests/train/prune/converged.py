"""A small net that has been trained until its gradient is gone: where second-order scores ought to be right."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, cross_entropy

from graphopt.models.data import digits


@dataclass(frozen=True)
class Converged:
    """A net in float64, what it was trained on (600 digits of 4x4 pixels) and what training minimised."""

    net: nn.Module
    batch: tuple[Tensor, Tensor]
    loss: Callable[[nn.Module, Tensor, Tensor], Tensor]


def converged(seed: int, decay: float) -> Converged:
    """Train by L-BFGS; ``decay`` above 0 gives cross entropy a minimum at finite weights."""
    train = digits.load(train=600).train
    inputs, labels = avg_pool2d(train.inputs.double(), 2).flatten(1), train.targets
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(16, 8), nn.Tanh(), nn.Linear(8, 10)).double()

    def decayed(net: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
        size = sum(one.square().sum() for one in net.parameters())
        return cross_entropy(net(inputs), targets) + decay / 2 * size

    optimizer = torch.optim.LBFGS(net.parameters(), max_iter=300, history_size=30, line_search_fn="strong_wolfe")

    def closure() -> float:
        optimizer.zero_grad()
        value = decayed(net, inputs, labels)
        value.backward()
        return float(value.detach())

    optimizer.step(closure)
    return Converged(net, (inputs, labels), decayed)
