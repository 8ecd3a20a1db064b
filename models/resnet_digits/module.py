"""The network: a residual CNN for 8x8 images."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from graphopt.models.classifier import seeded


class Block(nn.Module):
    """`relu(shortcut(x) + bn(conv(relu(bn(conv(x))))))`; the shortcut is a 1x1 convolution where the shape changes."""

    def __init__(self, channels_in: int, channels: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels_in != channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(channels_in, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        """`x` is [N, channels_in, H, W]; returns [N, channels, H / stride, W / stride]."""
        y = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.shortcut(x) + self.bn2(self.conv2(y)))


class ResNetDigits(nn.Module):
    """A stem, three blocks (`width` channels at 8x8, then `2 * width` at 4x4), the mean over the image, 10 classes."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.shape = (1, 8, 8)
        self.stem = nn.Conv2d(1, width, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(width)
        self.blocks = nn.Sequential(Block(width, width), Block(width, 2 * width, stride=2), Block(2 * width, 2 * width))
        self.head = nn.Linear(2 * width, 10)

    def forward(self, image: Tensor) -> Tensor:
        """`image` is [N, 1, 8, 8] with values 0 to 1; returns [N, 10] logits."""
        x = torch.relu(self.bn(self.stem(image)))
        return self.head(self.blocks(x).mean(dim=(2, 3)))


def new(seed: int = 0, width: int = 64) -> ResNetDigits:
    """A net with random weights, the same ones for the same seed."""
    return seeded(seed, lambda: ResNetDigits(width))
