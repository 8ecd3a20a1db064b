"""A residual MLP over tokens whose stream has the same dead positions everywhere: it narrows from embedding to head."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.nets.decoder import Norm
from tests.nets.masking import half, mask_rows, randomise
from tests.nets.parts import embedding_part, linear_part


class Part(nn.Module):
    """x + down(silu(up(norm(x))))."""

    def __init__(self, width: int, hidden: int, kind: str) -> None:
        super().__init__()
        self.norm: nn.Module = Norm(width) if kind == "rms" else nn.LayerNorm(width)
        self.up, self.down = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, time, width) to the same."""
        return x + self.down(functional.silu(self.up(self.norm(x))))


class Stream(nn.Module):
    """Takes ids, int64 (batch, time), to logits (batch, time, 10)."""

    def __init__(self, tokens: int, width: int, hidden: int, layers: int, kind: str) -> None:
        super().__init__()
        self.words = nn.Embedding(tokens, width)
        self.parts = nn.ModuleList(Part(width, hidden, kind) for _ in range(layers))
        self.norm: nn.Module = Norm(width) if kind == "rms" else nn.LayerNorm(width)
        self.head = nn.Linear(width, 10)

    def forward(self, ids: Tensor) -> Tensor:
        """Logits."""
        x = self.words(ids)
        for part in self.parts:
            x = part(x)
        return self.head(self.norm(x))


def masked(tokens: int, width: int, hidden: int, layers: int, kind: str, seed: int) -> Stream:
    """Half of the stream and, with other ones in each part, half of the hidden units.

    A layer-norm moves a zero to where the mean was, so its scales and shifts are masked as well.
    """
    numbers = torch.Generator().manual_seed(seed)
    model = Stream(tokens, width, hidden, layers, kind)
    randomise(model, seed)
    dead = half(width, numbers)
    with torch.no_grad():
        model.words.weight.normal_(0.3, 1.0, generator=numbers)
        model.words.weight[:, dead] = 0.0
    for part in model.parts:
        assert isinstance(part, Part)
        mask_rows(part.up, half(hidden, numbers))
        mask_rows(part.down, dead)
    for part in model.modules():
        if isinstance(part, nn.LayerNorm):
            mask_rows(part, dead)
    return model.eval()


class NarrowRms(nn.Module):
    """RMSNorm of a stream of which ``width`` positions were there before."""

    def __init__(self, norm: Norm, keep: Tensor) -> None:
        super().__init__()
        share = norm.weight.numel() / keep.numel()
        self.weight = nn.Parameter(norm.weight.detach()[keep] * share**0.5)
        self.epsilon = norm.epsilon * share

    forward = Norm.forward


class NarrowLayerNorm(nn.Module):
    """LayerNorm of a stream that had ``width`` positions, all others zero: mean and variance keep the old divisor."""

    def __init__(self, norm: nn.LayerNorm, keep: Tensor) -> None:
        super().__init__()
        self.width, self.epsilon = norm.weight.numel(), norm.eps
        self.weight, self.bias = nn.Parameter(norm.weight.detach()[keep]), nn.Parameter(norm.bias.detach()[keep])

    def forward(self, x: Tensor) -> Tensor:
        """Along the last axis."""
        mean = x.sum(-1, keepdim=True) / self.width
        off = x - mean
        gone = self.width - self.weight.numel()
        variance = (off.pow(2).sum(-1, keepdim=True) + gone * mean.pow(2)) / self.width
        return off * torch.rsqrt(variance + self.epsilon) * self.weight + self.bias


def twin(model: Stream) -> nn.Module:
    """The stream is narrow everywhere. The model is changed in place."""

    def narrow(norm: nn.Module) -> nn.Module:
        return NarrowRms(norm, keep) if isinstance(norm, Norm) else NarrowLayerNorm(norm, keep)  # pyright: ignore[reportArgumentType]

    keep = model.words.weight.any(0).nonzero().flatten()
    model.words = embedding_part(model.words, keep)
    for part in model.parts:
        assert isinstance(part, Part)
        hidden = part.up.bias.detach().nonzero().flatten()
        part.norm = narrow(part.norm)
        part.up, part.down = (
            linear_part(part.up, rows=hidden, columns=keep),
            linear_part(part.down, rows=keep, columns=hidden),
        )
    model.norm, model.head = narrow(model.norm), linear_part(model.head, columns=keep)
    return model.eval()
