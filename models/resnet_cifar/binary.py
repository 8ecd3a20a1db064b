"""The form for binary layers, in which ResNet-20 is published: no ReLU, and a shortcut around every convolution.

``y = hardtanh(shortcut(x) + bn(conv(x)))`` twice a block, as in Bi-Real Net (Liu et al., ECCV 2018) and, for CIFAR-10,
IR-Net (Qin et al., CVPR 2020), whose form FDA-BNN and ReSTE are compared in; ``shortcuts="block"`` has one shortcut
around both convolutions. Shortcuts that change the shape are strided slices (option A), which have no weights.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn
from torch.nn import functional

from graphopt.models.resnet_cifar import module


class Block(module.Block):
    """The two convolutions of a block with ``hardtanh`` behind their norms."""

    around_each = True

    def forward(self, x: Tensor) -> Tensor:
        """``x`` is ``[n, inputs, h, w]``."""
        if self.around_each:
            y = functional.hardtanh(self.shortcut(x) + self.bn1(self.conv1(x)))
            return functional.hardtanh(y + self.bn2(self.conv2(y)))
        y = functional.hardtanh(self.bn1(self.conv1(x)))
        return functional.hardtanh(self.shortcut(x) + self.bn2(self.conv2(y)))


class BinaryResNet(nn.Module):
    """The float net that gets binary layers; what it has in common with ``ResNet`` has the same names."""

    def __init__(self, float_net: module.ResNet, around_each: bool) -> None:
        """Take stem, blocks and classifier over, and put a batch-norm in front of the classifier."""
        super().__init__()
        self.shape, self.stages = float_net.shape, float_net.stages
        self.conv1, self.bn1 = float_net.conv1, float_net.bn1
        for index in range(self.stages):
            blocks = [_block(one, around_each) for one in float_net.stage(index)]
            setattr(self, f"layer{index + 1}", nn.Sequential(*blocks))
        self.norm = nn.BatchNorm1d(float_net.linear.in_features)
        self.linear = float_net.linear

    def forward(self, image: Tensor) -> Tensor:
        """``image`` is normalised, ``[n, 3, size, size]``; returns logits ``[n, classes]``."""
        x = functional.hardtanh(self.bn1(self.conv1(image)))
        for index in range(self.stages):
            x = getattr(self, f"layer{index + 1}")(x)
        return self.linear(self.norm(x.mean((2, 3))))


def _block(float_block: module.Block, around_each: bool) -> Block:
    conv = float_block.conv1
    block = Block(conv.in_channels, conv.out_channels, float_block.stride, float_block.projection is not None)
    block.load_state_dict(float_block.state_dict())
    block.around_each = around_each
    return block


def new(
    seed: int = 0,
    depth: int = 20,
    width: int = 16,
    shortcut: Literal["A", "B"] = "A",
    weights: str | None = None,
    size: int = 32,
    shortcuts: Literal["layer", "block"] = "layer",
) -> BinaryResNet:
    """Return a float net with random weights, the same ones for the same seed; ``binarize_net`` makes it binary.

    Args:
        seed: Of the random weights.
        depth: Layers: 6n + 2.
        width: Channels of the first stage.
        shortcut: How the shape changes on a shortcut: ``A``, a slice, or ``B``, a 1x1 convolution.
        weights: Published float weights to start from.
        size: Height and width of the images.
        shortcuts: One around each ``layer`` (convolution), or around each ``block`` of two.

    Raises:
        UsageError: The depth is not 6n + 2, or the file holds the weights of another net.
        GraphoptError: The file is not there or cannot be read.
    """
    net = module.new(seed, depth, width, shortcut, weights, size)
    return BinaryResNet(net, around_each=shortcuts == "layer")
