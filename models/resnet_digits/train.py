"""Training and pruning, the way a user of `torch.nn.utils.prune` does it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import nn
from torch.nn.utils import prune

from graphopt.models.resnet_digits.module import Block, ResNetDigits

Step = Callable[[int, int, float], None]
"""Called after each step: how many are done, how many there are, the loss."""


def train(
    net: nn.Module,
    images: np.ndarray,
    labels: np.ndarray,
    *,
    epochs: int,
    rate: float = 2e-3,
    batch: int = 64,
    seed: int = 0,
    step: Step = lambda done, total, loss: None,
) -> None:
    """Trains in place with Adam and a one-cycle rate, and leaves the net in eval mode.

    One thread: the same sums in the same order on every machine, and no threads that wait for each other on a busy one.
    Masks of `torch.nn.utils.prune` are held by construction: the weight is `weight_orig * weight_mask` at every step,
    so that the gradient never reaches a masked weight. Args as `graphopt.models.resnet_digits.data` gives them.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        _train(net, images, labels, epochs, rate, batch, seed, step)
    finally:
        torch.set_num_threads(threads)


def _train(
    net: nn.Module,
    images: np.ndarray,
    labels: np.ndarray,
    epochs: int,
    rate: float,
    batch: int,
    seed: int,
    step: Step,
) -> None:
    order = torch.Generator().manual_seed(seed)
    inputs, targets = torch.from_numpy(images), torch.from_numpy(labels)
    steps = epochs * -(-len(inputs) // batch)
    optimizer = torch.optim.Adam(net.parameters(), lr=rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=rate, total_steps=steps)
    net.train()
    done = 0
    for _ in range(epochs):
        for chosen in torch.randperm(len(inputs), generator=order).split(batch):
            loss = nn.functional.cross_entropy(net(inputs[chosen]), targets[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            done += 1
            step(done, steps, loss.item())
    net.eval()


def prune_filters(net: ResNetDigits, amount: float = 0.5) -> None:
    """Masks the `amount` of filters with the least L1 norm, in every convolution by itself, in place.

    A filter takes its batch-norm scale and shift with it, as they would otherwise put a constant where the filter was.
    The masks stay in the net as `weight_mask` buffers: that is the simulation which graphopt removes.
    """
    for conv, norm in filters(net):
        prune.ln_structured(conv, "weight", amount=amount, n=1, dim=0)
        alive = conv.get_buffer("weight_mask").amax(dim=(1, 2, 3))
        prune.custom_from_mask(norm, "weight", alive)
        prune.custom_from_mask(norm, "bias", alive)


def filters(net: ResNetDigits) -> Iterator[tuple[nn.Conv2d, nn.BatchNorm2d]]:
    """Every convolution with the batch-norm behind it."""
    yield net.stem, net.bn
    for block in net.blocks:
        assert isinstance(block, Block)
        yield block.conv1, block.bn1
        yield block.conv2, block.bn2
        if isinstance(block.shortcut, nn.Sequential):
            conv, norm = block.shortcut
            assert isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d)
            yield conv, norm


@torch.no_grad()
def accuracy(net: nn.Module, images: np.ndarray, labels: np.ndarray) -> float:
    """The share of images whose largest logit is their label."""
    predicted = net(torch.from_numpy(images)).argmax(dim=1).numpy()
    return float((predicted == labels).mean())
