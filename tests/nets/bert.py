"""A BERT: embeddings and a norm, layers that norm after their sums, heads masked on the context, a tanh pooler."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.nets.parts import linear_part


@dataclass(frozen=True)
class Shape:
    """Sizes; those of BERT-base are ``Shape(30522, 512, 768, 12, 3072, 12)``."""

    tokens: int
    positions: int
    width: int
    heads: int
    hidden: int
    layers: int


class Layer(nn.Module):
    """Self-attention and a feed-forward part; masks are buffers that are multiplied on activations, or None."""

    head_mask: Tensor | None
    hidden_mask: Tensor | None

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        width = shape.width
        self.size = width // shape.heads
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.output, self.norm1 = nn.Linear(width, width), nn.LayerNorm(width, eps=1e-12)
        self.first, self.second = nn.Linear(width, shape.hidden), nn.Linear(shape.hidden, width)
        self.norm2 = nn.LayerNorm(width, eps=1e-12)
        self.register_buffer("head_mask", torch.ones(shape.heads))
        self.register_buffer("hidden_mask", torch.ones(shape.hidden))

    def split(self, x: Tensor) -> Tensor:
        """(batch, time, heads*size) to (batch, heads, time, size)."""
        return x.view(x.shape[0], x.shape[1], x.shape[2] // self.size, self.size).transpose(1, 2)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        """(batch, time, width) to the same; the bias is 0 where a token may be looked at."""
        query, key, value = self.split(self.query(x)), self.split(self.key(x)), self.split(self.value(x))
        context = functional.scaled_dot_product_attention(query, key, value, bias)
        if self.head_mask is not None:
            context = context * self.head_mask.view(1, -1, 1, 1)
        x = self.norm1(x + self.output(context.transpose(1, 2).flatten(2)))
        hidden = functional.gelu(self.first(x))
        if self.hidden_mask is not None:
            hidden = hidden * self.hidden_mask
        return self.norm2(x + self.second(hidden))


class Bert(nn.Module):
    """Takes ids and a mask of the real tokens, both int64 (batch, time), to states and the pooled first one."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(shape.tokens, shape.width), nn.Embedding(shape.positions, shape.width)
        self.norm = nn.LayerNorm(shape.width, eps=1e-12)
        self.layers = nn.ModuleList(Layer(shape) for _ in range(shape.layers))
        self.pooler = nn.Linear(shape.width, shape.width)

    def forward(self, ids: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
        """States (batch, time, width) and (batch, width)."""
        x = self.norm(self.words(ids) + self.places(torch.arange(ids.shape[1])))
        bias = (1.0 - real[:, None, None, :].to(x.dtype)) * -10_000.0
        for layer in self.layers:
            x = layer(x, bias)
        return x, torch.tanh(self.pooler(x[:, 0]))


def masked(shape: Shape, seed: int) -> Bert:
    """Half of the heads and half of the hidden units of every layer, other ones in each."""
    numbers = torch.Generator().manual_seed(seed)
    model = Bert(shape).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "norm" in name:
                weight.normal_(1.0 if name.endswith("weight") else 0.0, 0.1, generator=numbers)
            else:
                spread = weight.shape[-1] ** -0.5 if weight.dim() == 2 and "layers" in name else 0.1
                weight.normal_(0.0, spread, generator=numbers)
        for layer in model.layers:
            assert isinstance(layer, Layer)
            for mask in (layer.head_mask, layer.hidden_mask):
                assert mask is not None
                mask[torch.randperm(mask.numel(), generator=numbers)[: mask.numel() // 2]] = 0.0
    return model


def zeros_only(model: Bert) -> Bert:
    """The form without masks: nothing but the columns that met a masked activation is zero."""
    for layer in model.layers:
        assert isinstance(layer, Layer) and layer.head_mask is not None and layer.hidden_mask is not None
        with torch.no_grad():
            layer.output.weight.mul_(layer.head_mask.repeat_interleave(layer.size))
            layer.second.weight.mul_(layer.hidden_mask)
        layer.head_mask = layer.hidden_mask = None
    return model


def twin(model: Bert) -> nn.Module:
    """A masked head goes with its query, key and value rows and its output columns. The model is changed in place."""
    for layer in model.layers:
        assert isinstance(layer, Layer) and layer.head_mask is not None and layer.hidden_mask is not None
        heads, hidden = layer.head_mask.nonzero().flatten(), layer.hidden_mask.nonzero().flatten()
        wide = (heads[:, None] * layer.size + torch.arange(layer.size)).flatten()
        layer.query, layer.key, layer.value = (
            linear_part(part, rows=wide) for part in (layer.query, layer.key, layer.value)
        )
        layer.output = linear_part(layer.output, columns=wide)
        layer.first, layer.second = linear_part(layer.first, rows=hidden), linear_part(layer.second, columns=hidden)
        layer.head_mask = layer.hidden_mask = None
    return model


def draw(numbers: torch.Generator, batch: int, time: int, tokens: int) -> tuple[Tensor, Tensor]:
    """Ids, and a mask that leaves out some of the last tokens, never the first."""
    ids = torch.randint(tokens, (batch, time), generator=numbers)
    lengths = torch.randint(1, time + 1, (batch, 1), generator=numbers)
    return ids, (torch.arange(time) < lengths).long()
