"""Nets without residuals: an MLP and a VGG-like net."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn

from tests.nets.cutting import Known, Unit, constants, cut, cut_linear


class Mlp(nn.Module):
    """Linear layers with ReLU between."""

    def __init__(self, sizes: tuple[int, ...]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(sizes))

    def forward(self, x: Tensor) -> Tensor:
        """Takes (batch, first size) to (batch, last size)."""
        for layer in self.layers[:-1]:
            x = torch.relu(layer(x))
        return self.layers[-1](x)


class Vgg(nn.Module):
    """3x3 convolutions with bias, batch-norm and ReLU; a max pool after every second; a linear classifier."""

    def __init__(self, widths: tuple[int, ...], classes: int = 10) -> None:
        super().__init__()
        before = (3, *widths)
        self.convs = nn.ModuleList(nn.Conv2d(a, b, 3, padding=1) for a, b in zip(before, widths, strict=False))
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) for width in widths)
        self.linear = nn.Linear(widths[-1], classes)

    def forward(self, x: Tensor) -> Tensor:
        """Takes (batch, 3, h, w) to logits."""
        for index, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
            x = torch.relu(norm(conv(x)))
            if index % 2:
                x = nn.functional.max_pool2d(x, 2)
        return self.linear(x.mean((2, 3)))


def twin_mlp(model: Mlp) -> nn.Module:
    """Dead hidden units are constants that go into the next bias."""
    layers = list(model.layers)
    now, made = Known.all(layers[0].in_features), []  # pyright: ignore[reportArgumentType]
    for layer in layers[:-1]:
        unit = Unit(layer, act=nn.ReLU())
        small, now = cut(unit, now, constants(unit, now)[0])
        made.append(small)
    assert isinstance(layers[-1], nn.Linear)
    return nn.Sequential(*made, cut_linear(layers[-1], now)).eval()


def twin_vgg(model: Vgg) -> nn.Module:
    """Dead channels go; one that is a nonzero constant in front of the next padded convolution stays."""
    now, made = Known.all(3), []
    last = len(model.convs) - 1
    for index, (conv, norm) in enumerate(zip(model.convs, model.norms, strict=True)):
        unit = Unit(conv, norm, nn.ReLU())  # pyright: ignore[reportArgumentType]
        live, const = constants(unit, now)
        small, now = cut(unit, now, live if index == last else live | (const != 0))
        made.append(small)
        if index % 2:
            made.append(nn.MaxPool2d(2))
    return nn.Sequential(*made, GlobalMean(), cut_linear(model.linear, now)).eval()


class GlobalMean(nn.Module):
    """Mean over the pixels."""

    def forward(self, x: Tensor) -> Tensor:
        """Takes (batch, channels, h, w) to (batch, channels)."""
        return x.mean((2, 3))
