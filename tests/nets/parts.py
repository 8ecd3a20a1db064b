"""Some rows and columns of a layer as a layer of its own, for twins in which all that is dead is zero."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def _chosen(layer: nn.Module, rows: Tensor | None, columns: Tensor | None) -> Tensor:
    weight = layer.weight
    assert isinstance(weight, Tensor)
    weight = weight.detach() if rows is None else weight.detach()[rows]
    return weight if columns is None else weight[:, columns]


def _filled(small: nn.Module, weight: Tensor, bias: Tensor | None, rows: Tensor | None) -> None:
    with torch.no_grad():
        small.weight.copy_(weight)  # pyright: ignore[reportCallIssue, reportAttributeAccessIssue]
        if bias is not None:
            small.bias.copy_(bias if rows is None else bias[rows])  # pyright: ignore[reportCallIssue, reportAttributeAccessIssue]


def linear_part(layer: nn.Linear, *, rows: Tensor | None = None, columns: Tensor | None = None) -> nn.Linear:
    """A linear layer with some outputs (rows) and some inputs (columns)."""
    weight = _chosen(layer, rows, columns)
    small = nn.Linear(weight.shape[1], weight.shape[0], bias=layer.bias is not None)
    _filled(small, weight, layer.bias, rows)
    return small


def conv_part(layer: nn.Conv2d, *, rows: Tensor | None = None, columns: Tensor | None = None) -> nn.Conv2d:
    """A convolution with some outputs and some inputs; a depthwise one has rows only."""
    weight = _chosen(layer, rows, columns)
    depthwise = layer.groups > 1 and layer.weight.shape[1] == 1
    groups = weight.shape[0] if depthwise else layer.groups
    small = nn.Conv2d(
        weight.shape[1] * groups,
        weight.shape[0],
        layer.kernel_size,  # pyright: ignore[reportArgumentType]
        layer.stride,  # pyright: ignore[reportArgumentType]
        layer.padding,  # pyright: ignore[reportArgumentType]
        groups=groups,
        bias=layer.bias is not None,
    )
    _filled(small, weight, layer.bias, rows)
    return small


def embedding_part(layer: nn.Embedding, columns: Tensor) -> nn.Embedding:
    """Some columns of a table."""
    weight = _chosen(layer, None, columns)
    small = nn.Embedding(*weight.shape)
    _filled(small, weight, None, None)
    return small


def batch_norm_part(norm: nn.BatchNorm2d, rows: Tensor) -> nn.BatchNorm2d:
    """Some channels of a batch-norm, in eval mode."""
    small = nn.BatchNorm2d(rows.numel(), eps=norm.eps)
    with torch.no_grad():
        for name in ("weight", "bias", "running_mean", "running_var"):
            getattr(small, name).copy_(getattr(norm, name)[rows])
    return small.eval()


def group_norm_part(norm: nn.GroupNorm, rows: Tensor) -> nn.GroupNorm:
    """Some whole groups of a group-norm."""
    width = norm.num_channels // norm.num_groups
    small = nn.GroupNorm(rows.numel() // width, rows.numel(), eps=norm.eps)
    _filled(small, norm.weight.detach()[rows], norm.bias, rows)
    return small
