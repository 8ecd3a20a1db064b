"""A tagger: embedding, bidirectional LSTM of two layers, a linear layer for every word."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tests.nets.masking import half, randomise
from tests.nets.parts import embedding_part, linear_part

_DIRECTIONS = ("", "_reverse")


class Tagger(nn.Module):
    """Takes ids, int64 (batch, time), to (batch, time, tags)."""

    word_mask: Tensor | None

    def __init__(self, tokens: int, width: int, units: int, tags: int = 10) -> None:
        super().__init__()
        self.words = nn.Embedding(tokens, width)
        self.memory = nn.LSTM(width, units, num_layers=2, bidirectional=True, batch_first=True)
        self.linear = nn.Linear(2 * units, tags)
        self.register_buffer("word_mask", torch.ones(width))

    def forward(self, ids: Tensor) -> Tensor:
        """Logits of every word."""
        x = self.words(ids)
        x = self.memory(x if self.word_mask is None else x * self.word_mask)[0]
        return self.linear(x)


def masked(tokens: int, width: int, units: int, seed: int) -> Tagger:
    """Half of the columns of the table, and half of the units, other ones in each direction.

    A unit is dead when all that its gates read is zero: its state stays zero.
    """
    numbers = torch.Generator().manual_seed(seed)
    model = Tagger(tokens, width, units)
    randomise(model, seed)
    with torch.no_grad():
        model.words.weight.normal_(0.0, 1.0, generator=numbers)
        for weight in model.memory.parameters():
            weight.normal_(0.0, weight.shape[-1] ** -0.5 if weight.dim() == 2 else 0.3, generator=numbers)
        assert model.word_mask is not None
        model.word_mask[half(width, numbers)] = 0.0
        for layer in range(2):
            for direction in _DIRECTIONS:
                dead = half(units, numbers).repeat(4)
                for part in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
                    getattr(model.memory, f"{part}_l{layer}{direction}")[dead] = 0.0
    return model.eval()


def zeros_only(model: Tagger) -> Tagger:
    """The mask is multiplied into the table."""
    assert model.word_mask is not None
    with torch.no_grad():
        model.words.weight.mul_(model.word_mask)
    model.word_mask = None
    return model


def twin(model: Tagger) -> nn.Module:
    """Dead columns and units go. The model is changed in place."""
    assert model.word_mask is not None
    now, memory = model.word_mask.nonzero().flatten(), model.memory
    model.words, model.word_mask = embedding_part(model.words, now), None
    small = nn.LSTM(now.numel(), memory.hidden_size // 2, num_layers=2, bidirectional=True, batch_first=True)
    for layer in range(2):
        after = []
        for number, direction in enumerate(_DIRECTIONS):
            name = f"_l{layer}{direction}"
            gates = getattr(memory, f"bias_ih{name}").reshape(4, -1)
            units = gates.any(0).nonzero().flatten()
            rows = (torch.arange(4)[:, None] * memory.hidden_size + units).flatten()
            with torch.no_grad():
                for part, columns in (("weight_ih", now), ("weight_hh", units)):
                    getattr(small, part + name).copy_(getattr(memory, part + name)[rows][:, columns])
                for part in ("bias_ih", "bias_hh"):
                    getattr(small, part + name).copy_(getattr(memory, part + name)[rows])
            after.append(units + number * memory.hidden_size)
        now = torch.cat(after)
    model.memory, model.linear = small, linear_part(model.linear, columns=now)
    return model.eval()
