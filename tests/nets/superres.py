"""An ESPCN-like net for super-resolution: convolutions with tanh, and two pixel shuffles."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tests.nets.masking import half, mask_rows, randomise
from tests.nets.parts import conv_part


class SuperResolution(nn.Module):
    """Takes (batch, 3, h, w) to (batch, 3, 4h, 4w)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, width, 5, padding=2), nn.Conv2d(width, width, 3, padding=1)
        self.up = nn.Conv2d(width, 4 * width, 3, padding=1)
        self.third, self.last = nn.Conv2d(width, width, 3, padding=1), nn.Conv2d(width, 12, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Four times as many pixels along each side."""
        x = torch.tanh(self.second(torch.tanh(self.first(x))))
        x = torch.tanh(nn.functional.pixel_shuffle(self.up(x), 2))
        return nn.functional.pixel_shuffle(self.last(torch.tanh(self.third(x))), 2)


def masked(width: int, seed: int) -> SuperResolution:
    """Half of the filters with their biases; in front of a pixel shuffle all four filters of half of the channels."""
    numbers = torch.Generator().manual_seed(seed)
    model = SuperResolution(width)
    randomise(model, seed)
    for layer in (model.first, model.second, model.third):
        mask_rows(layer, half(width, numbers))
    mask_rows(model.up, half(width, numbers).repeat_interleave(4))
    return model.eval()


def twin(model: SuperResolution) -> nn.Module:
    """Dead filters go; tanh(0) is 0. The model is changed in place."""
    now: Tensor | None = None
    for name in ("first", "second", "up", "third", "last"):
        layer = getattr(model, name)
        rows = layer.weight.flatten(1).any(1).nonzero().flatten()
        setattr(model, name, conv_part(layer, rows=rows, columns=now))
        now = rows[::4] // 4 if name == "up" else rows
    return model.eval()
