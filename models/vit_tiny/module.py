"""The network: a vision transformer (Dosovitskiy et al. 2020, arXiv 2010.11929), small.

Patches by a strided convolution, a class token in front, learned places, norms first (pre-norm), query, key and value
in one product as most implementations have them.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from graphopt.errors import UsageError
from graphopt.models.classifier import seeded


class Attention(nn.Module):
    """Every token attends to every token; query, key and value of all heads come from one product, in this order."""

    def __init__(self, width: int, heads: int, size: int) -> None:
        super().__init__()
        self.heads, self.size = heads, size
        self.qkv, self.output = nn.Linear(width, 3 * heads * size), nn.Linear(heads * size, width)

    def forward(self, x: Tensor) -> Tensor:
        """``[batch, time, width]`` to the same."""
        batch, time, _ = x.shape
        query, key, value = self.qkv(x).view(batch, time, 3, self.heads, self.size).permute(2, 0, 3, 1, 4).unbind(0)
        context = functional.scaled_dot_product_attention(query, key, value)
        return self.output(context.transpose(1, 2).reshape(batch, time, self.heads * self.size))


class Layer(nn.Module):
    """``x + attention(norm(x))``, then ``x + second(gelu(first(norm(x))))``."""

    def __init__(self, width: int, heads: int, size: int, hidden: int) -> None:
        super().__init__()
        self.norm1, self.attention = nn.LayerNorm(width), Attention(width, heads, size)
        self.norm2, self.first, self.second = nn.LayerNorm(width), nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """``[batch, time, width]`` to the same."""
        x = x + self.attention(self.norm1(x))
        return x + self.second(functional.gelu(self.first(self.norm2(x))))


class VitTiny(nn.Module):
    """Images to logits, which are read off the class token.

    Attributes:
        shape: Of one image: channels, height, width.
        layers: Of class ``Layer``.
    """

    def __init__(
        self,
        image: int,
        channels: int,
        patch: int,
        width: int,
        heads: int,
        size: int,
        hidden: int,
        depth: int,
        classes: int,
    ) -> None:
        super().__init__()
        self.shape = (channels, image, image)
        self.patches = nn.Conv2d(channels, width, patch, patch)
        self.token = nn.Parameter(torch.zeros(1, 1, width))
        self.places = nn.Parameter(torch.empty(1, 1 + (image // patch) ** 2, width).normal_(0.0, 0.02))
        self.layers = nn.ModuleList(Layer(width, heads, size, hidden) for _ in range(depth))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, classes)

    def parts(self) -> list[Layer]:
        """Return the layers."""
        return [layer for layer in self.layers if isinstance(layer, Layer)]

    def forward(self, image: Tensor) -> Tensor:
        """``image`` is ``[batch, channels, height, width]``; returns ``[batch, classes]`` logits."""
        x = self.patches(image).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.places
        for layer in self.layers:
            x = layer(x)
        return self.head(self.norm(x[:, 0]))


def new(
    seed: int = 0,
    *,
    image: int = 8,
    channels: int = 1,
    patch: int = 2,
    width: int = 64,
    heads: int = 4,
    size: int = 0,
    hidden: int = 128,
    depth: int = 4,
    classes: int = 10,
) -> VitTiny:
    """Return a net with random weights, the same ones for the same seed. The defaults are for the digits.

    Args:
        seed: Of the weights.
        image: Height and width of an image, a multiple of ``patch``.
        channels: 1 for grey images, 3 for colours.
        patch: Height and width of a patch.
        width: Of the residual stream.
        heads: Of a layer.
        size: Of a head; 0: ``width / heads``.
        hidden: Units of a feed-forward part.
        depth: Layers.
        classes: How many there are.

    Raises:
        UsageError: Sizes that do not fit each other.
    """
    sizes = {
        "image": image, "channels": channels, "patch": patch, "width": width, "heads": heads, "hidden": hidden,
        "depth": depth, "classes": classes,
    }  # fmt: skip
    for name, value in sizes.items():
        if value < 1:
            raise UsageError(f"{name} is {value}", where="vit_tiny", help="at least 1")
    if image % patch:
        raise UsageError(f"patches of {patch} do not fill images of {image}", where="vit_tiny", help="a divisor of it")
    if size < 0 or (not size and width % heads):
        raise UsageError(f"{heads} heads of size {size} in a width of {width}", where="vit_tiny", help="give a size")
    size = size or width // heads
    return seeded(seed, lambda: VitTiny(image, channels, patch, width, heads, size, hidden, depth, classes))
