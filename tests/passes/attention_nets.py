"""Attention with dead value heads that hold a bias, in torch, and the same written out by hand without them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

SIZE = 4
"""Places of a head."""


class Written(nn.Module):
    """Attention written by hand; keys and values of fewer heads are repeated.

    Args:
        heads: Of queries.
        shared: Of keys and values.
        width: Of the input.
        joint: One layer makes all three.
    """

    def __init__(self, heads: int, shared: int, width: int = 7, joint: bool = False) -> None:
        super().__init__()
        self.heads, self.shared, self.joint = heads, shared, joint
        widths = [heads * SIZE, shared * SIZE, shared * SIZE]
        self.layers = nn.ModuleList(nn.Linear(width, n) for n in ([sum(widths)] if joint else widths))
        self.o = nn.Linear(heads * SIZE, width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, width) to the same."""
        b, t, _ = x.shape
        if self.joint:
            n = self.shared * SIZE
            parts = self.layers[0](x).split([self.heads * SIZE, n, n], -1)
        else:
            parts = [layer(x) for layer in self.layers]
        q, k, v = (part.reshape(b, t, -1, SIZE).transpose(1, 2) for part in parts)
        k, v = (
            part[:, :, None].expand(b, self.shared, self.heads // self.shared, t, SIZE).reshape(b, self.heads, t, SIZE)
            if self.heads != self.shared
            else part
            for part in (k, v)
        )
        y = torch.softmax(q @ k.transpose(2, 3) * 0.5, -1) @ v
        return self.o(y.transpose(1, 2).reshape(b, t, -1))

    def values(self) -> tuple[Tensor, Tensor]:
        """Return weight and bias of the values."""
        layer, n = self.layers[-1], self.shared * SIZE
        assert isinstance(layer, nn.Linear)
        return layer.weight[-n:], layer.bias[-n:]


class OfTorch(nn.Module):
    """``nn.MultiheadAttention``; with weights it multiplies batches of heads."""

    def __init__(self, heads: int, weights: bool) -> None:
        super().__init__()
        self.a, self.weights = nn.MultiheadAttention(heads * SIZE, heads, batch_first=True), weights

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, width) to the same."""
        return self.a(x, x, x, need_weights=self.weights)[0]

    def values(self) -> tuple[Tensor, Tensor]:
        """Return weight and bias of the values."""
        n = self.a.embed_dim
        return self.a.in_proj_weight[-n:], self.a.in_proj_bias[-n:]


def dead(net: Written | OfTorch, heads: list[int], biased: bool = True) -> Written | OfTorch:
    """Random weights; those of the values of some heads are zero, and so is their bias where it is said."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.normal_(0, 0.4, generator=generator)
        weight, bias = net.values()
        rows = [head * SIZE + place for head in heads for place in range(SIZE)]
        weight[rows] = 0
        if not biased:
            bias[rows] = 0
    net.eval()
    return net
