"""The network of K. He et al., "Deep Residual Learning for Image Recognition", CVPR 2016, section 4.2.

Names of the parameters are those of Y. Idelbayev's published weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, cast

from torch import Tensor, nn
from torch.nn import functional

from graphopt.errors import UsageError
from graphopt.models.classifier import seeded
from graphopt.models.resnet_cifar.weights import load


class Block(nn.Module):
    """Two 3x3 convolutions; the shortcut is the identity, a strided slice with zero channels, or a projection."""

    def __init__(self, inputs: int, outputs: int, stride: int, projection: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.stride, self.extra = stride, (outputs - inputs) // 2
        self.above = outputs - inputs - self.extra  # as many as below, or one more
        changes = stride != 1 or inputs != outputs
        self.projection = (
            nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
            if projection and changes
            else None
        )

    def shortcut(self, x: Tensor) -> Tensor:
        """Return the side path: ``[n, outputs, h / stride, w / stride]``."""
        if self.projection is not None:
            return self.projection(x)
        if self.above == 0 and self.stride == 1:
            return x
        return functional.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.extra, self.above))

    def forward(self, x: Tensor) -> Tensor:
        """``relu(shortcut(x) + bn(conv(relu(bn(conv(x))))))``; ``x`` is ``[n, inputs, h, w]``."""
        y = functional.relu(self.bn1(self.conv1(x)))
        return functional.relu(self.shortcut(x) + self.bn2(self.conv2(y)))


class ResNet(nn.Module):
    """A 3x3 stem, stages of blocks, global average pool, linear classifier.

    Every stage but the first halves height and width.
    """

    def __init__(
        self, widths: Sequence[int], depth: int, projection: bool = False, classes: int = 10, size: int = 32
    ) -> None:
        """Build it.

        Args:
            widths: Channels of each stage.
            depth: Blocks of each stage.
            projection: Whether shortcuts that change the shape are 1x1 convolutions (option B of the paper) rather
                than slices with zeros around them (option A).
            classes: How many.
            size: Height and width of the images.
        """
        super().__init__()
        self.shape = (3, size, size)
        self.conv1 = nn.Conv2d(3, widths[0], 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        before = widths[0]
        for number, width in enumerate(widths, 1):
            blocks = []
            for index in range(depth):
                blocks.append(Block(before, width, 2 if index == 0 and number > 1 else 1, projection))
                before = width
            setattr(self, f"layer{number}", nn.Sequential(*blocks))
        self.stages = len(widths)
        self.linear = nn.Linear(before, classes)

    def stage(self, index: int) -> list[Block]:
        """Return the blocks of one stage, counted from 0."""
        return list(cast("list[Block]", getattr(self, f"layer{index + 1}")))

    def forward(self, image: Tensor) -> Tensor:
        """``image`` is normalised, ``[n, 3, size, size]``; returns logits ``[n, classes]``."""
        x = functional.relu(self.bn1(self.conv1(image)))
        for index in range(self.stages):
            x = getattr(self, f"layer{index + 1}")(x)
        return self.linear(x.mean((2, 3)))


def new(
    seed: int = 0,
    depth: int = 20,
    width: int = 16,
    shortcut: Literal["A", "B"] = "A",
    weights: str | None = None,
    size: int = 32,
) -> ResNet:
    """Return a net with random weights, the same ones for the same seed, or with published ones.

    Args:
        seed: Of the random weights (K. He et al., 2015).
        depth: Layers: 6n + 2.
        width: Channels of the first stage; the next ones have twice and four times as many.
        shortcut: ``A``: a slice with zero channels around it; ``B``: a 1x1 convolution.
        weights: A safetensors file, or the name of one that ``graphopt.models.data.files`` finds, such as
            ``cifar10_resnet20.safetensors``; None: random.
        size: Height and width of the images.

    Raises:
        UsageError: The depth is not 6n + 2, there is no such shortcut, or the file holds the weights of another net.
        GraphoptError: The file is not there or cannot be read.
    """
    if depth < 8 or depth % 6 != 2:
        raise UsageError(
            f"a residual net of {depth} layers", "model.depth", "8, 14, 20, 26, ...: six a block, two more"
        )
    if shortcut not in ("A", "B"):
        raise UsageError(f"a shortcut '{shortcut}'", "model.shortcut", "A or B")
    net = seeded(
        seed, lambda: _started(ResNet((width, 2 * width, 4 * width), (depth - 2) // 6, shortcut == "B", size=size))
    )
    if weights is not None:
        load(net, weights)
    return net


def _started(net: ResNet) -> ResNet:
    for module in net.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight)
    return net
