"""ResNet-18 and MobileNetV2 as published, for images of 224 x 224; random weights, statistics of their own outputs."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional

from tests.nets.masking import randomise
from tests.nets.mobilenet import Inverted
from tests.nets.resnet import Block

PLAN = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
"""MobileNetV2's stages: expansion, channels, repeats, stride of the first. Sandler et al. 2018, table 2."""


class ResNet18(nn.Module):
    """He et al. 2015, table 1: a 7x7 stem, maximum pool, four stages of two blocks, global average, classifier."""

    def __init__(self, classes: int = 1000) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64)
        widths = (64, 64, 128, 256, 512)
        self.blocks = nn.Sequential(
            *(
                Block(before if index == 0 else width, width, 2 if index == 0 and before != width else 1, True)
                for before, width in pairwise(widths)
                for index in range(2)
            )
        )
        self.linear = nn.Linear(512, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Takes (batch, 3, 224, 224) to logits."""
        x = functional.max_pool2d(functional.relu(self.bn(self.conv(x))), 3, 2, 1)
        return self.linear(functional.adaptive_avg_pool2d(self.blocks(x), 1).flatten(1))


class First(nn.Module):
    """The first block of MobileNetV2, which does not expand."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.filter, self.bn1 = nn.Conv2d(inputs, inputs, 3, 1, 1, groups=inputs, bias=False), nn.BatchNorm2d(inputs)
        self.project, self.bn2 = nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """project(filter(x))."""
        return self.bn2(self.project(functional.relu6(self.bn1(self.filter(x)))))


class MobileNetV2(nn.Module):
    """A 3x3 stem, inverted residuals, a 1x1 head, global average, classifier."""

    def __init__(self, classes: int = 1000) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 32, 3, 2, 1, bias=False), nn.BatchNorm2d(32)
        blocks: list[nn.Module] = []
        before = 32
        for factor, width, repeats, stride in PLAN:
            for index in range(repeats):
                step = stride if index == 0 else 1
                blocks.append(First(before, width) if factor == 1 else Inverted(before, width, step, factor))
                before = width
        self.blocks = nn.Sequential(*blocks)
        self.head, self.bn_head = nn.Conv2d(before, 1280, 1, bias=False), nn.BatchNorm2d(1280)
        self.linear = nn.Linear(1280, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Takes (batch, 3, 224, 224) to logits."""
        x = self.blocks(functional.relu6(self.bn(self.conv(x))))
        x = functional.relu6(self.bn_head(self.head(x)))
        return self.linear(functional.adaptive_avg_pool2d(x, 1).flatten(1))


def resnet18() -> nn.Module:
    """The net in evaluation mode, the same at every call."""
    return randomise(ResNet18(), 18).eval()


def mobilenet_v2() -> nn.Module:
    """The net in evaluation mode, the same at every call."""
    return randomise(MobileNetV2(), 2).eval()
