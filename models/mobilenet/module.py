"""The network of M. Sandler et al., "MobileNetV2", CVPR 2018, with fewer strides, as images are small.

Unlike in the paper, the first inverted residual expands as well.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional

from graphopt.models.classifier import seeded

PLAN = ((16, 1, 1), (24, 2, 1), (32, 3, 2), (64, 4, 2), (96, 3, 1), (160, 3, 2), (320, 1, 1))
"""(channels, blocks, stride of the first) of each stage, for a stem of 32 channels."""

STEM, HEAD = 32, 1280


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
        """``x + project(filter(expand(x)))``; ``x`` is ``[n, inputs, h, w]``."""
        y = functional.relu6(self.bn1(self.expand(x)))
        y = functional.relu6(self.bn2(self.filter(y)))
        y = self.bn3(self.project(y))
        return x + y if self.residual else y


class MobileNet(nn.Module):
    """Stem, inverted residuals, 1x1 head, global average pool, classifier."""

    def __init__(
        self, stem: int, plan: Sequence[tuple[int, int, int]], factor: int, head: int, classes: int = 10, size: int = 32
    ) -> None:
        """Build it.

        Args:
            stem: Channels of the stem.
            plan: (channels, blocks, stride of the first) of each stage.
            factor: Expansion.
            head: Channels of the head.
            classes: How many.
            size: Height and width of the images.
        """
        super().__init__()
        self.shape = (3, size, size)
        self.conv, self.bn = nn.Conv2d(3, stem, 3, 1, 1, bias=False), nn.BatchNorm2d(stem)
        blocks, before = [], stem
        for width, repeats, stride in plan:
            for index in range(repeats):
                blocks.append(Inverted(before, width, stride if index == 0 else 1, factor))
                before = width
        self.blocks = nn.Sequential(*blocks)
        self.head, self.bn_head = nn.Conv2d(before, head, 1, bias=False), nn.BatchNorm2d(head)
        self.linear = nn.Linear(head, classes)

    def forward(self, image: Tensor) -> Tensor:
        """``image`` is normalised, ``[n, 3, size, size]``; returns logits ``[n, classes]``."""
        x = self.blocks(functional.relu6(self.bn(self.conv(image))))
        return self.linear(functional.relu6(self.bn_head(self.head(x))).mean((2, 3)))


def new(seed: int = 0, width: int = STEM, expansion: int = 6, size: int = 32) -> MobileNet:
    """Return a net with random weights, the same ones for the same seed.

    Args:
        seed: Of the weights.
        width: Channels of the stem; all others are in proportion, at least 1.
        expansion: How many times as many channels a depthwise convolution has.
        size: Height and width of the images.
    """
    plan = [(_share(channels, width), blocks, stride) for channels, blocks, stride in PLAN]
    return seeded(seed, lambda: MobileNet(width, plan, expansion, _share(HEAD, width), size=size))


def _share(channels: int, width: int) -> int:
    return max(1, round(channels * width / STEM))
