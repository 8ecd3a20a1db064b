"""A MobileNetV2-like net: expand, depthwise, project; ReLU6; residuals without activation."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tests.nets.cutting import Known, Spread, Unit, constants, cut, cut_linear


class Inverted(nn.Module):
    """1x1 expand, 3x3 depthwise, 1x1 project; a residual where the shapes agree."""

    def __init__(self, inputs: int, outputs: int, stride: int, factor: int) -> None:
        super().__init__()
        wide = inputs * factor
        self.expand, self.bn1 = nn.Conv2d(inputs, wide, 1, bias=False), nn.BatchNorm2d(wide)
        self.filter, self.bn2 = nn.Conv2d(wide, wide, 3, stride, 1, groups=wide, bias=False), nn.BatchNorm2d(wide)
        self.project, self.bn3 = nn.Conv2d(wide, outputs, 1, bias=False), nn.BatchNorm2d(outputs)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """x + project(filter(expand(x)))."""
        y = nn.functional.relu6(self.bn1(self.expand(x)))
        y = nn.functional.relu6(self.bn2(self.filter(y)))
        y = self.bn3(self.project(y))
        return x + y if self.residual else y


class MobileNet(nn.Module):
    """Stem, inverted residuals, 1x1 head, global average pool, classifier."""

    def __init__(self, stem: int, plan: tuple[tuple[int, int, int], ...], factor: int, head: int) -> None:
        """Builds it.

        Args:
            stem: channels of the stem.
            plan: (channels, repeats, stride of the first) per stage.
            factor: expansion.
            head: channels of the head.
        """
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, stem, 3, 1, 1, bias=False), nn.BatchNorm2d(stem)
        blocks, before = [], stem
        for width, repeats, stride in plan:
            for index in range(repeats):
                blocks.append(Inverted(before, width, stride if index == 0 else 1, factor))
                before = width
        self.blocks = nn.Sequential(*blocks)
        self.head, self.bn_head = nn.Conv2d(before, head, 1, bias=False), nn.BatchNorm2d(head)
        self.linear = nn.Linear(head, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Takes (batch, 3, h, w) to logits."""
        x = self.blocks(nn.functional.relu6(self.bn(self.conv(x))))
        return self.linear(nn.functional.relu6(self.bn_head(self.head(x))).mean((2, 3)))


class NarrowInverted(nn.Module):
    """A narrowed block; ``join`` is None where nothing is added."""

    def __init__(self, expand: Unit, filters: Unit, project: Unit, join: nn.Module | None) -> None:
        super().__init__()
        self.expand, self.filters, self.project, self.join = expand, filters, project, join

    def forward(self, x: Tensor) -> Tensor:
        """As the original, on fewer channels."""
        y = self.project(self.filters(self.expand(x)))
        return y if self.join is None else x + self.join(y)


class NarrowMobileNet(nn.Module):
    """The twin."""

    def __init__(self, stem: Unit, blocks: list[NarrowInverted], head: Unit, linear: nn.Linear) -> None:
        super().__init__()
        self.stem, self.blocks, self.head, self.linear = stem, nn.Sequential(*blocks), head, linear

    def forward(self, x: Tensor) -> Tensor:
        """As the original."""
        return self.linear(self.head(self.blocks(self.stem(x))).mean((2, 3)))


def _stream(live: Tensor, later: list[Inverted]) -> Tensor:
    """What the first writer of a run of residual blocks has to carry: what it or any block of the run makes live."""
    rows = live.clone()
    for block in later:
        if not block.residual:
            break
        rows |= (block.project.weight != 0).flatten(1).any(1)
    return rows


def twin(model: MobileNet) -> nn.Module:
    """Streams feed 1x1 convolutions only, so their constants all go into biases; depthwise filters decide the width.

    An expanded channel is needed only where its depthwise filter is alive, and then if it varies or is a nonzero
    constant that the depthwise layer's zero padding turns into a border.
    """
    stem = Unit(model.conv, model.bn, nn.ReLU6())
    blocks = [block for block in model.blocks if isinstance(block, Inverted)]
    small_stem, now = cut(stem, Known.all(3), _stream(constants(stem, Known.all(3))[0], blocks))
    made: list[NarrowInverted] = []
    for index, block in enumerate(blocks):
        expand = Unit(block.expand, block.bn1, nn.ReLU6())
        filters = Unit(block.filter, block.bn2, nn.ReLU6())
        project = Unit(block.project, block.bn3)
        live1, const1 = constants(expand, now)
        live2, _ = constants(filters, Known.all(live1.numel()))
        small_expand, wide = cut(expand, now, live2 & (live1 | (const1 != 0)))
        # What is dropped in front of a dead filter does not matter; elsewhere it is zero.
        wide = Known(wide.keep, torch.zeros(wide.size))
        chosen = torch.zeros(wide.size, dtype=torch.bool)
        chosen[wide.keep] = True
        small_filters, wide = cut(filters, wide, chosen)
        live3, const3 = constants(project, wide)
        if block.residual:
            small_project, branch = cut(project, wide, live3)
            join: nn.Module | None = Spread(branch, now.keep)
            now = Known(now.keep, now.fill + const3)
        else:
            join = None
            small_project, now = cut(project, wide, _stream(live3, blocks[index + 1 :]))
        made.append(NarrowInverted(small_expand, small_filters, small_project, join))
    head = Unit(model.head, model.bn_head, nn.ReLU6())
    small_head, now = cut(head, now, constants(head, now)[0])
    return NarrowMobileNet(small_stem, made, small_head, cut_linear(model.linear, now)).eval()
