"""The hand-narrowed twin of a MobileNetV2-like net: expand, depthwise, project; residuals without activation."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from graphopt.models.mobilenet.module import Inverted, MobileNet
from tests.nets.cutting import Known, Spread, Unit, constants, cut, cut_linear


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
