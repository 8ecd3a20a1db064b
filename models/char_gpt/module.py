"""The network: a GPT of the present, small.

Grouped-query attention (Ainslie et al. 2023, arXiv 2305.13245), rotary embeddings (Su et al. 2021, arXiv 2104.09864),
RMSNorm (Zhang and Sennrich 2019, arXiv 1910.07467), SwiGLU (Shazeer 2020, arXiv 2002.05202), no biases.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from graphopt.errors import UsageError
from graphopt.models.char_gpt.letters import LETTERS
from graphopt.models.classifier import seeded

Turn = tuple[Tensor, Tensor]
"""Cosine and sine of the angles, ``[batch or 1, 1, time, size]``."""


class Norm(nn.Module):
    """RMSNorm along the last axis, in primitive operators as published models write it."""

    def __init__(self, width: int, epsilon: float = 1e-5) -> None:
        super().__init__()
        self.weight, self.epsilon = nn.Parameter(torch.ones(width)), epsilon

    def forward(self, x: Tensor) -> Tensor:
        """Return ``weight * x / sqrt(mean(x^2) + epsilon)``."""
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.epsilon))


def rotated(x: Tensor, turn: Turn) -> Tensor:
    """Return the halves ``(a, b)`` of the last axis as ``(a cos - b sin, b cos + a sin)``."""
    low, high = x.chunk(2, -1)
    return x * turn[0] + torch.cat([-high, low], -1) * turn[1]


class Attention(nn.Module):
    """Causal attention in which ``repeats`` query heads share one head of keys and values.

    Query head ``h`` reads key head ``h // repeats``.
    """

    def __init__(self, width: int, heads: int, keys: int, size: int) -> None:
        super().__init__()
        self.heads, self.keys, self.size = heads, keys, size
        self.query = nn.Linear(width, heads * size, bias=False)
        self.key = nn.Linear(width, keys * size, bias=False)
        self.value = nn.Linear(width, keys * size, bias=False)
        self.output = nn.Linear(heads * size, width, bias=False)

    @property
    def repeats(self) -> int:
        """How many query heads share a head of keys."""
        return self.heads // self.keys

    def forward(
        self, x: Tensor, turn: Turn, seen: Tensor | None = None, past: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Attend from ``x`` ``[batch, time, width]`` to what was before and to itself.

        Args:
            x: What the norm gave.
            turn: Angles of the positions of ``x``.
            seen: bool ``[batch, 1, time, past + time]``: True where a query reads a key; None: each reads itself and
                what is before it in ``x``, and there is no past.
            past: Keys (rotated) and values, ``[batch, keys, past, size]`` each.

        Returns:
            ``[batch, time, width]``; keys and values, ``[batch, keys, past + time, size]`` each.
        """
        query, key, value = self._split(self.query(x)), self._split(self.key(x)), self._split(self.value(x))
        query, key = rotated(query, turn), rotated(key, turn)
        if past is not None:
            key, value = torch.cat([past[0], key], 2), torch.cat([past[1], value], 2)
        context = functional.scaled_dot_product_attention(
            query, self._repeated(key), self._repeated(value), seen, is_causal=seen is None
        )
        return self.output(context.transpose(1, 2).reshape(*x.shape[:2], self.heads * self.size)), key, value

    def _split(self, x: Tensor) -> Tensor:
        """``[batch, time, heads * size]`` to ``[batch, heads, time, size]``."""
        return x.view(x.shape[0], x.shape[1], x.shape[2] // self.size, self.size).transpose(1, 2)

    def _repeated(self, x: Tensor) -> Tensor:
        """One key head for each query head."""
        if self.repeats == 1:
            return x
        batch, keys, time, size = x.shape
        return x[:, :, None].expand(batch, keys, self.repeats, time, size).reshape(batch, self.heads, time, size)


class Feed(nn.Module):
    """``down(silu(gate(x)) * up(x))``."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.gate, self.up = nn.Linear(width, hidden, bias=False), nn.Linear(width, hidden, bias=False)
        self.down = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """``[batch, time, width]`` to the same."""
        return self.down(functional.silu(self.gate(x)) * self.up(x))


class Layer(nn.Module):
    """Attention and the feed-forward part, each behind a norm and around a sum.

    ``attention`` and its norm are None where every head was removed (``narrow.py``): such a layer has no cache.
    """

    norm1: Norm | None
    attention: Attention | None

    def __init__(self, width: int, heads: int, keys: int, size: int, hidden: int) -> None:
        super().__init__()
        self.norm1, self.attention = Norm(width), Attention(width, heads, keys, size)
        self.norm2, self.feed = Norm(width), Feed(width, hidden)


class CharGPT(nn.Module):
    """Ids to logits of the next id, with a cache of keys and values or without.

    Without (``net(ids)``) it is what is trained: all positions at once, logits alone come back. With
    (``net(ids, positions, *past)``) it continues: the same weights, the cache goes in and comes back longer, so that
    one graph fills it (a past of length 0) and extends it (one id at a time).

    Attributes:
        letters: What the ids stand for.
        layers: Of class ``Layer``.
    """

    frequencies: Tensor

    def __init__(
        self, letters: str, width: int, heads: int, keys: int, size: int, hidden: int, depth: int, base: float
    ) -> None:
        super().__init__()
        self.letters, tokens = letters, len(letters)
        self.embedding = nn.Embedding(tokens, width)
        self.layers = nn.ModuleList(Layer(width, heads, keys, size, hidden) for _ in range(depth))
        self.norm, self.head = Norm(width), nn.Linear(width, tokens, bias=False)
        self.register_buffer("frequencies", base ** (-torch.arange(0, size, 2).float() / size), persistent=False)
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.normal_(parameter, 0.0, parameter.shape[1] ** -0.5)
        nn.init.normal_(self.embedding.weight, 0.0, 0.05)

    def parts(self) -> list[Layer]:
        """Return the layers."""
        return [layer for layer in self.layers if isinstance(layer, Layer)]

    def attentions(self) -> list[Attention]:
        """Return the attentions that have a cache, in order."""
        return [layer.attention for layer in self.parts() if layer.attention is not None]

    def empty(self, batch: int, past: int = 0) -> tuple[Tensor, ...]:
        """Return a cache of zeros: key and value of each attention, ``[batch, keys, past, size]``."""
        like = self.head.weight
        return tuple(like.new_zeros(batch, one.keys, past, one.size) for one in self.attentions() for _ in range(2))

    def forward(
        self, ids: Tensor, positions: Tensor | None = None, *past: Tensor
    ) -> Tensor | tuple[Tensor, *tuple[Tensor, ...]]:
        """Predict what comes behind each id.

        Args:
            ids: int64 ``[batch, time]``.
            positions: int64 ``[batch, time]``, ``past, past + 1, …`` in each row; None: from 0, without a cache.
            past: Key and value of each attention, as ``empty`` lays them out or as they came back.

        Returns:
            Logits ``[batch, time, tokens]``; with positions, also key and value of each attention,
            ``[batch, keys, past + time, size]``.
        """
        x, cache, rest = self.embedding(ids), [], iter(past)
        seen = None
        if positions is None:
            turn = self._turn(torch.arange(ids.shape[1], device=ids.device)[None])
        else:
            turn = self._turn(positions)
            length = ids.shape[1] + (past[0].shape[2] if past else 0)
            seen = torch.arange(length, device=ids.device)[None, None, None] <= positions[:, None, :, None]
        for layer in self.parts():
            if layer.attention is not None and layer.norm1 is not None:
                before = None if positions is None else (next(rest), next(rest))
                added, key, value = layer.attention(layer.norm1(x), turn, seen, before)
                x, cache = x + added, [*cache, key, value]
            x = x + layer.feed(layer.norm2(x))
        logits = self.head(self.norm(x))
        return logits if positions is None else (logits, *cache)

    def _turn(self, positions: Tensor) -> Turn:
        angles = positions[:, None, :, None].to(self.frequencies.dtype) * self.frequencies
        angles = torch.cat([angles, angles], -1)
        return angles.cos(), angles.sin()


def new(
    seed: int = 0,
    *,
    letters: str = LETTERS,
    width: int = 128,
    heads: int = 8,
    keys: int = 4,
    size: int = 0,
    hidden: int = 384,
    depth: int = 4,
    base: float = 10_000.0,
) -> CharGPT:
    """Return a net with random weights, the same ones for the same seed.

    Args:
        seed: Of the weights.
        letters: What the ids stand for, each once.
        width: Of the residual stream.
        heads: Query heads of a layer.
        keys: Heads of keys and values of a layer; ``heads`` is a multiple of it.
        size: Of a head, even; 0: ``width / heads``.
        hidden: Units of a feed-forward part.
        depth: Layers.
        base: Of the rotary embedding's wavelengths.

    Raises:
        UsageError: Sizes that do not fit each other.
    """
    sizes = {
        "number of letters": len(letters),
        "width": width,
        "heads": heads,
        "keys": keys,
        "hidden": hidden,
        "depth": depth,
    }
    for name, value in sizes.items():
        if value < 1:
            raise UsageError(f"{name} is {value}", where="char_gpt", help="at least 1")
    if len(set(letters)) < len(letters):
        raise UsageError(f"letters that are there twice: {letters!r}", where="char_gpt", help="each once")
    if heads % keys:
        raise UsageError(f"{heads} heads cannot share {keys} heads of keys", where="char_gpt", help="a multiple of it")
    if not size and width % heads:
        raise UsageError(f"a width of {width} is not a multiple of {heads} heads", where="char_gpt", help="give a size")
    size = size or width // heads
    if size < 2 or size % 2:
        raise UsageError(f"heads of size {size} cannot be rotated in halves", where="char_gpt", help="an even size")
    return seeded(seed, lambda: CharGPT(letters, width, heads, keys, size, hidden, depth, base))
