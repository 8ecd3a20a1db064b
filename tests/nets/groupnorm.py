"""A ResNet with group-norms of which whole groups are dead."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.nets.masking import half, mask_rows, randomise
from tests.nets.parts import conv_part, group_norm_part, linear_part


class Block(nn.Module):
    """Two 3x3 convolutions with norms around a sum; the first one and a projection may be strided."""

    def __init__(self, inputs: int, outputs: int, stride: int, size: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.norm1, self.norm2 = (nn.GroupNorm(outputs // size, outputs) for _ in range(2))
        self.project = nn.Conv2d(inputs, outputs, 1, stride, bias=False) if stride > 1 else None

    def forward(self, x: Tensor) -> Tensor:
        """relu(shortcut + branch)."""
        y = functional.relu(self.norm1(self.conv1(x)))
        y = self.norm2(self.conv2(y))
        return functional.relu(y + (x if self.project is None else self.project(x)))


class GroupNet(nn.Module):
    """Stem, stages of blocks, global pool, classifier; groups of ``size`` channels."""

    def __init__(self, widths: tuple[int, ...], depth: int, size: int) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, widths[0], 3, 1, 1, bias=False), nn.GroupNorm(widths[0] // size, widths[0])
        blocks, before = [], widths[0]
        for width in widths:
            for _ in range(depth):
                blocks.append(Block(before, width, 1 if before == width else 2, size))
                before = width
        self.blocks, self.linear = nn.Sequential(*blocks), nn.Linear(before, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Takes (batch, 3, h, w) to logits."""
        return self.linear(self.blocks(functional.relu(self.norm(self.conv(x)))).mean((2, 3)))


def masked(widths: tuple[int, ...], depth: int, size: int, seed: int) -> GroupNet:
    """Half of the groups with their norms; the same ones in all writers of a stream."""
    numbers = torch.Generator().manual_seed(seed)
    model = GroupNet(widths, depth, size)
    randomise(model, seed)

    def groups(width: int) -> Tensor:
        return half(width // size, numbers).repeat_interleave(size)

    stream = groups(widths[0])
    writers = [(model.conv, model.norm, stream)]
    for block in model.blocks:
        assert isinstance(block, Block)
        writers.append((block.conv1, block.norm1, groups(block.conv1.out_channels)))
        if block.project is not None:
            stream = groups(block.conv2.out_channels)
            mask_rows(block.project, stream)
        writers.append((block.conv2, block.norm2, stream))
    for conv, norm, dead in writers:
        mask_rows(conv, dead)
        mask_rows(norm, dead)
    return model.eval()


def twin(model: GroupNet) -> nn.Module:
    """Dead groups go. The model is changed in place."""

    def alive(norm: nn.GroupNorm) -> Tensor:
        return norm.weight.detach().nonzero().flatten()

    now = alive(model.norm)
    model.conv, model.norm = conv_part(model.conv, rows=now), group_norm_part(model.norm, now)
    for block in model.blocks:
        assert isinstance(block, Block)
        inner, after = alive(block.norm1), alive(block.norm2)
        block.conv1 = conv_part(block.conv1, rows=inner, columns=now)
        block.conv2 = conv_part(block.conv2, rows=after, columns=inner)
        block.norm1, block.norm2 = group_norm_part(block.norm1, inner), group_norm_part(block.norm2, after)
        if block.project is not None:
            block.project = conv_part(block.project, rows=after, columns=now)
        now = after
    model.linear = linear_part(model.linear, columns=now)
    return model.eval()
