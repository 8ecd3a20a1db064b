"""A GPT of the present: grouped-query attention, rotary embeddings, RMSNorm, SwiGLU, a key-value cache.

The cache goes in and out per layer, (batch, key heads, past, size) to (batch, key heads, past + time, size), so that
the same graph fills it (past = 0) and extends it (time = 1). Keys and values of a dead group are outputs: they stay.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.nets.parts import linear_part

PATTERNS = ("groups", "each", "any")


@dataclass(frozen=True)
class Shape:
    """Sizes."""

    tokens: int
    width: int
    heads: int
    keys: int
    hidden: int
    layers: int

    @property
    def size(self) -> int:
        """Width of a head."""
        return self.width // self.heads


def rotated(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Positions 0.. of the halves turned against each other."""
    low, high = x.chunk(2, -1)
    return x * cosine + torch.cat([-high, low], -1) * sine


class Norm(nn.Module):
    """RMSNorm in primitive operators, as published models write it."""

    def __init__(self, width: int, epsilon: float = 1e-5) -> None:
        super().__init__()
        self.weight, self.epsilon = nn.Parameter(torch.ones(width)), epsilon

    def forward(self, x: Tensor) -> Tensor:
        """Along the last axis."""
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.epsilon))


class Attention(nn.Module):
    """Grouped-query attention; the mask is multiplied on the context of each query head."""

    head_mask: Tensor | None

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.size, self.repeats = shape.size, shape.heads // shape.keys
        self.query = nn.Linear(shape.width, shape.heads * shape.size, bias=False)
        self.key = nn.Linear(shape.width, shape.keys * shape.size, bias=False)
        self.value = nn.Linear(shape.width, shape.keys * shape.size, bias=False)
        self.output = nn.Linear(shape.heads * shape.size, shape.width, bias=False)
        self.register_buffer("head_mask", torch.ones(shape.heads))

    def split(self, x: Tensor) -> Tensor:
        """(batch, time, heads*size) to (batch, heads, time, size)."""
        return x.view(x.shape[0], x.shape[1], x.shape[2] // self.size, self.size).transpose(1, 2)

    def repeated(self, x: Tensor) -> Tensor:
        """One key head for every query head."""
        batch, keys, time, size = x.shape
        x = x[:, :, None].expand(batch, keys, self.repeats, time, size)
        return x.reshape(batch, keys * self.repeats, time, size)

    def forward(
        self, x: Tensor, turn: tuple[Tensor, Tensor], seen: Tensor, past: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The context's projection, and the longer cache."""
        query = rotated(self.split(self.query(x)), *turn)
        key = torch.cat([past[0], rotated(self.split(self.key(x)), *turn)], 2)
        value = torch.cat([past[1], self.split(self.value(x))], 2)
        context = functional.scaled_dot_product_attention(query, self.repeated(key), self.repeated(value), seen)
        if self.head_mask is not None:
            context = context * self.head_mask.view(1, -1, 1, 1)
        return self.output(context.transpose(1, 2).flatten(2)), key, value


class NarrowAttention(Attention):
    """Some query heads only; ``index`` names the key head of each where the same repeats of all do not fit."""

    index: Tensor | None

    def repeated(self, x: Tensor) -> Tensor:
        """One key head for every query head that is left."""
        if self.index is not None:
            x = x.index_select(1, self.index)
        return super().repeated(x) if self.repeats > 1 else x


class Feed(nn.Module):
    """down(silu(gate(x)) * up(x)); the mask is multiplied on the product."""

    hidden_mask: Tensor | None

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.gate, self.up = nn.Linear(width, hidden, bias=False), nn.Linear(width, hidden, bias=False)
        self.down = nn.Linear(hidden, width, bias=False)
        self.register_buffer("hidden_mask", torch.ones(hidden))

    def forward(self, x: Tensor) -> Tensor:
        """(batch, time, width) to the same."""
        hidden = functional.silu(self.gate(x)) * self.up(x)
        return self.down(hidden if self.hidden_mask is None else hidden * self.hidden_mask)


class Layer(nn.Module):
    """Attention and feed-forward part, each behind a norm and around a sum."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.norm1, self.norm2 = Norm(shape.width), Norm(shape.width)
        self.attention, self.feed = Attention(shape), Feed(shape.width, shape.hidden)


class Decoder(nn.Module):
    """Ids and positions, int64 (batch, time), and a cache, to logits (batch, time, tokens) and the longer cache."""

    frequencies: Tensor

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.embedding = nn.Embedding(shape.tokens, shape.width)
        self.layers = nn.ModuleList(Layer(shape) for _ in range(shape.layers))
        self.norm, self.head = Norm(shape.width), nn.Linear(shape.width, shape.tokens, bias=False)
        self.register_buffer("frequencies", 1e4 ** (-torch.arange(0, shape.size, 2).float() / shape.size))

    def forward(self, ids: Tensor, positions: Tensor, *past: Tensor) -> tuple[Tensor, ...]:
        """Logits, then key and value of every layer."""
        x, cache = self.embedding(ids), []
        angles = positions[:, None, :, None].to(x.dtype) * self.frequencies
        angles = torch.cat([angles, angles], -1)
        turn = (angles.cos(), angles.sin())
        length = past[0].shape[2] + ids.shape[1]
        seen = torch.arange(length, device=ids.device)[None, None, None] <= positions[:, None, :, None]
        for index, layer in enumerate(self.layers):
            assert isinstance(layer, Layer)
            added, key, value = layer.attention(layer.norm1(x), turn, seen, (past[2 * index], past[2 * index + 1]))
            x = x + added
            x = x + layer.feed(layer.norm2(x))
            cache += [key, value]
        return self.head(self.norm(x)), *cache


def dead_heads(shape: Shape, pattern: str, numbers: torch.Generator) -> Tensor:
    """Which query heads are dead: half of the ``groups``, half of ``each``, or a group and ``any`` of the rest."""
    repeats = shape.heads // shape.keys
    dead = torch.zeros(shape.keys, repeats, dtype=torch.bool)
    order = torch.randperm(shape.keys, generator=numbers)
    if pattern == "groups":
        dead[order[: shape.keys // 2]] = True
    elif pattern == "each":
        for group in dead:
            group[torch.randperm(repeats, generator=numbers)[: repeats // 2]] = True
    else:
        dead[order[0]] = True
        rest = (~dead).flatten().nonzero().flatten()
        chosen = torch.randperm(rest.numel(), generator=numbers)[: max(0, shape.heads // 2 - repeats)]
        dead.view(-1)[rest[chosen]] = True
    return dead.flatten()


def masked(shape: Shape, pattern: str, seed: int) -> Decoder:
    """Half of the query heads and half of the hidden units of every layer, other ones in each."""
    numbers = torch.Generator().manual_seed(seed)
    model = Decoder(shape).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() == 1:
                weight.uniform_(0.5, 1.5, generator=numbers)
            else:
                weight.normal_(0.0, 1.0 if name.startswith("embedding") else weight.shape[1] ** -0.5, generator=numbers)
        for layer in model.layers:
            assert isinstance(layer, Layer)
            heads, hidden = layer.attention.head_mask, layer.feed.hidden_mask
            assert heads is not None and hidden is not None
            heads[dead_heads(shape, pattern, numbers)] = 0.0
            hidden[torch.randperm(hidden.numel(), generator=numbers)[: hidden.numel() // 2]] = 0.0
    return model


def zeros_only(model: Decoder) -> Decoder:
    """The form without masks: nothing but the columns that met a masked activation is zero."""
    for layer in model.layers:
        assert isinstance(layer, Layer)
        attention, feed = layer.attention, layer.feed
        assert attention.head_mask is not None and feed.hidden_mask is not None
        with torch.no_grad():
            attention.output.weight.mul_(attention.head_mask.repeat_interleave(attention.size))
            feed.down.weight.mul_(feed.hidden_mask)
        attention.head_mask = feed.hidden_mask = None
    return model


def twin(model: Decoder) -> nn.Module:
    """Dead query heads and hidden units go; the cache keeps every head, of which the living ones are selected.

    The model is changed in place.
    """
    for layer in model.layers:
        assert isinstance(layer, Layer)
        attention, feed = layer.attention, layer.feed
        assert attention.head_mask is not None and feed.hidden_mask is not None
        heads, hidden = attention.head_mask.nonzero().flatten(), feed.hidden_mask.nonzero().flatten()
        wide = (heads[:, None] * attention.size + torch.arange(attention.size)).flatten()
        attention.query = linear_part(attention.query, rows=wide)
        attention.output = linear_part(attention.output, columns=wide)
        attention.__class__ = NarrowAttention
        assert isinstance(attention, NarrowAttention)
        groups, counts = torch.unique(heads // attention.repeats, return_counts=True)
        every = attention.key.out_features // attention.size
        index: Tensor | None = None
        if int(counts.min()) == int(counts.max()):
            attention.repeats = int(counts[0])
            index = None if groups.numel() == every else groups
        else:
            index, attention.repeats = heads // attention.repeats, 1
        attention.register_buffer("index", index)
        feed.gate, feed.up = linear_part(feed.gate, rows=hidden), linear_part(feed.up, rows=hidden)
        feed.down = linear_part(feed.down, columns=hidden)
        attention.head_mask = feed.hidden_mask = None
    return model


def draw(numbers: torch.Generator, batch: int, time: int, past: int, shape: Shape) -> tuple[Tensor, ...]:
    """Ids, the positions behind the past, and a cache."""
    ids = torch.randint(shape.tokens, (batch, time), generator=numbers)
    positions = torch.arange(past, past + time).expand(batch, time).contiguous()
    cache = (torch.randn((batch, shape.keys, past, shape.size), generator=numbers) for _ in range(2 * shape.layers))
    return ids, positions, *cache


def names(shape: Shape, prefix: str) -> tuple[str, ...]:
    """Names of the parts of the cache."""
    return tuple(f"{prefix}_{part}_{layer}" for layer in range(shape.layers) for part in ("key", "value"))


def axes(shape: Shape) -> Iterable[dict[int, str]]:
    """Dynamic axes of the inputs."""
    for _ in range(2):
        yield {0: "batch", 1: "time"}
    for _ in range(2 * shape.layers):
        yield {0: "batch", 2: "past"}
