"""Layers that multiply signs by signs, and float nets that get them."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from fnmatch import fnmatch
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from graphopt.train.binary.error import ErrorModule
from graphopt.train.binary.methods import basis
from graphopt.train.binary.settings import BinarizeSettings
from graphopt.train.binary.sign import Sign


class BinaryWeight(nn.Module):
    """``s sign(w)`` with one scale an output channel, ``s = mean |w|``; the gradient flows through both."""

    def __init__(self, sign: Sign) -> None:
        super().__init__()
        self.sign = sign

    def forward(self, weight: Tensor) -> Tensor:
        """Return weights ``[out, ...]`` of one size an output channel."""
        rows = weight.flatten(1)
        scale = rows.abs().mean(dim=1, keepdim=True)
        return (self.sign(rows) * scale).view_as(weight)


class BinaryConv2d(nn.Conv2d):
    """A convolution of the signs of its input with weights of one bit; a padded place counts 0.

    The parameters are those of the float layer that it is made of, by the same names.
    """

    def __init__(self, layer: nn.Conv2d, settings: BinarizeSettings) -> None:
        """``layer``: the float layer, whose parameters are taken over (not copied)."""
        with torch.device("meta"):
            super().__init__(
                layer.in_channels,
                layer.out_channels,
                layer.kernel_size,  # type: ignore[arg-type]
                layer.stride,  # type: ignore[arg-type]
                layer.padding,  # type: ignore[arg-type]
                layer.dilation,  # type: ignore[arg-type]
                layer.groups,
                layer.bias is not None,
                layer.padding_mode,
            )
        self.weight, self.bias = layer.weight, layer.bias
        self.of_input = _of_input(layer.in_channels, settings)
        self.of_weight = _of_weight(layer.weight, settings)

    def forward(self, input: Tensor) -> Tensor:
        """Return what the convolution of ``[N, C, H, W]`` is."""
        return self._conv_forward(self.of_input(input), self.of_weight(self.weight), self.bias)


class BinaryLinear(nn.Linear):
    """A product of the signs of its input with weights of one bit."""

    def __init__(self, layer: nn.Linear, settings: BinarizeSettings) -> None:
        """``layer``: the float layer, whose parameters are taken over (not copied)."""
        with torch.device("meta"):
            super().__init__(layer.in_features, layer.out_features, layer.bias is not None)
        self.weight, self.bias = layer.weight, layer.bias
        self.of_input = _of_input(layer.in_features, settings, axis=-1)
        self.of_weight = _of_weight(layer.weight, settings)

    def forward(self, input: Tensor) -> Tensor:
        """Return what the product of ``[..., K]`` is."""
        return functional.linear(self.of_input(input), self.of_weight(self.weight), self.bias)


def binarize_net(net: nn.Module, settings: BinarizeSettings) -> list[str]:
    """Put binary layers in the places of a float net's convolutions and linear layers; return their names.

    The first and the last layer (in the order in which the net names them) stay, and 1x1 convolutions with a stride
    unless ``settings.shortcuts`` says so. Parameters stay the same objects under the same names. Which function stands
    between the layers is the net's: where a ReLU does, half of the gradient is lost, and a net of its own is better
    (``graphopt.models.*.binary``).

    Args:
        net: Changed in place.
        settings: How.

    Raises:
        ValueError: No layer is left to be binarized.
    """
    names = list(_chosen(net, settings))
    if not names:
        raise ValueError("the net has no layer between its first and its last that could be binary")
    for name in names:
        layer = net.get_submodule(name)
        new = BinaryConv2d(layer, settings) if isinstance(layer, nn.Conv2d) else BinaryLinear(layer, settings)  # type: ignore[arg-type]
        new.train(layer.training)
        for parent in list(net.modules()):
            for own in [own for own, child in parent._modules.items() if child is layer]:
                setattr(parent, own, new)
    return names


def without_errors(net: nn.Module) -> None:
    """Take the error modules out of a net, in place: what is deployed."""
    for module in net.modules():
        if isinstance(module, Sign):
            module.error = None


def deployable(net: nn.Module) -> nn.Module:
    """Return a copy of a net that holds its weights as they are multiplied, ``s`` and ``-s``, and no error modules."""
    copied = copy.deepcopy(net)
    without_errors(copied)
    for layer in copied.modules():
        if isinstance(layer, BinaryConv2d | BinaryLinear):
            with torch.no_grad():
                layer.weight = nn.Parameter(layer.of_weight.eval()(layer.weight))
            layer.of_weight = nn.Identity()
    return copied


def _chosen(net: nn.Module, settings: BinarizeSettings) -> Iterator[str]:
    layers = [(name, one) for name, one in net.named_modules() if isinstance(one, nn.Conv2d | nn.Linear)]
    for name, layer in layers[1:-1]:
        if type(layer) not in (nn.Conv2d, nn.Linear) or any(fnmatch(name, pattern) for pattern in settings.exclude):
            continue  # others compute in their own way, or are never called, as in nn.MultiheadAttention
        shortcut = isinstance(layer, nn.Conv2d) and max(layer.kernel_size) == 1 and max(layer.stride) > 1
        if settings.shortcuts or not shortcut:
            yield name


def _of_input(size: int, settings: BinarizeSettings, axis: Literal[1, -1] = 1) -> nn.Module:
    return nn.Identity() if settings.activations == 32 else _sign(size, settings, axis)


def _of_weight(weight: Tensor, settings: BinarizeSettings) -> nn.Module:
    return nn.Identity() if settings.weights == 32 else BinaryWeight(_sign(weight[0].numel(), settings))


def _sign(size: int, settings: BinarizeSettings, axis: Literal[1, -1] = 1) -> Sign:
    error = ErrorModule(size, axis) if settings.error and settings.alpha > 0 else None
    return Sign(basis(settings), error, settings.alpha)
