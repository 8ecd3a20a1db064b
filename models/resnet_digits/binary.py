"""The form for binary layers: ``hardtanh`` instead of ReLU, and a shortcut around every convolution."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from graphopt.models.resnet_digits import module


class Block(module.Block):
    """``hardtanh(shortcut(x) + bn(conv(x)))``, then the same with the identity."""

    def forward(self, x: Tensor) -> Tensor:
        """`x` is [N, channels_in, H, W]; returns [N, channels, H / stride, W / stride]."""
        y = functional.hardtanh(self.shortcut(x) + self.bn1(self.conv1(x)))
        return functional.hardtanh(y + self.bn2(self.conv2(y)))


class BinaryResNetDigits(module.ResNetDigits):
    """The float net that gets binary layers; parameters have the names of ``ResNetDigits``."""

    def __init__(self, width: int = 64) -> None:
        super().__init__(width)
        self.blocks = nn.Sequential(Block(width, width), Block(width, 2 * width, stride=2), Block(2 * width, 2 * width))

    def forward(self, image: Tensor) -> Tensor:
        """`image` is [N, 1, 8, 8] with values 0 to 1; returns [N, 10] logits."""
        x = functional.hardtanh(self.bn(self.stem(image)))
        return self.head(torch.mean(self.blocks(x), dim=(2, 3)))


def new(seed: int = 0, width: int = 64) -> BinaryResNetDigits:
    """Return a float net with random weights, the same ones for the same seed; ``binarize_net`` makes it binary."""
    net = BinaryResNetDigits(width)
    net.load_state_dict(module.new(seed, width).state_dict())
    return net
