"""A vision transformer: patches by a strided convolution, a class token in front, fused query, key and value."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.nets.masking import half, randomise
from tests.nets.parts import linear_part


class Layer(nn.Module):
    """Attention and a feed-forward part, each behind a norm and around a sum; masks on activations, or None."""

    head_mask: Tensor | None
    hidden_mask: Tensor | None

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.size = width // heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.inputs, self.output = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.first, self.second = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.register_buffer("head_mask", torch.ones(heads))
        self.register_buffer("hidden_mask", torch.ones(hidden))

    def forward(self, x: Tensor) -> Tensor:
        """(batch, time, width) to the same."""
        batch, time, _ = x.shape
        heads = self.output.in_features // self.size
        mixed = self.inputs(self.norm1(x)).reshape(batch, time, 3, heads, self.size)
        query, key, value = mixed.permute(2, 0, 3, 1, 4).unbind(0)
        context = torch.softmax(query @ key.transpose(2, 3) * self.size**-0.5, -1) @ value
        if self.head_mask is not None:
            context = context * self.head_mask.view(1, -1, 1, 1)
        x = x + self.output(context.transpose(1, 2).flatten(2))
        hidden = functional.gelu(self.first(self.norm2(x)))
        return x + self.second(hidden if self.hidden_mask is None else hidden * self.hidden_mask)


class Vit(nn.Module):
    """Takes (batch, 3, side, side) to logits (batch, 10)."""

    def __init__(self, side: int, patch: int, width: int, heads: int, hidden: int, layers: int) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, patch, patch)
        self.token = nn.Parameter(torch.zeros(1, 1, width))
        self.places = nn.Parameter(torch.zeros(1, 1 + (side // patch) ** 2, width))
        self.layers = nn.ModuleList(Layer(width, heads, hidden) for _ in range(layers))
        self.norm, self.linear = nn.LayerNorm(width), nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of the class token."""
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.places
        for layer in self.layers:
            x = layer(x)
        return self.linear(self.norm(x[:, 0]))


def masked(side: int, patch: int, width: int, heads: int, hidden: int, layers: int, seed: int) -> Vit:
    """Half of the heads and half of the hidden units of every layer, other ones in each."""
    numbers = torch.Generator().manual_seed(seed)
    model = Vit(side, patch, width, heads, hidden, layers)
    randomise(model, seed)
    with torch.no_grad():
        model.token.normal_(0.0, 0.5, generator=numbers)
        model.places.normal_(0.0, 0.3, generator=numbers)
        for layer in model.layers:
            assert isinstance(layer, Layer)
            for mask in (layer.head_mask, layer.hidden_mask):
                assert mask is not None
                mask[half(mask.numel(), numbers)] = 0.0
    return model.eval()


def zeros_only(model: Vit) -> Vit:
    """The form without masks: value rows, first rows and the columns that read them are zero."""
    for layer in model.layers:
        assert isinstance(layer, Layer) and layer.head_mask is not None and layer.hidden_mask is not None
        wide = layer.head_mask.repeat_interleave(layer.size)
        rows = torch.cat([torch.ones(2 * wide.numel()), wide])
        with torch.no_grad():
            layer.output.weight.mul_(wide)
            layer.second.weight.mul_(layer.hidden_mask)
            for part, mask in ((layer.inputs, rows), (layer.first, layer.hidden_mask)):
                part.weight.mul_(mask[:, None])
                part.bias.mul_(mask)
        layer.head_mask = layer.hidden_mask = None
    return model


def twin(model: Vit) -> nn.Module:
    """A head goes from all three parts of the product. The model is changed in place."""
    for layer in model.layers:
        assert isinstance(layer, Layer) and layer.head_mask is not None and layer.hidden_mask is not None
        heads, hidden = layer.head_mask.nonzero().flatten(), layer.hidden_mask.nonzero().flatten()
        wide = (heads[:, None] * layer.size + torch.arange(layer.size)).flatten()
        width = layer.output.in_features
        layer.inputs = linear_part(layer.inputs, rows=torch.cat([wide + part * width for part in range(3)]))
        layer.output = linear_part(layer.output, columns=wide)
        layer.first, layer.second = linear_part(layer.first, rows=hidden), linear_part(layer.second, columns=hidden)
        layer.head_mask = layer.hidden_mask = None
    return model.eval()
