"""A U-Net: two levels of encoder, skips by concatenation, one transposed convolution and one Resize on the way up."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tests.nets.cutting import Known, Unit, constants, cut, joined


def _conv(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU())


class UNet(nn.Module):
    """Takes (batch, 3, h, w), h and w multiples of 4, to (batch, classes, h, w)."""

    def __init__(self, width: int, classes: int = 5) -> None:
        super().__init__()
        self.enc1 = nn.Sequential(_conv(3, width), _conv(width, width))
        self.enc2 = nn.Sequential(_conv(width, 2 * width), _conv(2 * width, 2 * width))
        self.middle = nn.Sequential(_conv(2 * width, 4 * width), _conv(4 * width, 4 * width))
        self.up2 = nn.ConvTranspose2d(4 * width, 2 * width, 2, 2)
        self.dec2 = nn.Sequential(_conv(4 * width, 2 * width), _conv(2 * width, 2 * width))
        self.dec1 = nn.Sequential(_conv(3 * width, width), _conv(width, width))
        self.out = nn.Conv2d(width, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Per-pixel logits."""
        fine = self.enc1(x)
        coarse = self.enc2(nn.functional.max_pool2d(fine, 2))
        y = self.up2(self.middle(nn.functional.max_pool2d(coarse, 2)))
        y = self.dec2(torch.cat([y, coarse], 1))
        y = nn.functional.interpolate(y, scale_factor=2.0, mode="nearest")
        return self.out(self.dec1(torch.cat([y, fine], 1)))


def _two(pair: nn.Sequential, given: Known, *, hold: bool) -> tuple[nn.Sequential, Known]:
    """Two units in a row; ``hold`` says whether a padded convolution reads the result."""
    made, now = [], given
    for index, part in enumerate(pair):
        assert isinstance(part, nn.Sequential)
        unit = Unit(part[0], part[1], part[2])  # pyright: ignore[reportArgumentType]
        live, const = constants(unit, now)
        small, now = cut(unit, now, live | (const != 0) if hold or index == 0 else live)
        made.append(small)
    return nn.Sequential(*made), now


def twin(model: UNet) -> nn.Module:
    """Concatenations append the channels; every skip is read by a padded convolution, so nonzero constants are held."""
    small = UNet.__new__(UNet)
    nn.Module.__init__(small)
    small.enc1, fine = _two(model.enc1, Known.all(3), hold=True)
    small.enc2, coarse = _two(model.enc2, fine, hold=True)
    # A transposed convolution shows a constant input as a pattern of its taps: held, too.
    small.middle, deep = _two(model.middle, coarse, hold=True)
    up = Unit(model.up2)
    live, const = constants(up, deep)
    narrow_up, risen = cut(up, deep, live | (const != 0))
    small.up2 = narrow_up.layer  # pyright: ignore[reportAttributeAccessIssue]
    small.dec2, low = _two(model.dec2, joined(risen, coarse), hold=True)
    small.dec1, high = _two(model.dec1, joined(low, fine), hold=False)
    out, _ = cut(Unit(model.out), high, torch.ones(model.out.out_channels, dtype=torch.bool))
    small.out = out.layer  # pyright: ignore[reportAttributeAccessIssue]
    return small.eval()
