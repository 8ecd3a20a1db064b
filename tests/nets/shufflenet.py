"""A ShuffleNet-like net: grouped 1x1, channel shuffle, depthwise, grouped 1x1, around a sum."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.nets.masking import half, mask_rows, randomise
from tests.nets.parts import batch_norm_part, conv_part


class Unit(nn.Module):
    """A bottleneck whose channels are shuffled between two grouped convolutions."""

    def __init__(self, width: int, inner: int, groups: int) -> None:
        super().__init__()
        self.groups = groups
        self.first, self.norm1 = nn.Conv2d(width, inner, 1, groups=groups, bias=False), nn.BatchNorm2d(inner)
        self.filter, self.norm2 = nn.Conv2d(inner, inner, 3, 1, 1, groups=inner, bias=False), nn.BatchNorm2d(inner)
        self.second, self.norm3 = nn.Conv2d(inner, width, 1, groups=groups, bias=False), nn.BatchNorm2d(width)

    def shuffle(self, x: Tensor) -> Tensor:
        """Channel ``i * n + j`` becomes channel ``j * groups + i``."""
        batch, channels, height, width = x.shape
        x = x.view(batch, self.groups, channels // self.groups, height, width)
        return x.transpose(1, 2).reshape(batch, channels, height, width)

    def forward(self, x: Tensor) -> Tensor:
        """Same shape as the input."""
        y = self.shuffle(functional.relu(self.norm1(self.first(x))))
        return functional.relu(x + self.norm3(self.second(self.norm2(self.filter(y)))))


class ShuffleNet(nn.Module):
    """Stem, stages of units with strided convolutions between, global pool, classifier."""

    def __init__(self, widths: tuple[int, ...], depth: int, groups: int) -> None:
        super().__init__()
        self.downs = nn.ModuleList(nn.Conv2d(a, b, 3, 2, 1) for a, b in zip((3, *widths), widths, strict=False))
        self.stages = nn.ModuleList(
            nn.Sequential(*(Unit(width, width, groups) for _ in range(depth))) for width in widths
        )
        self.linear = nn.Linear(widths[-1], 10)

    def forward(self, x: Tensor) -> Tensor:
        """Takes (batch, 3, h, w) to logits."""
        for down, stage in zip(self.downs, self.stages, strict=True):
            x = stage(functional.relu(down(x)))
        return self.linear(x.mean((2, 3)))


def masked(widths: tuple[int, ...], depth: int, groups: int, seed: int, *, alike: bool) -> ShuffleNet:
    """Half of every bottleneck, as many in each group on both sides of the shuffle, norms included.

    Args:
        widths: of the stages; multiples of ``2 * groups**2``.
        depth: units of a stage.
        groups: of the convolutions.
        seed: of weights and masks.
        alike: the same channels in every group; else other ones, as many from each group to each group.
    """
    numbers = torch.Generator().manual_seed(seed)
    model = ShuffleNet(widths, depth, groups)
    randomise(model, seed)
    for unit in model.modules():
        if isinstance(unit, Unit):
            block = unit.first.out_channels // groups**2
            # (group before, group behind the shuffle, channel)
            one = torch.stack([half(block, numbers) for _ in range(groups)])[None].expand(groups, -1, -1)
            other = torch.stack([half(block, numbers) for _ in range(groups**2)]).view(groups, groups, block)
            dead = one if alike else other
            for part in (unit.first, unit.norm1):
                mask_rows(part, dead.reshape(-1))
            for part in (unit.filter, unit.norm2):
                mask_rows(part, dead.permute(1, 2, 0).reshape(-1))
    return model.eval()


def twin(model: ShuffleNet) -> nn.Module:
    """The survivors of every pair of groups are numbered anew, so the narrow shuffle is a shuffle, too.

    The model is changed in place.
    """
    for unit in model.modules():
        if not isinstance(unit, Unit):
            continue
        groups = unit.groups
        alive = (unit.norm1.weight != 0).view(groups, groups, -1)
        inner = unit.norm1.num_features
        before = torch.arange(inner).view(groups, groups, -1)[alive].view(groups, groups, -1)
        # Where channel (i, j) = i * n + j lies behind the shuffle: j * groups + i.
        behind = (before % (inner // groups)) * groups + before // (inner // groups)
        rows, places = before.flatten(), behind.permute(1, 2, 0).flatten()
        unit.first, unit.norm1 = conv_part(unit.first, rows=rows), batch_norm_part(unit.norm1, rows)
        unit.filter, unit.norm2 = conv_part(unit.filter, rows=places), batch_norm_part(unit.norm2, places)
        # Each group of the second convolution has columns of its own.
        wide = unit.second.weight.view(groups, -1, inner // groups)
        columns = (places % (inner // groups)).view(groups, 1, -1).expand(-1, wide.shape[1], -1)
        second = nn.Conv2d(rows.numel(), unit.second.out_channels, 1, groups=groups, bias=False)
        with torch.no_grad():
            second.weight.copy_(wide.gather(2, columns).reshape(second.weight.shape))
        unit.second = second
    return model.eval()
