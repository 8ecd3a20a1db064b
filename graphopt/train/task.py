"""What is learnt: the loss, and the figure that people read."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from graphopt.train.data import Data, Samples, take


@dataclass(frozen=True)
class Task:
    """A loss and a figure.

    Attributes:
        name: For people.
        loss: Of outputs and targets: the mean over the batch, a scalar.
        figure: Name of the figure that people read: ``accuracy``, ``perplexity``.
        count: Of outputs and targets: a sum (over what the batch holds) and how many were summed; tensors or numbers.
        finish: From the mean of what ``count`` sums to the figure.
        higher: Whether more is better.
    """

    name: str
    loss: Callable[[Tensor, Tensor], Tensor]
    figure: str
    count: Callable[[Tensor, Tensor], tuple[Tensor, int]]
    finish: Callable[[float], float]
    higher: bool

    @torch.no_grad()
    def evaluate(self, net: nn.Module, data: Data, split: Samples | None = None, batch: int = 256) -> float:
        """Return the figure of a net on the test samples (or on ``split``); nan of no samples.

        The net is put into eval mode and back.
        """
        samples, was_training = data.test if split is None else split, net.training
        device = next((one.device for one in net.parameters()), torch.device("cpu"))
        net.eval()
        try:
            total, number = 0.0, 0
            for start in range(0, len(samples), batch):
                inputs, targets = take(samples, range(start, min(start + batch, len(samples))))
                some, n = self.count(self.outputs(net, data.prepare(inputs.to(device))), targets.to(device))
                total, number = total + float(some), number + n
        finally:
            net.train(was_training)
        return self.finish(total / number) if number else math.nan

    def outputs(self, net: nn.Module, inputs: Tensor) -> Tensor:
        """Return what the loss is about: the first output of a net that has several."""
        found = net(inputs)
        return found[0] if isinstance(found, tuple) else found


def _right(logits: Tensor, labels: Tensor) -> tuple[Tensor, int]:
    return (logits.argmax(1) == labels).sum(), len(labels)


def _nats(logits: Tensor, tokens: Tensor) -> tuple[Tensor, int]:
    return _tokens(logits, tokens) * tokens.numel(), tokens.numel()


def _tokens(logits: Tensor, tokens: Tensor) -> Tensor:
    return functional.cross_entropy(logits.flatten(0, 1).float(), tokens.flatten())


CLASSIFICATION = Task(
    "classification", lambda logits, labels: functional.cross_entropy(logits.float(), labels), "accuracy", _right,
    float, True,
)  # fmt: skip
"""Logits ``[n, classes]``, labels ``[n]``; the figure is the share of samples whose largest logit is their label."""

LANGUAGE = Task("language", _tokens, "perplexity", _nats, math.exp, False)
"""Logits ``[n, time, tokens]``, tokens ``[n, time]``; the figure is the exponential of the mean loss in nats."""
