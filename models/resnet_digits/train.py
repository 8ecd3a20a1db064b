"""Training, and pruning in the way a user of ``torch.nn.utils.prune`` does it."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn
from torch.nn.utils import prune

from graphopt.models.resnet_digits.family import FAMILY
from graphopt.models.resnet_digits.module import Block, ResNetDigits
from graphopt.train.data import Data
from graphopt.train.settings import Settings
from graphopt.train.trainer import Progress, Trainer, quiet


def train(
    net: nn.Module,
    data: Data,
    *,
    epochs: int,
    rate: float = 2e-3,
    seed: int = 0,
    progress: Progress = quiet,
    label: str = "training",
) -> float:
    """Train in place with Adam and a one-cycle rate, and leave the net in eval mode; returns the last epoch's loss.

    One thread: the same sums in the same order on every machine, and no threads that wait for each other on a busy one.
    Masks of ``torch.nn.utils.prune`` are held by construction: the weight is ``weight_orig * weight_mask`` at every
    step, so that the gradient never reaches a masked weight.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        trainer = Trainer(net, data, FAMILY.task, seed=seed, device="cpu", progress=progress)
        return trainer.fit(Settings(epochs=epochs, rate=rate), label=label)
    finally:
        torch.set_num_threads(threads)


def prune_filters(net: ResNetDigits, amount: float = 0.5) -> None:
    """Mask the ``amount`` of filters with the least L1 norm, in every convolution by itself, in place.

    A filter takes its batch-norm scale and shift with it, as they would otherwise put a constant where the filter was.
    The masks stay in the net as ``weight_mask`` buffers: that is the simulation which graphopt removes.
    """
    for conv, norm in filters(net):
        prune.ln_structured(conv, "weight", amount=amount, n=1, dim=0)
        alive = conv.get_buffer("weight_mask").amax(dim=(1, 2, 3))
        prune.custom_from_mask(norm, "weight", alive)
        prune.custom_from_mask(norm, "bias", alive)


def filters(net: ResNetDigits) -> Iterator[tuple[nn.Conv2d, nn.BatchNorm2d]]:
    """Yield every convolution with the batch-norm behind it."""
    yield net.stem, net.bn
    for block in net.blocks:
        assert isinstance(block, Block)
        yield block.conv1, block.bn1
        yield block.conv2, block.bn2
        if isinstance(block.shortcut, nn.Sequential):
            conv, norm = block.shortcut
            assert isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d)
            yield conv, norm
