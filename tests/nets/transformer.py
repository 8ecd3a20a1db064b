"""A transformer encoder with head masks and feed-forward masks, before or after layer norm."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from tests.nets.parts import linear_part


class Layer(nn.Module):
    """Self-attention and a feed-forward part; masks are buffers, multiplied on activations."""

    head_mask: Tensor
    hidden_mask: Tensor

    def __init__(self, width: int, heads: int, hidden: int, norm_first: bool) -> None:
        super().__init__()
        self.heads, self.size, self.norm_first = heads, width // heads, norm_first
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.output = nn.Linear(width, width)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.first, self.second = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.register_buffer("head_mask", torch.ones(heads))
        self.register_buffer("hidden_mask", torch.ones(hidden))

    def split(self, x: Tensor) -> Tensor:
        """(batch, time, heads*size) to (batch, heads, time, size)."""
        return x.reshape(x.shape[0], x.shape[1], self.heads, self.size).transpose(1, 2)

    def attend(self, x: Tensor) -> Tensor:
        """Attention with the head mask on the context."""
        query, key, value = self.split(self.query(x)), self.split(self.key(x)), self.split(self.value(x))
        weights = torch.softmax(query @ key.transpose(2, 3) * self.size**-0.5, -1)
        context = (weights @ value) * self.head_mask.reshape(1, -1, 1, 1)
        return self.output(context.transpose(1, 2).reshape(x.shape[0], x.shape[1], self.heads * self.size))

    def feed(self, x: Tensor) -> Tensor:
        """Feed-forward part with the mask on the hidden activation."""
        return self.second(nn.functional.gelu(self.first(x)) * self.hidden_mask)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, time, width) to the same."""
        if self.norm_first:
            x = x + self.attend(self.norm1(x))
            return x + self.feed(self.norm2(x))
        x = self.norm1(x + self.attend(x))
        return self.norm2(x + self.feed(x))


class PlainLayer(Layer):
    """The same without masks."""

    def attend(self, x: Tensor) -> Tensor:
        """Attention over all heads."""
        query, key, value = self.split(self.query(x)), self.split(self.key(x)), self.split(self.value(x))
        context = torch.softmax(query @ key.transpose(2, 3) * self.size**-0.5, -1) @ value
        return self.output(context.transpose(1, 2).reshape(x.shape[0], x.shape[1], self.heads * self.size))

    def feed(self, x: Tensor) -> Tensor:
        """Feed-forward part."""
        return self.second(nn.functional.gelu(self.first(x)))


class Encoder(nn.Module):
    """Token and position embeddings, layers, a classifier on the mean."""

    def __init__(
        self, tokens: int, time: int, width: int, heads: int, hidden: int, layers: int, norm_first: bool
    ) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(tokens, width), nn.Parameter(torch.zeros(time, width))
        self.layers = nn.ModuleList(Layer(width, heads, hidden, norm_first) for _ in range(layers))
        self.norm, self.linear = nn.LayerNorm(width), nn.Linear(width, 10)

    def forward(self, ids: Tensor) -> Tensor:
        """Takes int64 ids (batch, time) to logits (batch, 10)."""
        x = self.tokens(ids) + self.positions
        for layer in self.layers:
            x = layer(x)
        return self.linear(self.norm(x).mean(1))


def mask_heads(model: Encoder, seed: int) -> Encoder:
    """Half of the heads and half of the hidden units of every layer, another half in each, in place."""
    numbers = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        model.tokens.weight.normal_(0.0, 1.0, generator=numbers)
        model.positions.normal_(0.0, 0.3, generator=numbers)
    for layer in model.layers:
        assert isinstance(layer, Layer)
        for mask in (layer.head_mask, layer.hidden_mask):
            mask.fill_(1.0)
            mask[torch.randperm(mask.numel(), generator=numbers)[: mask.numel() // 2]] = 0.0
    return model


def zeros_only(model: Encoder) -> Encoder:
    """The form without masks: columns that meet a masked activation are zero, and so are the rows that made it."""
    for layer in model.layers:
        assert isinstance(layer, Layer)
        wide = layer.head_mask.repeat_interleave(layer.size)
        with torch.no_grad():
            layer.output.weight.mul_(wide)
            layer.second.weight.mul_(layer.hidden_mask)
            for part, mask in ((layer.value, wide), (layer.first, layer.hidden_mask)):
                part.weight.mul_(mask[:, None])
                part.bias.mul_(mask)
        layer.__class__ = PlainLayer
        del layer.head_mask, layer.hidden_mask
    return model


def twin(model: Encoder) -> nn.Module:
    """A masked head goes with its query, key and value rows and its output columns; nothing is scattered."""
    small = copy.deepcopy(model)
    made = []
    for layer in model.layers:
        assert isinstance(layer, Layer)
        heads = layer.head_mask.nonzero().flatten()
        wide = (heads[:, None] * layer.size + torch.arange(layer.size)).flatten()
        hidden = layer.hidden_mask.nonzero().flatten()
        narrow = PlainLayer(layer.heads * layer.size, layer.heads, layer.hidden_mask.numel(), layer.norm_first)
        narrow.heads = heads.numel()
        narrow.query, narrow.key, narrow.value = (
            linear_part(part, rows=wide) for part in (layer.query, layer.key, layer.value)
        )
        narrow.output = linear_part(layer.output, columns=wide)
        narrow.first, narrow.second = linear_part(layer.first, rows=hidden), linear_part(layer.second, columns=hidden)
        narrow.norm1, narrow.norm2 = copy.deepcopy(layer.norm1), copy.deepcopy(layer.norm2)
        del narrow.head_mask, narrow.hidden_mask
        made.append(narrow)
    small.layers = nn.ModuleList(made)
    return small.eval()
