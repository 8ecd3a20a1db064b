"""A MobileNetV3-like net: expand, depthwise, squeeze-and-excite, project; hardswish; norms are masked, too."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.nets.masking import half, mask_rows, randomise
from tests.nets.parts import batch_norm_part, conv_part, linear_part


class Excited(nn.Module):
    """1x1 expand, 3x3 depthwise, a gate per channel from the mean, 1x1 project; a residual where the shapes agree."""

    def __init__(self, inputs: int, outputs: int, stride: int, factor: int) -> None:
        super().__init__()
        wide = inputs * factor
        self.expand, self.norm1 = nn.Conv2d(inputs, wide, 1, bias=False), nn.BatchNorm2d(wide)
        self.filter, self.norm2 = nn.Conv2d(wide, wide, 3, stride, 1, groups=wide, bias=False), nn.BatchNorm2d(wide)
        self.squeeze, self.excite = nn.Conv2d(wide, wide // 4, 1), nn.Conv2d(wide // 4, wide, 1)
        self.project, self.norm3 = nn.Conv2d(wide, outputs, 1, bias=False), nn.BatchNorm2d(outputs)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """x + project(gate * filter(expand(x)))."""
        y = functional.hardswish(self.norm1(self.expand(x)))
        y = functional.hardswish(self.norm2(self.filter(y)))
        gate = functional.adaptive_avg_pool2d(y, 1)
        y = functional.hardsigmoid(self.excite(functional.relu(self.squeeze(gate)))) * y
        y = self.norm3(self.project(y))
        return x + y if self.residual else y


class MobileNet3(nn.Module):
    """Stem, blocks, head, global pool, classifier."""

    def __init__(self, stem: int, plan: tuple[tuple[int, int, int], ...], factor: int, head: int) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, stem, 3, 2, 1, bias=False), nn.BatchNorm2d(stem)
        blocks, before = [], stem
        for width, repeats, stride in plan:
            for index in range(repeats):
                blocks.append(Excited(before, width, stride if index == 0 else 1, factor))
                before = width
        self.blocks = nn.Sequential(*blocks)
        self.head, self.head_norm = nn.Conv2d(before, head, 1, bias=False), nn.BatchNorm2d(head)
        self.linear = nn.Linear(head, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Takes (batch, 3, h, w) to logits."""
        x = self.blocks(functional.hardswish(self.norm(self.conv(x))))
        return self.linear(functional.hardswish(self.head_norm(self.head(x))).mean((2, 3)))


def masked(stem: int, plan: tuple[tuple[int, int, int], ...], factor: int, head: int, seed: int) -> MobileNet3:
    """Half of everything: streams alike in all their writers, wide channels alike in expansion and filter."""
    numbers = torch.Generator().manual_seed(seed)
    model = MobileNet3(stem, plan, factor, head)
    randomise(model, seed)

    def together(dead: Tensor, *parts: nn.Module) -> None:
        for part in parts:
            mask_rows(part, dead)

    stream = half(stem, numbers)
    together(stream, model.conv, model.norm)
    for block in model.blocks:
        assert isinstance(block, Excited)
        together(half(block.filter.out_channels, numbers), block.expand, block.norm1, block.filter, block.norm2)
        together(half(block.squeeze.out_channels, numbers), block.squeeze)
        stream = stream if block.residual else half(block.project.out_channels, numbers)
        together(stream, block.project, block.norm3)
    together(half(head, numbers), model.head, model.head_norm)
    return model.eval()


def _alive(norm: nn.Module) -> Tensor:
    weight = norm.weight
    assert isinstance(weight, Tensor)
    return weight.detach().reshape(weight.shape[0], -1).any(1).nonzero().flatten()


def twin(model: MobileNet3) -> nn.Module:
    """Every dead channel goes, with its gate. The model is changed in place."""
    now = _alive(model.norm)
    model.conv, model.norm = conv_part(model.conv, rows=now), batch_norm_part(model.norm, now)
    for block in model.blocks:
        assert isinstance(block, Excited)
        wide, few, after = _alive(block.norm2), _alive(block.squeeze), _alive(block.norm3)
        block.expand, block.norm1 = conv_part(block.expand, rows=wide, columns=now), batch_norm_part(block.norm1, wide)
        block.filter, block.norm2 = conv_part(block.filter, rows=wide), batch_norm_part(block.norm2, wide)
        block.squeeze = conv_part(block.squeeze, rows=few, columns=wide)
        block.excite = conv_part(block.excite, rows=wide, columns=few)
        block.project = conv_part(block.project, rows=after, columns=wide)
        block.norm3, now = batch_norm_part(block.norm3, after), after
    last = _alive(model.head_norm)
    model.head, model.head_norm = conv_part(model.head, rows=last, columns=now), batch_norm_part(model.head_norm, last)
    model.linear = linear_part(model.linear, columns=last)
    return model.eval()
