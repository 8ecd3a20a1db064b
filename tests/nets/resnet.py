"""CIFAR ResNets with option-A shortcuts, and a ResNet-18-like net with projections: their hand-narrowed twin."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from graphopt.models.resnet_cifar.module import Block, ResNet
from graphopt.models.resnet_cifar.weights import load
from tests.nets.cutting import Known, Spread, Unit, constants, cut, cut_linear, places


def load_cifar(model: ResNet, path: Path) -> ResNet:
    """Loads published CIFAR-10 weights (safetensors) into a net of the same shape."""
    load(model, path)
    return model


class NarrowBlock(nn.Module):
    """A narrowed block: what the stream carries on both sides, a narrow branch, one join."""

    take: Tensor | None

    def __init__(
        self,
        first: Unit,
        second: Unit,
        join: nn.Module,
        stride: int,
        side: nn.Module | None,
        take: Tensor | None,
        margin: tuple[int, int],
    ) -> None:
        super().__init__()
        self.first, self.second, self.join, self.side = first, second, join, side
        self.stride, self.margin = stride, margin
        self.register_buffer("take", take)

    def forward(self, x: Tensor) -> Tensor:
        """relu(shortcut + spread branch)."""
        branch = self.join(self.second(self.first(x)))
        if self.side is not None:
            x = self.side(x)
        elif self.stride != 1:
            x = x[:, :, :: self.stride, :: self.stride]
            if self.margin != (0, 0):
                x = functional.pad(x, (0, 0, 0, 0, *self.margin))
            if self.take is not None:
                x = x.index_select(1, self.take)
        return functional.relu(x + branch)


class NarrowResNet(nn.Module):
    """The twin."""

    def __init__(self, stem: Unit, blocks: list[NarrowBlock], linear: nn.Linear) -> None:
        super().__init__()
        self.stem, self.blocks, self.linear = stem, nn.Sequential(*blocks), linear

    def forward(self, x: Tensor) -> Tensor:
        """As the original."""
        return self.linear(self.blocks(self.stem(x)).mean((2, 3)))


def _units(block: Block) -> tuple[Unit, Unit, Unit | None]:
    side = block.projection
    return (
        Unit(block.conv1, block.bn1, nn.ReLU()),
        Unit(block.conv2, block.bn2),
        None if side is None else Unit(side[0], side[1]),
    )  # pyright: ignore[reportArgumentType]


def _onto(block: Block, values: Tensor) -> Tensor:
    """One number per stream channel, carried along an option-A or identity shortcut."""
    return functional.pad(values, (block.extra, block.extra)) if block.extra else values


def twin(model: ResNet, *, hold_joins: bool = False) -> nn.Module:
    """The net with its masked channels cut out by hand.

    Each stage's stream carries the union of everything live in it, and the constants that a zero-padded convolution
    reads; stem and projections write the stream directly, branches are narrow and spread at the join.

    Args:
        model: the masked net; not changed.
        hold_joins: let the last convolution of a branch write the whole stream (zero rows, no join) instead.
    """
    nan = float("nan")
    stem = Unit(model.conv1, model.bn1, nn.ReLU())
    live, const = constants(stem, Known.all(3))
    stream = torch.where(live, nan, const)
    needed = [torch.zeros(model.stage(index)[0].conv2.out_channels, dtype=torch.bool) for index in range(model.stages)]
    # First walk: NaN marks what varies, a number is the constant that a stream channel holds at this place.
    for index in range(model.stages):
        for number, block in enumerate(model.stage(index)):
            _, second, side = _units(block)
            # NaN != 0: varying channels are read, too. A stage's first block reads the stage before.
            needed[index - 1 if number == 0 and index > 0 else index] |= stream != 0
            live2, const2 = constants(second, Known.all(block.conv2.in_channels))
            if side is None:
                stream = _onto(block, stream)
            else:
                live_side, const_side = constants(side, Known.all(stream.numel()))
                stream = torch.where(live_side, nan, const_side)
            stream = (stream + torch.where(live2, nan, const2)).relu()
    needed[-1] |= stream.isnan()
    sets = [need.nonzero().flatten() for need in needed]
    last = Known(sets[-1], torch.where(stream.isnan(), 0.0, stream))

    # Second walk: cut. Inside the stages whatever is not carried is zero wherever it is read.
    small_stem, _ = cut(stem, Known.all(3), needed[0])
    blocks: list[NarrowBlock] = []
    now = Known(sets[0], torch.zeros(needed[0].numel()))
    for index in range(model.stages):
        for block in model.stage(index):
            first, second, side = _units(block)
            wanted = sets[index]
            live1, const1 = constants(first, now)
            small_first, between = cut(first, now, live1 | (const1 != 0))
            live2, _ = constants(second, between)
            small_second, branch = cut(second, between, needed[index] if hold_joins else live2 & needed[index])
            small_side, take, margin = None, None, (0, 0)
            if side is not None:
                small_side, _ = cut(side, now, needed[index])
            elif block.stride != 1:
                # Carried positions in the new numbering; a zero channel stands behind and before them for the others.
                have = now.keep + block.extra
                place = torch.zeros(needed[index].numel(), dtype=torch.long)
                place[have] = torch.arange(1, have.numel() + 1)
                take, margin = place[wanted], (1, 0)
                inside = torch.arange(1, have.numel() + 1)
                carried = (place[wanted] > 0).nonzero().flatten()
                low, high = int(carried[0]), int(wanted.numel() - carried[-1] - 1)
                if torch.equal(place[wanted][low : wanted.numel() - high], inside):
                    take, margin = None, (low, high)
            blocks.append(
                NarrowBlock(small_first, small_second, Spread(branch, wanted), block.stride, small_side, take, margin)
            )
            now = Known(wanted, torch.zeros(needed[index].numel()))
    assert places(now.keep, sets[-1]) is None
    return NarrowResNet(small_stem, blocks, cut_linear(model.linear, last)).eval()
